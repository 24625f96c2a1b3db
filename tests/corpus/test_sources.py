import errno
import gzip
import io
import json
import os
import re
import threading
from pathlib import Path
from unittest import mock

import pytest

from gpt.corpus.content_split import SplitByContent
from gpt.corpus.documents import Document, ReadOptions, Skipped
from gpt.corpus.ledger import read_ledger
from gpt.corpus.origins import Origins
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import TextFiles
from gpt.dataset.documents import Documents
from gpt.errors import InputError

TEXT = "Es war einmal ein Müller, der war arm, aber er hatte eine schöne Tochter.\n"


@pytest.fixture
def folder(tmp_path):
    top = tmp_path / "corpus"
    (top / "sub").mkdir(parents=True)
    (top / "a.txt").write_text(TEXT, encoding="utf-8")
    (top / "sub" / "b.md").write_text("# " + TEXT, encoding="utf-8")
    (top / "windows.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (top / "empty.txt").write_text("")
    (top / "blank.txt").write_text(" \n\n")
    (top / "picture.png").write_bytes(b"\x89PNG\0\1\2")
    (top / "latin1.txt").write_bytes(TEXT.encode("latin-1"))
    for name in (".git", "__pycache__", "venv"):
        (top / name).mkdir()
        (top / name / "c.txt").write_text("hidden")
    (top / "venv" / "pyvenv.cfg").write_text("")
    (top / ".env").write_text("PASSWORD=secret")
    (tmp_path / "elsewhere").mkdir()
    (top / "vault").symlink_to(tmp_path / "elsewhere")
    return top


def read(files):
    """The texts, by name, and why others were left out, by name."""
    found = [
        each for part in files.parts() for each in ([part] if isinstance(part, Skipped) else list(files.read(part)))
    ]
    texts = {each.name: each.text for each in found if isinstance(each, Document)}
    return texts, {each.name: each.reason for each in found if isinstance(each, Skipped)}


def test_a_directory_is_read_and_what_is_skipped_is_named_with_the_reason(folder):
    texts, skipped = read(TextFiles([folder]))
    assert set(texts) == {"corpus/a.txt", "corpus/sub/b.md", "corpus/windows.txt"}
    looks = "looks like windows-1252, in which it has 'war einmal ein Müller, der war a': give it by `encoding` cp1252"
    assert {name.removeprefix("corpus/"): reason for name, reason in skipped.items()} == {
        "empty.txt": "empty",
        "blank.txt": "empty",
        "picture.png": "binary: it has a zero byte",
        "latin1.txt": f"not UTF-8: invalid start byte at byte {TEXT.index('ü')}; {looks}",
        ".git": "hidden, or a directory of tools",
        "__pycache__": "hidden, or a directory of tools",
        "venv": "hidden, or a directory of tools",
        ".env": "hidden, or a directory of tools",
        "vault": "a link to a directory; give it by `input`",
    }


def test_names_are_the_same_wherever_the_input_lies(folder, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folder)
    expected = read(TextFiles([folder]))
    monkeypatch.chdir(folder)
    for other in (".", "../corpus", "../link"):
        assert read(TextFiles([Path(other)])) == expected


def test_datasets_and_runs_of_ours_are_no_text(folder):
    for name, mark in (("data", "manifest.json"), ("run", "config.json")):
        (folder / name).mkdir()
        (folder / name / "tokenizer.json").write_text(TEXT)
        (folder / name / mark).write_text(TEXT)
    (folder / "run" / "checkpoints").mkdir()
    texts, skipped = read(TextFiles([folder]))
    assert not [name for name in texts if name.startswith(("corpus/data", "corpus/run"))]
    assert skipped["corpus/run"] == skipped["corpus/data"] == "a dataset, a run or a model"
    for path in (folder / "run", folder / "data"):
        with pytest.raises(InputError, match=f"{path}: is a dataset, a run or a model, and no text: give the text"):
            TextFiles([path]).parts()


def test_byte_order_marks_and_carriage_returns_are_taken_off(folder):
    assert read(TextFiles([folder / "windows.txt"]))[0] == {"windows.txt": "one\ntwo\n"}


def test_a_tilde_is_the_home_directory(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert "corpus/a.txt" in read(TextFiles([Path("~/corpus")]))[0]


def test_markup_is_taken_as_it_stands_and_said_once_for_each_kind(folder, said):
    (folder / "page.html").write_text("<p>one</p>")
    (folder / "sub" / "other.HTML").write_text("<p>two</p>")
    (folder / "feed.xml").write_text("<a>b</a>")
    texts, _ = read(TextFiles([folder], how=ReadOptions(html="keep")))
    assert texts["corpus/page.html"] == "<p>one</p>"
    assert said == [
        f"{folder / 'feed.xml'}: taken as it stands; the tags are learned with the text",
        f"{folder / 'page.html'} and 1 more .html: taken as it stands; the tags are learned with the text",
    ]
    assert read(TextFiles([folder]))[0]["corpus/page.html"] == "one\n"


@pytest.mark.parametrize("name", ["x.html", "x.ipynb"])
def test_a_field_of_what_has_none_is_refused(folder, name):
    (folder / name).write_text("<p>one")
    (folder / "y.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(InputError, match=rf"`field` text: .*{name} has no fields"):
        TextFiles([folder / "y.jsonl", folder / name], "text")
    assert "corpus/y.jsonl, line 1" in read(TextFiles([folder], "text"))[0]  # found in a directory it is text
    (folder / "y.jsonl").unlink()
    with pytest.raises(InputError, match=r"`field` text: there is no JSON Lines file \(\.jsonl\), JSON, CSV"):
        TextFiles([folder], "text").parts()


def test_json_lines_give_a_document_a_line(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [{"other": 1}, {"text": "one"}, {"text": 5}, {"text": ""}, {"text": "half \ud800 pair"}, [1]]
    path.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n\n", encoding="utf-8")
    texts, skipped = read(TextFiles([path], "text"))
    assert texts == {"x.jsonl, line 2": "one", "x.jsonl, line 5": "half \ufffd pair"}
    none = "has no text in the field 'text'"
    assert {name.split(", line ")[1]: reason for name, reason in skipped.items()} == {
        "1": none,
        "3": none,
        "4": "empty",
        "6": none,
        "7": "not JSON: Expecting value at character 1",
    }


@pytest.mark.parametrize(
    ("line", "field", "reason", "fields"),
    [
        ('{"title": "t", "body": "b"}', None, "`field` must name the field that holds the text", "title, body"),
        ("[1]", None, "`field` must name the field that holds the text", "none: its first line is no object"),
        ('{"title": "t", "body": "b"}', "txt", "no line has a field 'txt'", "title, body"),
        ('{"title": 1, "body": "b"}', "title", "the field 'title' holds no text in any line", "title, body"),
    ],
)
def test_json_lines_without_text_are_refused_with_the_fields_there_are(tmp_path, line, field, reason, fields):
    """Found in a directory they are only skipped."""
    message = f"{reason}; its fields are: {fields}"
    path = tmp_path / "x.jsonl"
    path.write_text(f"{line}\n" * 50)
    files = TextFiles([path], field)
    with pytest.raises(InputError, match=rf"`input` .*x\.jsonl: {message}"):
        read(files)
    texts, skipped = read(TextFiles([tmp_path], field))
    assert texts == {}
    assert skipped == {f"{tmp_path.name}/x.jsonl": f"JSON Lines: {message}"}


@pytest.mark.parametrize("content", ["", "\n \n", "not json\n"])
@pytest.mark.parametrize("field", [None, "text"])
def test_json_lines_without_a_line_of_json_are_skipped(tmp_path, content, field):
    (tmp_path / "x.jsonl").write_text(content)
    texts, skipped = read(TextFiles([tmp_path / "x.jsonl"], field))
    first = (
        "; the first is left out: not JSON: Expecting value at character 1 (x.jsonl, line 1)" if content.strip() else ""
    )
    assert (texts, skipped) == ({}, {"x.jsonl": f"has no line of JSON{first}"})


def test_an_input_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="`input` .*nothing: does not exist"):
        TextFiles([tmp_path / "nothing"])


def test_directories_and_files_that_cannot_be_read_are_named(folder):
    """Also where the tests run as somebody who may read everything."""
    (folder / "x.jsonl").write_text('{"text": "x"}\n')
    scandir, opened = os.scandir, open

    def refuse(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def open_some(path, *arguments, **options):
        return (refuse if str(path).endswith(".jsonl") else opened)(path, *arguments, **options)

    with (
        mock.patch("os.scandir", lambda path: (refuse if str(path).endswith("sub") else scandir)(path)),
        mock.patch("builtins.open", open_some),
        mock.patch("gpt.corpus.sources.TimedFile", lambda path: open_some(path, "rb", buffering=0)),
    ):
        texts, skipped = read(TextFiles([folder], "text"))
    assert not [name for name in texts if "b.md" in name or "jsonl" in name]
    assert skipped["corpus/sub"] == "cannot be read: Permission denied"
    assert skipped["corpus/x.jsonl"] == "cannot be read: Permission denied"


def test_json_lines_are_normalized_as_files_are(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one\\r\\ntwo\\r"}\r\n')
    (tmp_path / "fifo.jsonl").mkdir()
    texts, _ = read(TextFiles([tmp_path / "x.jsonl", tmp_path], "text"))
    assert list(texts.values()) == ["one\ntwo\r"] * 2
    (tmp_path / "y.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n{"text": "a"}{"text": "b"}\n')
    texts, skipped = read(TextFiles([tmp_path / "y.jsonl"], "text"))
    assert list(texts.values()) == ["fine"]
    assert [reason.split(":")[0] for reason in skipped.values()] == [
        "not UTF-8",
        "holds more than one object, the second from character 14; give each a line of its own",
    ]


def test_what_is_no_regular_file_is_skipped(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    assert read(TextFiles([tmp_path])) == ({}, {f"{tmp_path.name}/pipe.txt": "not a regular file"})


def test_patterns_are_the_files_that_they_fit(tmp_path, monkeypatch):
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    for name in ("b.md", "a.md", "c.txt", "[1].md", "deep/d.md"):
        (tmp_path / "notes" / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    assert list(read(TextFiles([Path("notes/*.md")]))[0]) == ["[1].md", "a.md", "b.md"]
    assert list(read(TextFiles([Path("notes/**/*.md")]))[0]) == ["[1].md", "a.md", "b.md", "d.md"]
    assert len(read(TextFiles([Path("notes/**")]))[0]) == 5
    assert list(read(TextFiles([Path("notes/[1].md")]))[0]) == ["[1].md"]  # a file of that name is no pattern
    with pytest.raises(InputError, match=r"`input` notes/\*\.rst: .* as a pattern it fits none"):
        TextFiles([Path("notes/*.rst")])


def through(content, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


LINES = b'{"text": "one"}\n{"text": "two"}\n'
PIPED = {
    "JSON Lines": (LINES, "text", {"stdin, line 1": "one", "stdin, line 2": "two"}),
    "gzip": (gzip.compress(LINES), "text", {"stdin, line 1": "one", "stdin, line 2": "two"}),
    "UTF-16": (LINES.decode().encode("utf-16"), "text", {"stdin, line 1": "one", "stdin, line 2": "two"}),
    "array": (b'[{"text": "one"}, {"text": "two"}]', "text", {"stdin, entry 1": "one", "stdin, entry 2": "two"}),
    "table": (b"id,text\n1,one\n2,two\n", "text", {"stdin, row 1": "one", "stdin, row 2": "two"}),
    "text": (b"[Chapter 1]\n{x}\n", None, {"stdin": "[Chapter 1]\n{x}\n"}),
    "form feeds": (b"one\ftwo", None, {"stdin, document 1": "one", "stdin, document 2": "two"}),
}


@pytest.mark.parametrize(("content", "field", "texts"), PIPED.values(), ids=PIPED)
def test_standard_input_is_of_the_format_that_it_begins_as(monkeypatch, content, field, texts):
    through(content, monkeypatch)
    assert read(TextFiles([Path("-")], field)) == (texts, {})


def test_standard_input_is_no_text_where_it_should_have_fields_and_the_other_way_round(monkeypatch):
    for content, field, message in (
        (b"prose", "text", "begins like plain text, which has no field 'text'"),
        (LINES, None, "`field` must name the field that holds the text; its fields are: text"),
        (b'["a"', "text", "begins"),
    ):
        through(content, monkeypatch)
        files = TextFiles([Path("-")], field)
        if content.startswith(b"["):
            assert read(files)[0] == {"stdin, entry 1": "a"}
        else:
            with pytest.raises(InputError, match=message):
                read(files)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        read(TextFiles([Path("-")]))


def test_a_pipe_that_is_asked_for_is_read_once(tmp_path):
    path = tmp_path / "x.jsonl"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(LINES,))
    writer.start()
    texts, _ = read(TextFiles([path], "text"))
    writer.join()
    assert texts == {"x.jsonl, line 1": "one", "x.jsonl, line 2": "two"}


def test_pipes_of_the_shell_are_named_by_their_order():
    ends = [os.pipe() for _ in range(2)]
    for number, (_, write) in enumerate(ends):
        os.write(write, b"text %d" % number)
        os.close(write)
    inputs = [Path(f"/dev/fd/{read_end}") for read_end, _ in ends]
    assert read(TextFiles(inputs))[0] == {"pipe": "text 0", "pipe 2": "text 1"}
    for read_end, _ in ends:
        os.close(read_end)


def test_a_device_is_no_text():
    assert read(TextFiles([Path("/dev/null")])) == ({}, {"null": "not a regular file"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoding": "cp1225"}, "`encoding` cp1225: is no encoding that Python knows; did you mean 'cp1256'?"),
        ({"encoding": "base64"}, "`encoding` base64: is no encoding"),
        ({"separator": ""}, "`separator` is empty"),
        ({"max_unpacked": 0}, "`max_unpacked` is 0; it must be at least 1"),
        ({"zstd_window": 32}, "`zstd_window` is 32; it must be from 10 to 31"),
    ],
)
def test_settings_that_are_none_are_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        TextFiles([tmp_path], how=ReadOptions(**settings))


def test_sources_of_one_name_are_told_apart_also_in_the_ledger(tmp_path):
    for place in ("a", "b", "c/notes", "d/notes"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.txt").write_text(f"Of {place}. " * 90)
    (tmp_path / "c" / "notes" / "y.txt").write_text("Of y. " * 90)
    inputs = [tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt", tmp_path / "c" / "notes", tmp_path / "d" / "notes"]
    names = {"a/x.txt", "b/x.txt", "c/notes/x.txt", "d/notes/x.txt", "notes/y.txt"}
    assert {part.name for part in TextFiles(inputs).parts()} == names
    dataset = prepare(TextFiles(inputs), SplitByContent(), "bytes", tmp_path / "out", {})
    entries = list(read_ledger(dataset.path))
    assert {entry["source"] for entry in entries if "source" in entry} == names
    assert {entry["document"] for entry in entries if "document" in entry} == names
    for match in Documents(dataset.train, dataset.tokenizer).find("Of d/notes"):
        assert Origins(dataset).of("train", match.document) == "d/notes/x.txt"
