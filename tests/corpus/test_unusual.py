"""Unusual and damaged inputs of each kind: every one gives its text, or is called what it is; none is passed over."""

import contextlib
import io
import json
import os
import socket
import tarfile
import zipfile
from pathlib import Path

import pytest
from corpus_files import found_in, skipped_in, texts_in

from gpt.corpus.content_split import SplitByContent
from gpt.corpus.documents import Document
from gpt.corpus.ledger import read_ledger
from gpt.corpus.origins import Names
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import TextFiles
from gpt.errors import InputError
from gpt.terminal import one_line

SPREAD = "; if values are spread over lines, call the file .json"


def parquet(**columns):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` reads Parquet")
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(column) for column in columns.values()], names=["text"] * len(columns)
    )
    file = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(table, file)
    return file.getvalue()


def zipped(entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def empty_tar():
    file = io.BytesIO()
    tarfile.open(fileobj=file, mode="w").close()
    return file.getvalue()


LEFT_OUT = {  # name: content, field, and how the reason begins
    "empty.tar": (empty_tar(), None, "an archive without files"),
    "no.tar": (b"some text that is none", None, "tar: damaged (truncated header)"),
    "x.Z": (b"\x1f\x9d\x90abc", None, "packed by compress: unpack it first"),
    "x.lz4": (b"\x04\x22\x4d\x18abc", None, "packed by lz4: unpack it first"),
    "x.ps": (b"%!PS-Adobe-3.0\n", None, "PostScript: convert it to text first"),
    "x.db": (b"SQLite format 3\0abc", None, "an SQLite database: export its text"),
    "x.feather": (b"ARROW1\0\0abc", None, "an Arrow or Feather file: write it as Parquet"),
    "x.npy": (b"\x93NUMPY\1\0v\0", None, "a NumPy array"),
    "x.pages": (zipped({"Index/Document.iwa": b"x"}), None, "a Pages document: save it as plain text"),
    "x.docm": (zipped({"word/document.xml": b"x"}), None, "a Word document: save it as plain text"),
    "ends.txt": (b"<|endoftext|>\n<|endoftext|>\n", None, "empty"),
    "feeds.txt": (b"\f\f", None, "empty"),
    "le.jsonl": (
        '{"text": "one"}\n'.encode("utf-16-le"),
        "text",
        'binary: it has a zero byte; looks like utf-16-le without a mark, in which it begins \'{"text": "one"}\': give',
    ),
    "be.csv": (
        "text,n\none,1\n".encode("utf-16-be"),
        "text",
        "binary: it has a zero byte; looks like utf-16-be without",
    ),
    "cut.jsonl": (
        '{"text": "one"}\n'.encode("utf-16")[:-1],
        "text",
        "not UTF-16-LE, as it begins: truncated data in its first line",
    ),
    "array.jsonl": (
        b'[{"text": "a"},\n{"text": "b"}]\n',
        "text",
        "has no line of JSON; the first is left out: not JSON: E",
    ),
    "mac.csv": (
        b"text,n\ra,1\rb,2\r",
        "text",
        "has no row of CSV; the first is left out: not CSV: its lines end with \\r alone; convert them",
    ),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_gives_no_text_is_called_what_it_is(name):
    content, field, reason = LEFT_OUT[name]
    found = found_in(content, name, field)
    assert not [each for each in found if isinstance(each, Document)]
    assert found[-1].name == name
    assert found[-1].reason.startswith(reason)


def test_json_lines_that_are_spread_over_lines_come_with_the_remedy():
    pretty = json.dumps({"text": "a"}, indent=1).encode() + b"\n"
    assert SPREAD in skipped_in(pretty, "x.jsonl", "text")["x.jsonl"]
    assert list(texts_in(pretty * 2, "x.json", "text").values()) == ["a", "a"]
    assert SPREAD in skipped_in(b'[{"text": "a"},\n{"text": "b"}]\n', "x.jsonl", "text")["x.jsonl"]
    assert SPREAD not in skipped_in(b"no JSON at all\n", "x.jsonl", "text")["x.jsonl"]


def test_two_columns_of_one_name_are_refused():
    """The last of them would be taken, or the first, without a word."""
    message = "has 2 columns called 'text'; rename the others"
    with pytest.raises(InputError, match=message):
        found_in(b"text,text\na,b\n", "x.csv", "text")
    with pytest.raises(InputError, match=message):
        found_in(parquet(a=["one"], b=["two"]), "x.parquet", "text")
    assert list(texts_in(b"n,text,n\n1,a,2\n", "x.csv", "text").values()) == ["a"]


def test_entries_of_an_array_that_are_no_strings_are_named_as_such():
    assert texts_in(b'["a", 3, {"b": "c"}]', "x.json") == {"x.json, entry 1": "a"}
    assert skipped_in(b'["a", 3, {"b": "c"}]', "x.json") == dict.fromkeys(
        ("x.json, entry 2", "x.json, entry 3"), "is no text"
    )


def test_markup_that_is_learned_is_said_in_archives_too(said):
    content = zipped({"a.xml": "<a>b</a>", "b.svg": "<svg/>", "c.ipynb": '{"cells": []}', "d.txt": "plain"})
    assert len(texts_in(content, "x.zip")) == 4
    assert said == [
        f"x.zip/{name}: taken as it stands; the {marks} are learned with the text"
        for name, marks in (("a.xml", "tags"), ("b.svg", "tags"), ("c.ipynb", "braces"))
    ]
    assert texts_in(b"<html><p>seen</p></html>", "x.xhtml") == {"x.xhtml": "seen\n"}


def test_odd_names_and_links_come_through_to_the_ledger(tmp_path):
    """Names whose bytes are no UTF-8 (gpt-2-simple #192), links that lead round in circles or nowhere, and sockets."""
    folder = tmp_path / "in"
    folder.mkdir()
    odd = b"caf\xe9 <|endoftext|>\n.txt".decode(errors="surrogateescape")
    (folder / odd).write_text(" ".join(f"word{number}" for number in range(2000)))
    (folder / "a.jsonl").write_text("".join(f'{{"text": "line {number}"}}\n' for number in range(100)))
    (folder / "circle").symlink_to(folder)
    (folder / "self.txt").symlink_to("self.txt")
    (folder / "nowhere.txt").symlink_to("gone.txt")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as opened:
        here = Path.cwd()
        os.chdir(folder)  # since such names may not be long
        try:
            opened.bind("socket")
        finally:
            os.chdir(here)
        dataset = prepare(TextFiles([folder], "text"), SplitByContent(), "bytes", tmp_path / "d", {"name": "files"})
    entries = {entry["document"]: entry for entry in read_ledger(dataset.path) if "document" in entry}
    reasons = {name: entry["reason"] for name, entry in entries.items() if "reason" in entry}
    assert reasons == {
        "in/circle": "a link to a directory; give it by `input`",
        "in/self.txt": "not a regular file",
        "in/nowhere.txt": "not a regular file",
        "in/socket": "not a regular file",
    }
    assert entries[f"in/{odd}"]["train"] > 0
    assert len(entries) == len(reasons) + 101
    names = Names(dataset)
    count = sum(shard.documents for shard in dataset.shards if shard.split == "train")
    assert f"in/{one_line(odd)}" in {names("train", number) for number in range(count)}
