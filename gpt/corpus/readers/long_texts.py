r"""A line of JSON that memory does not hold: its long texts lie in a nameless file, and are read in parts.

1. The bytes of the line are passed over once, string by string. A long string goes to the file; in the rest of the
   line, which stays in memory, a mark stands in its place.
2. The rest is parsed as any other line. Where a mark is what stands in the field, its string is the text.
3. That is freed of JSON's escapes some megabytes at a time, which end where no escape does: not within \u00e9, nor
   between the two of a pair of surrogates.
"""

import json
import re
import tempfile
import uuid
from collections.abc import Iterator
from typing import IO, NamedTuple

from gpt.corpus.decoding import Damage
from gpt.corpus.documents import LARGEST, end_of_part
from gpt.errors import InputError

LONG = 1 << 20  # bytes of a string, from where on it is not kept in memory
MOST_LEFT = 1 << 26  # bytes of a line, without its long strings
LONGEST_ESCAPE = 16  # bytes, and more
PIECE = 1 << 22  # bytes that are freed of escapes at once
STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)  # as far as it is there, without the quote at its end
HIGH, LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # of a pair of surrogates
OTHER = rb"\\u(?![dD][%b])[0-9a-fA-F]{4}"
WHOLE = re.compile(
    rb"(?:[^\\]++|\\[^u]|%b|%b(?:%b|(?=[^\\]|\\[^u]|%b)))*+" % (OTHER % b"89abAB", HIGH, LOW, OTHER % b"c-fC-F"),
    re.DOTALL,
)


class LongText(NamedTuple):
    """A string of JSON: bytes of the file that all long ones of a line are in."""

    file: IO[bytes]
    start: int
    stop: int


def shortened(chunks: Iterator[bytes]) -> tuple[bytes, dict[str, LongText]]:
    """Take a line of JSON and return what is left of it with a mark for each long string, and the strings by mark.

    There are none where too much is left, without them. Raises InputError where there is no room for the strings.
    """
    rest, texts, token, held = bytearray(), dict[str, LongText](), uuid.uuid4().hex, b""
    file, start, string = tempfile.SpooledTemporaryFile(LONG), 0, None
    for chunk in chunks:
        held, place = held + chunk, 0
        while place < len(held) and len(rest) <= MOST_LEFT:
            if string is None:
                end = held.find(b'"', place) + 1 or len(held)
                rest += held[place:end]
                string = bytearray() if held[end - 1 : end] == b'"' else None
                place = end
                continue
            end = _end(STRING, held, place)
            _add(memoryview(held)[place:end], string, file, start)
            place = end
            if held[end : end + 1] != b'"':  # the chunk ends, perhaps after a backslash
                break
            if file.tell() > start:
                mark = f"{token} {len(texts)}"
                texts[mark], start, string = LongText(file, start, file.tell()), file.tell(), mark.encode()
            rest += string + b'"'
            place, string = end + 1, None
        held = held[place:]
        if len(rest) > MOST_LEFT:
            return b"", {}
    # One that never ends is no JSON.
    return bytes(rest), texts if string is None else texts | {token: LongText(file, start, file.tell())}


def _add(part: memoryview, string: bytearray, file: IO[bytes], start: int) -> None:
    """Add a part to a string: in memory, or, where it is long, in the file from `start` on."""
    if file.tell() == start and len(string) + len(part) <= LONG:
        string += part
        return
    try:
        file.write(string)
        file.write(part)
        file.flush()
    except OSError as error:
        advice = "to read a line that is longer than memory takes room there; name another place by TMPDIR"
        raise InputError(f"{tempfile.gettempdir()}: {error.strerror}; {advice}") from None
    string.clear()


def _end(pattern: re.Pattern[bytes], content: bytes, place: int = 0) -> int:
    found = pattern.match(content, place)
    assert found  # if only of nothing
    return found.end()


def parts_of(string: LongText) -> Iterator[tuple[str, int]]:
    """Yield what a string of JSON says in parts, cut as those of a long document, and how many bytes of each are bad.

    Raises ValueError where it is no JSON.
    """
    held, bad = "", 0
    for text, bad_here in _pieces(string):
        held, bad = held + text, bad + bad_here
        while len(held) > LARGEST:
            part = held[: end_of_part(held[:LARGEST])]
            held = held[len(part) :]
            yield part, part.count("\ufffd") if bad else 0
            del part
    if held:
        yield held, held.count("\ufffd") if bad else 0


def _pieces(string: LongText) -> Iterator[tuple[str, int]]:
    held, carriage_return, place = b"", "", string.start
    while True:
        string.file.seek(place)
        chunk = string.file.read(min(PIECE, string.stop - place))
        place += len(chunk)
        held += chunk
        damage = Damage()
        text, used = damage.of(held[: _end(WHOLE, held)] if chunk else held, final=not chunk)
        if chunk and len(held) - used > LONGEST_ESCAPE:
            raise ValueError("not JSON: an escape that is none")
        held = held[used:]
        text = carriage_return + json.loads(f'"{text}"')
        carriage_return = "\r" if chunk and text.endswith("\r") else ""
        yield text.removesuffix(carriage_return).replace("\r\n", "\n"), damage.bad
        if not chunk:
            return
