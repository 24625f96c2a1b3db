"""Which encoding a text may have that is not UTF-8: a proposal, by charset-normalizer, for whoever knows the text."""

import codecs
import re
from dataclasses import replace
from fnmatch import fnmatchcase

from gpt.corpus.documents import ReadOptions

CONVERT = "convert it with iconv -f ENCODING -t utf-8 (latin1, shift_jis, gb18030, …)"
BEFORE, AFTER = 4_000, 16_000  # bytes around the first that is no UTF-8, which are looked at
# The usual ones, the likeliest first, where a text cannot tell.
CANDIDATES = ["cp1252", "cp932", "gb18030", "big5", "cp949", "euc_jp", "cp1251", "cp1250", "koi8_r", "cp1254"]
CANDIDATES += ["cp1253", "cp1255", "cp1256", "iso8859_2", "mac_roman", "cp850", "cp866"]
ALIKE = 0.04  # as much may one be worse than the best one, and is as likely
MAX_OTHERS = 2  # that are named beside the likeliest
LENIENT = 0.6  # of what may look odd: for odd words, such as of lists, or of several languages
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f]")  # characters that no text has
SHOWN = 16  # characters around the byte, so that one sees whether the proposal is right


def parse_encodings(given: str) -> list[tuple[str, str]]:
    """Return the patterns of names, and the encoding of what fits each: of 'japan/*=cp932,cp1252' two, '*' the last."""
    pairs = [each.strip().rpartition("=") for each in given.split(",")]
    return [(pattern if equals else "*", encoding) for pattern, equals, encoding in pairs]


def fits(name: str, pattern: str) -> bool:
    """Tell whether a file's name, or the end of it, is as a pattern has it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*/{pattern}")


def for_file(how: ReadOptions, name: str) -> ReadOptions:
    """Return how a file is read: of the encodings that were given, with the first that is for its name."""
    pairs = parse_encodings(how.encoding) if how.encoding else []
    return replace(how, encoding=next((encoding for pattern, encoding in pairs if fits(name, pattern)), None))


def advice(content: bytes, start: int) -> str:
    """Propose an encoding for a text whose byte at `start` is no UTF-8, and show what it would be."""
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return f"{CONVERT}; pip install 'gpt[data]' to have its encoding proposed"
    first = content.rfind(b"\n", max(0, start - BEFORE), start) + 1 or max(0, start - BEFORE)
    last = content.rfind(b"\n", start, start + AFTER) + 1 or start + AFTER
    sample = content[first:last]
    found = from_bytes(sample, cp_isolation=CANDIDATES)
    matches = list(found or from_bytes(sample, cp_isolation=CANDIDATES, threshold=LENIENT))
    texts = {name: sample.decode(name) for name in CANDIDATES if _can_be(sample, name, matches)}
    if not texts:
        return f"{CONVERT}, or name it by `encoding`"
    name, text = next(iter(texts.items()))
    others = [other for other in texts if texts[other] != text][:MAX_OTHERS]
    place = len(sample[: start - first].decode(name, "ignore"))
    shown = " ".join(text[max(0, place - SHOWN) : place + SHOWN].split())
    rest = f" (or perhaps {', '.join(others)})" if others else ""
    return f"looks like {_known_as(name)}, in which it has {shown!r}: give it by `encoding` {name}{rest}"


def _can_be(sample: bytes, name: str, matches: list) -> bool:
    """Tell whether an encoding is about as likely as the best one, or gives the same text as one that is."""
    alike = [m for m in matches if m.chaos <= matches[0].chaos + ALIKE and m.coherence >= matches[0].coherence - ALIKE]
    return any(name == match.encoding or name in match.could_be_from_charset for match in alike) and _decodes(
        sample, name
    )


def _decodes(sample: bytes, name: str) -> bool:
    try:
        sample.decode(name)
    except UnicodeDecodeError:
        return False
    return True


def _known_as(name: str) -> str:
    return re.sub(r"^cp(125\d)$", r"windows-\1", name)


def wide_guess(content: bytes) -> str:
    """Propose UTF-16 for a text without a byte-order mark in which every second byte is zero; '' for anything else."""
    sample = content[: min(len(content), AFTER) // 2 * 2]
    for odd, name in enumerate(("utf-16-be", "utf-16-le")):
        zeros, others = sample[odd::2].count(0), sample[1 - odd :: 2].count(0)
        if zeros > 0.7 * len(sample) / 2 and not others:
            text = codecs.decode(sample, name, "replace")
            if CONTROLS.search(text):  # as in numbers of two bytes, which are no text
                return ""
            shown = " ".join(text[:SHOWN].split())
            return f"looks like {name} without a mark, in which it begins {shown!r}: give it by `encoding` {name}"
    return ""


def is_encoding(name: str) -> bool:
    """Tell whether Python knows an encoding of texts by this name."""
    try:
        codecs.getincrementaldecoder(name)("strict")
        "".encode(name)  # which encodings of other things than texts refuse
    except (LookupError, ValueError, TypeError):
        return False
    return True


def declared_by_html(head: bytes) -> str | None:
    """Return the encoding that an HTML page says it has, if Python knows it."""
    found = re.search(rb"<meta[^>]{0,200}charset=[\"']?\s*([\w.:-]{1,40})", head[:4096], re.IGNORECASE)
    name = found[1].decode("ascii") if found else ""
    return name if is_encoding(name) else None
