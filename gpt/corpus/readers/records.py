"""Documents of files that hold records, such as JSON Lines: one field of each is a text."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from gpt.corpus.documents import Document, Reading, Refused, Skipped

MAX_FIELDS = 20  # that are named
WORDS = {"JSON Lines": "line", "JSON": "entry", "CSV": "row", "Parquet": "row"}  # what their records are called
DEEPEST_NAMED = 4  # objects within each other whose fields are named


class Record(NamedTuple):
    """An entry of a file: what it holds, or the `fault` for which it cannot be read; `note` as in a Document."""

    name: str
    value: Any
    fault: str = ""
    note: str = ""


def documents_of(records: Iterator[Record], name: str, format: str, how: Reading) -> Iterator[Document | Skipped]:
    """Yield the text in each record, and what is left out.

    Raises Refused for a file without any text in the field, or with fields of which none is named; records before the
    first text wait until there is one.
    """
    before: list[Skipped] | None = []
    fields: list[str] | None = None
    word = WORDS[format]
    for record in records:
        found = _document(record, how.field, format)
        if before is None:
            yield found
            del found, record  # so that a large one is gone before the next one is there
            continue
        if not record.fault and fields is None:
            fields = fields_of(record.value)
        if isinstance(found, Document):
            yield from [*before, found]
            before = None
        elif how.field is None and fields is not None:
            raise Refused(format, f"`field` must name the field that holds the text; {known(fields, word)}")
        else:
            before.append(found)
    if before is None:
        return
    if fields is None:
        first = f"; the first is left out: {before[0].reason}" if before else ""
        yield Skipped(name, f"has no {word} of {format.removesuffix(' Lines')}{first}")
    elif has_field(fields, how.field or ""):
        raise Refused(format, f"the field {how.field!r} holds no text in any {word}; {known(fields, word)}")
    else:
        raise Refused(format, f"no {word} has a field {how.field!r}; {known(fields, word)}")


def _document(record: Record, field: str | None, format: str) -> Document | Skipped:
    if record.fault:
        return Skipped(record.name, record.fault)
    is_text = isinstance(record.value, str) and format == "JSON"  # an array of strings has no fields
    text = record.value if is_text else value_at(record.value, field)
    if not isinstance(text, str):
        return Skipped(record.name, f"has no text in the field {field!r}")
    if not text or text.isspace():
        return Skipped(record.name, "empty")
    return Document(record.name, clean(text), record.note)


def clean(text: str) -> str:
    """Return a text with \\n as its line ends, and without half surrogate pairs: JSON can spell them, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text.replace("\r\n", "\n") if "\r" in text else text


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


def json_fault(error: ValueError, text: str) -> str:
    """Say why a text cannot be read as JSON."""
    if text.count("\0") and not text.strip("\0 \r\n\t"):
        return "holds nothing but zero bytes, as a loss of power can leave them"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    if error.msg == "Extra data" and text[error.pos : error.pos + 1] in ("{", "["):
        return f"holds more than one object, the second from character {error.pos + 1}; give each a line of its own"
    return f"not JSON: {error.msg} at character {error.pos + 1}"
