"""A text as tokens: in colors on a terminal, a line for each in a pipe, or as JSON."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from gpt.terminal import printable
from gpt.text.encoding import Encoder
from gpt.text.tokenizer import StreamDecoder

COLORS = ("black on bright_green", "black on bright_yellow", "black on bright_cyan", "black on bright_magenta")
ESCAPED = " italic"  # what is shown in place of bytes that are no characters


@dataclass(frozen=True)
class ShownToken:
    """One token of a text."""

    id: int
    bytes: bytes
    text: str
    """What it completes: a character whose bytes span tokens comes with the last of them. All together are the text."""


def tokens_of(encoder: Encoder, text: str) -> Iterator[ShownToken]:
    """Yield the tokens of a text. Raise InputError for a character that the vocabulary lacks."""
    ids = encoder.encode(text)
    decoder = StreamDecoder(encoder.token_bytes)
    for id in ids:
        yield ShownToken(id, encoder.token_bytes(id), decoder.push(id))


@dataclass
class Count:
    """How many tokens and bytes went by."""

    tokens: int = 0
    bytes: int = 0

    def of(self, tokens: Iterable[ShownToken]) -> Iterator[ShownToken]:
        """Pass tokens on, and count them."""
        for token in tokens:
            self.tokens, self.bytes = self.tokens + 1, self.bytes + len(token.bytes)
            yield token

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(1, self.tokens)

    def __str__(self) -> str:
        tokens, byte = (f"{n:,} {unit}{'s' * (n != 1)}" for n, unit in ((self.tokens, "token"), (self.bytes, "byte")))
        return f"{tokens}, {byte}, {self.bytes_per_token:.2f} bytes per token"


def has_colors(console: Console) -> bool:
    """Tell whether tokens can be told apart by their background there."""
    return console.is_terminal and console.color_system is not None and not console.no_color


def print_colored(tokens: Iterable[ShownToken], console: Console) -> None:
    """Print a text whose tokens have backgrounds by turns; line ends and tabs are seen, and lines stay lines."""
    newline = True
    for number, token in enumerate(tokens):
        shown, escaped = _shown(token.bytes)
        style = COLORS[number % len(COLORS)] + (ESCAPED if escaped else "")
        console.print(Text(shown, style), end="", soft_wrap=True)
        newline = shown.endswith("\n")
    if not newline:
        console.print()


def _shown(token: bytes) -> tuple[str, bool]:
    r"""Spell a token so that all of it is seen, and tell whether bytes of it are escaped, as \xf0, for they are not
    whole characters, or are characters that take no room."""
    try:
        text, escaped = token.decode(), False
    except UnicodeDecodeError:
        text, escaped = token.decode(errors="backslashreplace"), True
    text = printable(text).replace("\t", "\u2409").replace("\n", "\u240a\n")
    if not cell_len(text.rstrip("\n")):
        text, escaped = text.encode("unicode_escape").decode(), True
    return text, escaped


def print_lines(tokens: Iterable[ShownToken]) -> None:
    """Print a line for each token: its id, its bytes and the text that it completes, as Python spells them."""
    for token in tokens:
        print(token.id, token.bytes, repr(token.text), sep="\t")


def print_json(tokens: Iterable[ShownToken], name: str, count: Count) -> None:
    """Print one object, its tokens in pieces as they come; bytes are numbers, as OpenAI's API has them."""
    print(f'{{"tokenizer": {json.dumps(name)}, "tokens": [', end="")
    for number, token in enumerate(count.of(tokens)):
        entry = {"id": token.id, "bytes": list(token.bytes), "text": token.text}
        print(", " if number else "", json.dumps(entry), sep="", end="")
    figures = {"count": count.tokens, "bytes": count.bytes, "bytes_per_token": count.bytes_per_token}
    print("], " + json.dumps(figures).removeprefix("{"))
