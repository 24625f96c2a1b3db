"""What looks like a secret in a text, or like an e-mail address. A likely one is named by kind and place, never shown.

The shapes are those that the keys' issuers document; what is made up for an example has the same one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Each begins with fixed letters, so that a search is quick; a letter or digit before it makes it part of another word.
SHAPES = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----"),
    "AWS access key": re.compile(r"A(?:KIA|SIA)[0-9A-Z]{16}(?![0-9A-Za-z])"),
    "GitHub token": re.compile(r"g(?:h[pousr]_[0-9A-Za-z]{36}|ithub_pat_[0-9A-Za-z_]{50})"),
    "Slack token": re.compile(r"xox[abeoprs]-[0-9A-Za-z-]{10}"),
    "Google API key": re.compile(r"AIza[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])"),
    "JSON Web Token": re.compile(r"eyJ[0-9A-Za-z_-]{8,512}+\.eyJ[0-9A-Za-z_-]{8,4096}+\.[0-9A-Za-z_-]{8}"),
    "OpenAI key": re.compile(r"sk-(?=[A-Za-z_-]{0,60}[0-9])[0-9A-Za-z_-]{20}"),
}
WORD = re.compile("password|passwd|secret|api[_-]?key|access[_-]?token")  # in small letters
VALUE = re.compile(r"""[A-Za-z0-9_]{0,20}["']?[ \t]{0,8}[:=][ \t]{0,8}(["'])[^"'\s]{6,200}\1""")
ADDRESS = re.compile(r"(?<=[0-9A-Za-z_.%+-])@(?:[0-9A-Za-z-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![0-9A-Za-z-])")
PASSWORD = "password"


@dataclass(frozen=True)
class Secret:
    """A likely secret: what it looks like, and in which line of its document it begins, from 1."""

    kind: str
    line: int


def secrets(text: str) -> Iterator[Secret]:
    """Yield the likely secrets of a text, kind by kind."""
    for kind, shape in SHAPES.items():
        for match in shape.finditer(text):
            if match.start() == 0 or not text[match.start() - 1].isalnum():
                yield Secret(kind, _line(text, match.start()))
    end = 0
    small = text.lower() if text.isascii() else text.translate(_SMALL)  # as long as the text itself
    for match in WORD.finditer(small):
        if match.start() >= end and (value := VALUE.match(text, match.end())):
            end = value.end()
            yield Secret(PASSWORD, _line(text, match.start()))


def count_addresses(text: str) -> int:
    """Count the e-mail addresses of a text."""
    return sum(1 for _ in ADDRESS.finditer(text)) if "@" in text else 0


_SMALL = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
