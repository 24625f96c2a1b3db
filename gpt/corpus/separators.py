"""Where a text ends and the next one begins, within one file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from gpt.corpus.documents import AUTO, LARGEST, NONE, ReadOptions, end_of_part

END_OF_TEXT = "<|endoftext|>"
FORM_FEEDS = ("", ".txt", ".text")  # where a form feed ends a document; in source code it stands between sections
MAX_BLANKS = 16  # after a marker in its line


@dataclass(frozen=True)
class Separator:
    """What stands between documents: a pattern, as long as `longest` at most, and how it is called."""

    pattern: re.Pattern[str]
    longest: int
    called: str
    literal: str = ""
    """Which is in all that the pattern finds."""
    is_line: bool = False  # then it begins with the line end before it, and ends before the one after it


MARKER = Separator(
    re.compile(rf"\n{re.escape(END_OF_TEXT)}[ \t]{{0,{MAX_BLANKS}}}(?=\n)"),
    len(END_OF_TEXT) + MAX_BLANKS + 2,
    f"lines of {END_OF_TEXT}",
    END_OF_TEXT,
    True,
)
FORM_FEED = Separator(re.compile("\f"), 1, "form feeds", "\f")


def separators_of(how: ReadOptions, suffix: str) -> list[Separator]:
    """Return what may stand between the documents of a text; the first that is found there, does."""
    if how.separator == AUTO:
        return [MARKER, FORM_FEED] if suffix in FORM_FEEDS and how.range is None else [MARKER]
    literal = separator_text(how)
    if how.separator == NONE:
        return []
    return [Separator(re.compile(re.escape(literal)), len(literal), repr(how.separator), literal)]


def separator_text(how: ReadOptions) -> str:
    """Return the separator that was given, with what stands for a line's end and the like in it."""
    escaped = {"\\n": "\n", "\\t": "\t", "\\f": "\f", "\\r": "\r", "\\\\": "\\"}
    return re.sub(r"\\[ntfr\\]", lambda match: escaped[match[0]], how.separator).replace("\r\n", "\n")


def divided(blocks: Iterator[str], separators: list[Separator]) -> Iterator[tuple[str, Separator | None]]:
    """Yield the texts between separators, and by which they are divided; None where there is none.

    A text that is too long to stay one comes in parts.
    """
    has_lines = any(separator.is_line for separator in separators)
    rest = "\n" if has_lines else ""  # of the blocks, in which a separator may have begun; a line follows a line end
    lead = len(rest)  # of a text: characters that are none of it
    chosen, pieces, longest = None, [], max((separator.longest for separator in separators), default=0)
    for block in chain(blocks, [None]):
        rest += block if block is not None else "\n" if has_lines else ""
        chosen = chosen or next((each for each in separators if each.pattern.search(rest)), None)
        place = 0
        for match in chosen.pattern.finditer(rest) if chosen else ():
            pieces.append(rest[place + lead : match.start()])
            yield _joined(pieces), chosen
            place, lead = match.end(), int(has_lines and chosen is not FORM_FEED)
        cut = len(rest) - has_lines if block is None else max(place, len(rest) - longest)
        if place + lead <= cut:
            pieces.append(rest[place + lead : cut])
            place, lead = cut, 0
        rest = rest[place:]
        if sum(map(len, pieces)) > LARGEST:
            found = _joined(pieces)
            end = end_of_part(found)
            yield found[:end], chosen
            pieces.append(found[end:])
    del rest
    yield _joined(pieces), chosen


def _joined(pieces: list[str]) -> str:
    """Join a text, and keep it only once."""
    text = "".join(pieces)
    pieces.clear()
    return text
