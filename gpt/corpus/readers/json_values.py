"""JSON: an array, or values one after another, read value by value, since such files can be larger than the memory."""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from gpt.corpus.decoding import TextStream
from gpt.corpus.documents import Document, Notice, ReadOptions, Skipped
from gpt.corpus.readers.lines import MOST_MEMORY
from gpt.corpus.readers.records import ELSEWHERE, Record, documents_of, value_at
from gpt.corpus.separators import divided

BLANK = " \t\r\n"
LONGEST = 1 << 27  # bytes of a text in memory, after which no more is read for a value
NEAR_THE_END = 16  # characters: a fault there may be that the rest was not read yet


class _Text:
    """As much of a text as is needed, growing at its end; what was used is cut off at the front."""

    def __init__(self, blocks: Iterator[str]) -> None:
        self._blocks, self.text, self.place, self._is_over = blocks, "", 0, False

    def more(self, least: int = 1) -> bool:
        """Read on, so much at least; tell whether there was anything."""
        pieces, size = [self.text[self.place :]], 0
        for block in self._blocks:
            pieces.append(block)
            size += len(block)
            if size >= least:
                break
        self.text, self.place = "".join(pieces), 0
        return size > 0

    def next_character(self) -> str:
        """Pass over blanks, and return the character after them without passing it; '' at the end."""
        while True:
            while self.text[self.place : self.place + 1] in tuple(BLANK):
                self.place += 1
            if self.place < len(self.text):
                return self.text[self.place]
            if not self.more():
                return ""

    def value(self) -> object:
        """Return the JSON value that begins here, and pass it. Raises ValueError if there is none."""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.place)
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - NEAR_THE_END
                if is_cut and sys.getsizeof(self.text) > LONGEST:
                    raise ValueError(
                        f"takes more than {MOST_MEMORY / 1e9:.1f} GB of memory to read; {ELSEWHERE}"
                    ) from None
                if is_cut and self.more(len(self.text) - self.place):
                    continue
                raise
            size = end - self.place
            if end < len(self.text) or not isinstance(value, int | float) or not self.more():
                self.place += size  # `more` cuts the text off at the place
                return value


def json_values(stream: io.BufferedReader, name: str, how: ReadOptions) -> Iterator[Document | Skipped | Notice]:
    """Yield the documents of a JSON file.

    In an array, or where values stand one after another, each is one: an object by its field, or a string as it is. A
    file that is a single object and has no such field is a text, in which the braces are learned.
    """
    source = TextStream(stream, name, how)
    kept: list[str] | None = []  # all that was read, until it is clear that it holds records

    def blocks() -> Iterator[str]:
        for block in source.blocks():
            if kept is not None:
                kept.append(block)
            yield block

    text = _Text(blocks())
    first = text.next_character()
    if first == "[":
        kept = None
        text.place += 1
        yield from _judged(documents_of(_array(text, name), name, "JSON", how), source)
        return
    try:
        value = text.value()
        is_alone = not text.next_character()
    except ValueError:
        value, is_alone = None, True
    if not is_alone and isinstance(value, dict):
        kept = None
        yield from _judged(documents_of(_values(value, text, name), name, "JSON", how), source)
    elif isinstance(value_at(value, how.field), str):
        yield from _judged(documents_of(iter([Record(name, value)]), name, "JSON", how), source)
    else:
        del text
        parts = divided(chain(_drained(kept), source.blocks()), [])
        for number, (part, _) in enumerate(parts, 1):
            yield source.document(name if number == 1 else f"{name}, part {number}", part, is_whole=number == 1)
            del part
        yield Notice("JSON as text", f"{name}: taken as it stands; the braces are learned with the text", warns=True)


def _drained(blocks: list[str]) -> Iterator[str]:
    blocks.reverse()
    while blocks:
        yield blocks.pop()


def _judged(found: Iterator[Document | Skipped], source: TextStream) -> Iterator[Document | Skipped]:
    """Leave documents out for what was bad in them, or say how much it was."""
    for each in found:
        if isinstance(each, Document):
            judged = source.document(each.name, each.text, is_whole=False)
            if each.note and isinstance(judged, Document):
                judged = replace(judged, note=each.note)
            yield judged
        else:
            yield each


def _array(text: _Text, name: str) -> Iterator[Record]:
    number = 0
    while (character := text.next_character()) != "]":
        number += 1
        label = f"{name}, entry {number}"
        if number > 1:
            if character != ",":
                yield _fault(
                    label, text, "an array goes on with a comma" if character else "cut off, its end is missing"
                )
                return
            text.place += 1
            text.next_character()
        try:
            value = text.value()
        except ValueError as error:
            yield _fault(label, text, _reason(error))
            return
        yield Record(label, value)
        del value
    text.place += 1
    if text.next_character():
        yield Record(f"{name}, after the array", None, "there is more after its end, which is not read")


def _reason(error: ValueError) -> str:
    return f"not JSON, or cut off: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)


def _fault(label: str, text: _Text, reason: str) -> Record:
    return Record(f"{label} and what follows", None, f"{reason}: {text.text[text.place : text.place + 20]!r}")


def _values(first: object, text: _Text, name: str) -> Iterator[Record]:
    yield Record(f"{name}, entry 1", first)
    number = 1
    while text.next_character():
        number += 1
        label = f"{name}, entry {number}"
        try:
            yield Record(label, text.value())
        except ValueError as error:
            yield _fault(label, text, _reason(error))
            return
