"""Documents of files that hold records, such as JSON Lines: one field of each is a text."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from gpt.corpus.decoding import BAD_SHARE_OF_ONE, bad_bytes, lost, replaced, said
from gpt.corpus.documents import Document, ReadOptions, Refused, Skipped
from gpt.corpus.readers.long_texts import LongText, parts_of

MOST_WAITING = 1000  # records that wait for the first text
SURROGATE = re.compile("[\ud800-\udfff]")
MAX_FIELDS = 20  # that are named
WORDS = {"JSON Lines": "line", "JSON": "entry", "CSV": "row", "Parquet": "row"}  # what their records are called
DEEPEST_NAMED = 4  # objects within each other whose fields are named


class Record(NamedTuple):
    """An entry of a file: what it holds, or the `fault` for which it cannot be read; `note` as in a Document.

    Of texts that memory does not hold, the marks that stand for them in the value, and what they are (long_texts.py).
    """

    name: str
    value: Any
    fault: str = ""
    note: str = ""
    long: Mapping[str, LongText] = MappingProxyType({})


def documents_of(records: Iterator[Record], name: str, format: str, how: ReadOptions) -> Iterator[Document | Skipped]:
    """Yield the text in each record, and what is left out.

    Raises Refused for a file without any text in the field, or with fields of which none is named; the first records
    wait until there is a text.
    """
    waiting, first, has_text = list[Skipped](), "", False
    fields: list[str] | None = None
    word = WORDS[format]
    for record in records:
        found, rest = _document(record, how, format)
        if has_text:
            yield found
            yield from rest
            del found, record  # so that a large one is gone before the next one is there
            continue
        if not record.fault and fields is None:
            fields = fields_of(record.value)
        has_text = isinstance(found, Document)
        if has_text or len(waiting) == MOST_WAITING:
            yield from [*waiting, found]
            yield from rest
            waiting.clear()
        elif how.field is None and fields is not None:
            raise Refused(format, f"`field` must name the field that holds the text; {known(fields, word)}")
        else:
            waiting.append(found)
            first = first or f"; the first is left out: {found.reason} ({found.name})"
        del found, record
    if has_text:
        return
    if fields is None:
        yield Skipped(name, f"has no {word} of {format.removesuffix(' Lines')}{first}")
    elif has_field(fields, how.field or ""):
        raise Refused(format, f"the field {how.field!r} holds no text in any {word}; {known(fields, word)}")
    else:
        raise Refused(format, f"no {word} has a field {how.field!r}; {known(fields, word)}")


def _document(record: Record, how: ReadOptions, format: str) -> tuple[Document | Skipped, Iterable[Document | Skipped]]:
    """Return the text in a record, and what more of it there is where it is too long to be one document."""
    if record.fault:
        return Skipped(record.name, record.fault), ()
    is_text = isinstance(record.value, str) and format == "JSON"  # an array of strings has no fields
    text = record.value if is_text else value_at(record.value, how.field)
    if not isinstance(text, str):
        reason = "is no text" if how.field is None else f"has no text in the field {how.field!r}"
        return Skipped(record.name, reason), ()
    if text in record.long:
        parts = _long(record.name, record.long[text], how)
        return next(parts), parts
    if not text or text.isspace():
        return Skipped(record.name, "empty"), ()
    return spelled(Document(record.name, text.replace("\r\n", "\n"), record.note), how), ()


def _long(record: str, string: LongText, how: ReadOptions) -> Iterator[Document | Skipped]:
    """Yield the parts of a text that memory does not hold. Raises InputError for bad bytes where these are an error."""
    name, parts = record, parts_of(string)
    for number in itertools.count(2):
        try:
            text, bad = next(parts, ("", 0))
        except ValueError as error:
            yield Skipped(f"{name} and what follows", f"not JSON: {error}")
            return
        if not text:
            return
        if bad > max(1, BAD_SHARE_OF_ONE * len(text)):
            yield Skipped(name, f"{said(bad)} in it")
        elif bad and how.bad_bytes != "replace":
            yield Skipped(name, bad_bytes(how, name, bad, None))
        elif text.isspace():
            yield Skipped(name, "empty")
        else:
            yield spelled(Document(name, text, replaced(bad)), how)
        name = f"{record}, part {number}"


def spelled(document: Document, how: ReadOptions) -> Document | Skipped:
    """Treat lone surrogates, which JSON can spell and UTF-8 cannot, as bad bytes: replace each by U+FFFD, and say so.

    The text stays as long as it is. Raises InputError where they are an error.
    """
    with suppress(UnicodeEncodeError):
        document.text.encode()  # which looks for them in a tenth of the time that a pattern takes
        return document
    text, count = SURROGATE.subn("\ufffd", document.text)
    reason = f"{count:,} lone surrogate{'s' * (count > 1)}, which UTF-8 cannot spell"
    if how.bad_bytes != "replace":
        return Skipped(document.name, lost(how, document.name, reason))
    note = "; ".join(filter(None, (document.note, f"{reason}: replaced by U+FFFD")))
    return replace(document, text=text, note=note)


# ---- fields ----


def value_at(entry: object, path: str | None) -> Any:
    """Return what stands at a path in nested objects, such as data.content; None if nothing does.

    A key may itself hold dots: the longest beginning of the path that is one is taken first.
    """
    if not isinstance(entry, dict) or path is None:
        return None
    if path in entry:
        return entry[path]
    dots = [place for place, character in enumerate(path) if character == "."]
    for place in reversed(dots):
        if path[:place] in entry and (value := value_at(entry[path[:place]], path[place + 1 :])) is not None:
            return value
    return None


def fields_of(entry: object, depth: int = 1) -> list[str]:
    """List the fields of a record, those of objects in it by their paths; none if it has none."""
    if not isinstance(entry, dict):
        return []
    names = []
    for key, value in entry.items():
        inner = fields_of(value, depth + 1) if depth < DEEPEST_NAMED else []
        names += [f"{key}.{name}" for name in inner] or [str(key)]
    return names


def has_field(fields: list[str], field: str) -> bool:
    return any(name == field or name.startswith(f"{field}.") for name in fields)


def known(fields: list[str], word: str) -> str:
    """Say which fields there are."""
    more = ", …" if len(fields) > MAX_FIELDS else ""
    return f"its fields are: {', '.join(fields[:MAX_FIELDS]) or f'none: its first {word} is no object'}{more}"


# ---- faults ----

ELSEWHERE = "put its text into a file of its own, which is read in parts, or into several records"  # what is too long


def json_fault(error: ValueError, text: str) -> str:
    """Say why a text cannot be read as JSON."""
    if text.count("\0") and not text.strip("\0 \r\n\t"):
        return "holds nothing but zero bytes, as a loss of power can leave them"
    if not isinstance(error, json.JSONDecodeError):  # of a number, with advice for programmers
        return str(error).partition("; use sys.")[0]
    if error.msg == "Extra data" and text[error.pos : error.pos + 1] in ("{", "["):
        second = f"holds more than one object, the second from character {error.pos + 1}"
        return f"{second}; give each a line of its own: jq -c . FILE"
    if error.msg == "Extra data":
        return f"goes on after its value, from character {error.pos + 1}: {text[error.pos : error.pos + 20].strip()!r}"
    spread = "; if values are spread over lines, call the file .json" if error.pos >= len(text.rstrip()) else ""
    return f"not JSON: {error.msg} at character {error.pos + 1}{spread}"
