"""Of which format a pipe is, which has no name that says so."""

import re

from gpt.corpus.decoding import mark_of
from gpt.corpus.readers.tables import DELIMITERS


def suffix_of_pipe(head: bytes, field: str | None) -> str:
    """Tell by the beginning of a pipe what its file's suffix would be; '' for plain text."""
    if head.startswith(b"PAR1"):
        return ".parquet"
    mark, encoding = mark_of(head)
    begin = head[len(mark) :].decode(encoding or "utf-8", "replace").lstrip()
    if re.match(r'\[\s*[\[{"\]]', begin):
        return ".json"
    if re.match(r'\{\s*["}]', begin):
        return ".jsonl"
    columns = {column.strip('" ') for column in re.split(f"[{DELIMITERS}]", begin.partition("\n")[0].rstrip("\r"))}
    return ".csv" if field in columns else ""
