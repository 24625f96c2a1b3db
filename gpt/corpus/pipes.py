"""Of which format is what has no name that says so: a pipe, and JSON that is called a text."""

import json
import re

from gpt.corpus.decoding import SAMPLE, mark_of
from gpt.corpus.readers.tables import DELIMITERS


def suffix_of_pipe(head: bytes, field: str | None) -> str:
    """Tell by the beginning of a pipe what its file's suffix would be; '' for plain text."""
    if head.startswith(b"PAR1"):
        return ".parquet"
    begin = _begin(head)
    if re.match(r'\[\s*[\[{"\]]', begin):
        return ".json"
    if re.match(r'\{\s*["}]', begin):
        return ".jsonl"
    columns = {column.strip('" ') for column in re.split(f"[{DELIMITERS}]", begin.partition("\n")[0].rstrip("\r"))}
    return ".csv" if field in columns else ""


def suffix_of_json(head: bytes) -> str:
    """Tell what the suffix of a file would be that begins like this and holds JSON; '' for all others.

    What merely begins with a bracket is none: the first value must be JSON, and what follows it must not be prose.
    """
    begin = _begin(head)
    suffix = suffix_of_pipe(head, None) if begin[:1] in ("[", "{") else ""
    return suffix if suffix and _is_json(begin, is_cut=len(head) >= SAMPLE) else ""


def _is_json(begin: str, is_cut: bool) -> bool:
    """Tell whether JSON is in a text; of one that is cut off, and of a damaged array, the first entry is looked at."""
    parse = json.JSONDecoder().raw_decode
    try:
        rest = begin[parse(begin)[1] :].lstrip()
        return rest[:1] in ("", begin[0])  # the next value
    except (ValueError, RecursionError):
        first = begin[1:].lstrip() if begin[0] == "[" else begin
    try:
        rest = first[parse(first)[1] :]
        return (is_cut or first[0] in "[{") and re.match(rf"\s*,\s*\{first[0]}", rest) is not None
    except (ValueError, RecursionError):
        return is_cut and re.match(r'\{\s*"[^"\n]*"\s*:\s*["\[{\dtfn-]', first) is not None


def _begin(head: bytes) -> str:
    mark, encoding = mark_of(head)
    return head[len(mark) :].decode(encoding or "utf-8", "replace").lstrip()
