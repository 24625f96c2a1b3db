"""The beginnings of files, and how much of each that was. That what is found tells of the rest: see test_preview.py."""

import gzip
import json

import pytest

from gpt.corpus.beginnings import LEAST, Beginnings, suffixes_of
from gpt.corpus.documents import CUT, Document
from gpt.corpus.sources import TextFiles

LINE = "word " * 20_000 + "\n"  # 100 kB


def begun(path, share, field=None):
    """What is found in a share of a file, and the source that has read it."""
    files = Beginnings(TextFiles([path], field))
    [part] = files.parts()
    return [*files.beginning(part, share)], files


def test_a_text_ends_after_a_whole_block(tmp_path):
    (tmp_path / "a.txt").write_text(LINE * 50)
    found, files = begun(tmp_path / "a.txt", 0.3)
    assert files.is_cut
    assert files.read_bytes == 2 * LEAST >= 0.3 * 50 * len(LINE)
    assert found[0].text == (LINE * 50)[: 2 * LEAST]
    assert [item.kind for item in found[1:]] == [CUT]


def test_a_letter_that_is_cut_is_no_bad_byte(tmp_path):
    (tmp_path / "a.txt").write_text("x" + "ä" * LEAST)
    found, files = begun(tmp_path / "a.txt", 0.1)
    assert (found[0].note, files.read_bytes) == ("", LEAST)
    assert found[0].text == "x" + "ä" * (LEAST // 2 - 1)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_records_end_where_the_bytes_are_used_up(tmp_path, name):
    content = "".join(json.dumps({"text": f"{number} {LINE}"}) + "\n" for number in range(40)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content, 0) if name.endswith("gz") else content)
    found, files = begun(tmp_path / name, 0.5, "text")
    assert files.is_cut and all(isinstance(item, Document) for item in found)
    assert len(found) / 40 == pytest.approx(files.read_bytes / (tmp_path / name).stat().st_size, abs=0.04)
    least = 0.2 if name.endswith("gz") else 0.45  # what is packed is unpacked a megabyte at a time
    assert least < len(found) / 40 <= 0.55


def test_a_file_that_ends_before_is_read_whole(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    found, files = begun(tmp_path / "a.txt", 0.01)
    assert ([item.text for item in found], files.is_cut, files.read_bytes) == (["short"], False, 5)


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"plain", "UTF-8"),
        ("ä".encode("utf-16"), "UTF-16-LE"),
        ("größe ".encode("latin-1") * 9, "unknown"),
        (gzip.compress(b"plain", mtime=0), ""),
    ],
)
def test_the_encoding_is_told_by_the_first_bytes(tmp_path, content, encoding):
    (tmp_path / "a.txt").write_bytes(content)
    assert begun(tmp_path / "a.txt", 1.0)[1].encoding == encoding


@pytest.mark.parametrize(
    ("name", "suffixes"),
    [
        ("a.txt", (".txt", "")),
        ("A.JSONL.GZ", (".jsonl", ".gz")),
        ("a.tgz", (".tar", ".tgz")),
        ("a.tar.zst", (".tar", ".zst")),
        ("a.gz", ("", ".gz")),
        ("a", ("", "")),
    ],
)
def test_suffixes_say_what_a_file_holds_and_how_it_is_packed(name, suffixes):
    assert suffixes_of(name) == suffixes
