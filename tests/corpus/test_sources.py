import errno
import json
import os
from unittest import mock

import pytest

from gpt.corpus import sources as textfiles
from gpt.corpus.sources import TextFiles
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
    return {document.name: document.text for document in files.documents()}


def test_a_directory_is_read_and_what_is_skipped_is_named_with_the_reason(folder):
    files = TextFiles([folder], None)
    texts = read(files)
    assert set(texts) == {"corpus/" + n + e for n in ("a.txt", "sub/b.md", "windows.txt") for e in ("", " (its end)")}
    reasons = {path.removeprefix(str(folder) + "/"): reason for path, reason in files.skipped.items()}
    assert reasons == {
        "empty.txt": "empty",
        "blank.txt": "empty",
        "picture.png": "binary: it has a zero byte",
        "latin1.txt": f"not UTF-8: invalid start byte at byte {TEXT.index('ü')}",
        ".git": "hidden, or a directory of tools",
        "__pycache__": "hidden, or a directory of tools",
        "venv": "hidden, or a directory of tools",
        ".env": "hidden, or a directory of tools",
        "vault": "a link to a directory; give it by `input`",
    }


def test_datasets_and_runs_of_ours_are_no_text(folder):
    for name, mark in (("data", "manifest.json"), ("run", "config.json")):
        (folder / name).mkdir()
        (folder / name / "tokenizer.json").write_text(TEXT)
        (folder / name / mark).write_text(TEXT)
    (folder / "run" / "checkpoints").mkdir()
    files = TextFiles([folder], None)
    assert not [name for name in read(files) if name.startswith(("corpus/data", "corpus/run"))]
    assert (
        files.skipped[str(folder / "run")]
        == files.skipped[str(folder / "data")]
        == "a dataset or a run of this program"
    )


def test_few_documents_are_each_cut_in_two_and_nothing_is_lost(folder):
    files = TextFiles([folder / "a.txt"], None)
    train, validation = files.documents()
    assert (train.split, validation.split) == ("train", "validation")
    assert train.text + validation.text == TEXT
    assert len(validation.text) == pytest.approx(len(TEXT) / 10, abs=1)


def test_byte_order_marks_and_carriage_returns_are_taken_off(folder):
    assert "".join(read(TextFiles([folder / "windows.txt"], None)).values()) == "one\ntwo\n"


def test_many_documents_are_split_by_name(tmp_path):
    for i in range(150):
        (tmp_path / f"{i:03d}.txt").write_text(f"{i} {TEXT}", encoding="utf-8")
    documents = list(TextFiles([tmp_path], None).documents())
    assert [document.text for document in documents] == [f"{i} {TEXT}" for i in range(150)]
    assert 3 <= sum(document.split == "validation" for document in documents) <= 30


@pytest.mark.parametrize("number", [4, 400])
@pytest.mark.parametrize(("share", "most", "expected"), [(0.1, 10**9, 0.1), (0.3, 10**9, 0.3), (0.3, 40_000, 0.1)])
def test_validation_has_its_share_but_never_more_than_is_of_use(tmp_path, monkeypatch, number, share, most, expected):
    """400,000 characters in few files, or in many."""
    monkeypatch.setattr(textfiles, "MOST_CHARACTERS", most)
    for index in range(number):
        (tmp_path / f"{index}.txt").write_text(f"{index:0{400_000 // number}}")
    documents = list(TextFiles([tmp_path], None, share).documents())
    validation = sum(len(document.text) for document in documents if document.split == "validation")
    assert validation / 400_000 == pytest.approx(expected, rel=0.25 if number == 400 else 0.001)


def test_json_lines_give_a_document_a_line(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [{"text": "one"}, {"other": 1}, {"text": 5}, {"text": ""}, {"text": "half \ud800 pair"}, [1]]
    path.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n\n", encoding="utf-8")
    files = TextFiles([path], "text")
    texts = [text for _, text in files._texts()]
    assert texts == ["one", "half \ufffd\ufffd\ufffd pair"]
    reasons = {name.split(", line ")[1]: reason for name, reason in files.skipped.items()}
    none = "has no text in the field 'text'"
    assert reasons == {"2": none, "3": none, "4": "empty", "6": none, "7": "not JSON: Expecting value at character 1"}


def test_json_lines_without_a_field_are_refused_with_the_fields_there_are(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"title": "t", "body": "b"}\n')
    with pytest.raises(InputError, match=r"`input` .*x\.jsonl: .*`field`; its fields are: title, body"):
        list(TextFiles([path], None).documents())
    files = TextFiles([tmp_path], None)  # found in a directory it is only skipped
    assert list(files.documents()) == []
    assert "its fields are: title, body" in files.skipped[str(path)]


def test_an_input_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="`input` .*nothing: does not exist"):
        TextFiles([tmp_path / "nothing"], None)


def test_directories_and_files_that_cannot_be_read_are_named(folder):
    """Also where the tests run as somebody who may read everything."""
    (folder / "x.jsonl").write_text('{"text": "x"}\n')
    scandir, opened = os.scandir, open

    def refuse(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def open_some(path, *arguments, **options):
        return (refuse if str(path).endswith(".jsonl") else opened)(path, *arguments, **options)

    files = TextFiles([folder], "text")
    with (
        mock.patch("os.scandir", lambda path: (refuse if str(path).endswith("sub") else scandir)(path)),
        mock.patch("builtins.open", open_some),
    ):
        texts = read(files)
    assert not [name for name in texts if "b.md" in name or "jsonl" in name]
    assert files.skipped[str(folder / "sub")] == "cannot be read: Permission denied"
    assert files.skipped[str(folder / "x.jsonl")] == "cannot be read: Permission denied"


def test_json_lines_are_normalised_as_files_are(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one\\r\\ntwo\\r"}\r\n')
    (tmp_path / "fifo.jsonl").mkdir()
    files = TextFiles([tmp_path / "x.jsonl", tmp_path], "text")
    assert [text for _, text in files._texts()] == ["one\ntwo\r"] * 2
    (tmp_path / "y.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n{"text": "a"}{"text": "b"}\n')
    files = TextFiles([tmp_path / "y.jsonl"], "text")
    assert [text for _, text in files._texts()] == ["fine"]
    assert [reason.split(":")[0] for reason in files.skipped.values()] == ["not UTF-8", "not JSON"]
