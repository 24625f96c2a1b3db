import errno
import json
import os
from pathlib import Path
from unittest import mock

import pytest

from gpt.corpus.sources import Document, Skipped, TextFiles
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
    convert = "convert it with iconv -f ENCODING -t utf-8 (latin1, shift_jis, gb18030, …)"
    assert {name.removeprefix("corpus/"): reason for name, reason in skipped.items()} == {
        "empty.txt": "empty",
        "blank.txt": "empty",
        "picture.png": "binary: it has a zero byte",
        "latin1.txt": f"not UTF-8: invalid start byte at byte {TEXT.index('ü')}; {convert}",
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
    assert skipped["corpus/run"] == skipped["corpus/data"] == "a dataset or a run of this program"


def test_byte_order_marks_and_carriage_returns_are_taken_off(folder):
    assert read(TextFiles([folder / "windows.txt"]))[0] == {"windows.txt": "one\ntwo\n"}


def test_a_tilde_is_the_home_directory(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert "corpus/a.txt" in read(TextFiles([Path("~/corpus")]))[0]


def test_markup_is_taken_as_it_stands_and_said_once_for_each_kind(folder, said):
    (folder / "page.html").write_text("<p>one</p>")
    (folder / "sub" / "other.HTML").write_text("<p>two</p>")
    (folder / "table.csv").write_text("a,b")
    texts, _ = read(TextFiles([folder]))
    assert texts["corpus/page.html"] == "<p>one</p>"
    assert said == [
        f"{folder / 'page.html'} and 1 more .html: taken as it stands; the tags are learned with the text",
        f"{folder / 'table.csv'}: taken as it stands; the commas are learned with the text",
    ]


@pytest.mark.parametrize("name", ["x.json", "x.CSV"])
def test_a_field_of_what_is_not_json_lines_is_refused(folder, name):
    (folder / name).write_text('{"text": "one"}')
    (folder / "y.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(InputError, match=r"`field` text: is for JSON Lines \(\.jsonl\) only"):
        TextFiles([folder / "y.jsonl", folder / name], "text")
    assert "corpus/y.jsonl, line 1" in read(TextFiles([folder], "text"))[0]  # found in a directory it is text
    (folder / "y.jsonl").unlink()
    with pytest.raises(InputError, match=r"`field` text: there is no JSON Lines file \(\.jsonl\) in the input"):
        TextFiles([folder], "text").parts()


def test_json_lines_give_a_document_a_line(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [{"other": 1}, {"text": "one"}, {"text": 5}, {"text": ""}, {"text": "half \ud800 pair"}, [1]]
    path.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n\n", encoding="utf-8")
    texts, skipped = read(TextFiles([path], "text"))
    assert texts == {"x.jsonl, line 2": "one", "x.jsonl, line 5": "half \ufffd\ufffd\ufffd pair"}
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
    assert read(TextFiles([tmp_path / "x.jsonl"], field)) == ({}, {"x.jsonl": "has no line of JSON"})


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
    assert [reason.split(":")[0] for reason in skipped.values()] == ["not UTF-8", "not JSON"]


def test_what_is_no_regular_file_is_skipped(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    assert read(TextFiles([tmp_path])) == ({}, {f"{tmp_path.name}/pipe.txt": "not a regular file"})
