import bz2
import errno
import functools
import gzip
import io
import json
import lzma
import os
import random
import re
import sys
import tarfile
import tempfile
import zipfile

import pytest
from corpus_files import found_in, skipped_in, texts_in

from gpt.corpus import unpacking
from gpt.corpus.documents import Document, Skipped
from gpt.errors import InputError

LINES = "".join(json.dumps({"text": f"text {i} {random.Random(i).random()}"}) + "\n" for i in range(8_000)).encode()


@pytest.fixture
def zstd():
    return pytest.importorskip("backports.zstd", reason="the extra `data` reads .zst")


@functools.cache
def packed_lines(kind):
    return packed(kind)(LINES)


def packed(kind):
    if kind == "zst":
        return pytest.importorskip("backports.zstd", reason="the extra `data` reads .zst").compress
    return {"gz": lambda content: gzip.compress(content, mtime=0), "bz2": bz2.compress, "xz": lzma.compress}[kind]


def zipped(entries):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in entries.items():
            file.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return content.getvalue()


def tarred(entries):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for name, text in entries.items():
            entry = tarfile.TarInfo(name)
            if isinstance(text, bytes):
                entry.size = len(text)
            else:
                entry.type, entry.linkname = text
            file.addfile(entry, io.BytesIO(text) if isinstance(text, bytes) else None)
    return content.getvalue()


# ---- compressed files ----


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_all_members_are_read_and_the_name_stays(kind):
    compress = packed(kind)
    content = compress(b"one\n") + compress(b"") + compress("zwei: Müller\n".encode())
    assert texts_in(content, f"a.txt.{kind}") == {f"a.txt.{kind}": "one\nzwei: Müller\n"}
    assert texts_in(content, "without") == {"without": "one\nzwei: Müller\n"}  # its first bytes say what it is
    assert list(texts_in(compress(b'{"text": "one"}\n'), f"a.jsonl.{kind}", "text")) == [f"a.jsonl.{kind}, line 1"]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
def test_garbage_after_the_end_is_counted_and_ignored(kind, size, said):
    assert texts_in(packed(kind)(b"one\n") + b"\1" * size, f"a.{kind}") == {f"a.{kind}": "one\n"}
    assert said[0].startswith(f"a.{kind}: {size:,} bytes after the end of what is compressed by ")
    assert texts_in(packed(kind)(b"one\n") + b"\0" * size, f"a.{kind}") == {f"a.{kind}": "one\n"}
    assert len(said) == 1  # with zeros a tape is filled up


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("cut", [1, 5, 2_000])
def test_what_is_cut_off_gives_what_came_before_and_is_named(kind, cut):
    content = packed_lines(kind)[:-cut]
    found = found_in(content, f"a.jsonl.{kind}", "text")
    assert isinstance(found[-1], Skipped)
    assert found[-1].name == f"a.jsonl.{kind}"
    assert "cut off, its end is missing" in found[-1].reason
    assert len(found) > 4_000 or kind == "bz2"  # which is one block
    assert [each.text for each in found[:-1]] == [json.loads(line)["text"] for line in LINES.splitlines()][
        : len(found) - 1
    ]
    assert "cut off" in skipped_in(content, f"a.txt.{kind}")[f"a.txt.{kind}"]


def test_damage_in_the_middle_and_a_wrong_sum_are_named():
    content = bytearray(packed_lines("gz"))
    content[-6] ^= 1
    assert re.match(
        "after [67],... documents: gzip: damaged ", skipped_in(bytes(content), "a.jsonl.gz", "text")["a.jsonl.gz"]
    )
    middle = len(content) // 2
    content[middle : middle + 30] = b"\xff" * 30
    found = found_in(bytes(content), "a.jsonl.gz", "text")
    assert "gzip: damaged (" in found[-1].reason
    assert sum(isinstance(each, Document) for each in found) > 2_000


def test_frames_without_content_are_passed_over(zstd):
    frame = b"\x50\x2a\x4d\x18\4\0\0\0abcd"
    assert texts_in(frame + zstd.compress(b"one ") + frame + zstd.compress(b"two"), "a.zst") == {"a.zst": "one two"}


def test_a_large_window_is_allowed_on_request(zstd):
    option = zstd.CompressionParameter
    compressor = zstd.ZstdCompressor(options={option.window_log: 28, option.enable_long_distance_matching: 1})
    content = compressor.compress(b"text " * 10) + compressor.flush()
    assert "larger than 2^27 bytes" in skipped_in(content, "a.zst")["a.zst"]
    assert "`zstd_window` 31" in skipped_in(content, "a.zst")["a.zst"]
    assert texts_in(content, "a.zst", zstd_window=28) == {"a.zst": "text " * 10}


def test_without_its_library_zst_is_refused_or_skipped_with_what_to_install(monkeypatch, zstd):
    content = zstd.compress(b"text")
    for name in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"`input` .*a.zst: install what reads it: pip install 'gpt\[data\]'"):
        found_in(content, "a.zst")
    assert "pip install 'gpt[data]'" in skipped_in(zipped({"a.zst": content}), "a.zip")["a.zip/a.zst"]


# ---- what unpacks to too much ----


def test_a_bomb_is_stopped_and_can_be_allowed(monkeypatch):
    monkeypatch.setattr(unpacking, "ALWAYS_ALLOWED", 1 << 20)
    bomb = gzip.compress(b"a" * (4 << 20), mtime=0)
    reason = skipped_in(bomb, "a.txt.gz")["a.txt.gz"]
    assert "unpacks to more than 100 times its size" in reason
    assert "`max_unpacked`" in reason
    assert len(texts_in(bomb, "a.txt.gz", max_unpacked=2_000)["a.txt.gz"]) == 4 << 20
    names = ["a.zip", "b.tar.gz", "c.zip"]
    inner = {f"{i}.txt": b"a" * (1 << 19) for i in range(20)}
    for name, content in zip(names, (zipped(inner), gzip.compress(tarred(inner)), zipped({"b.gz": bomb})), strict=True):
        found = found_in(content, name)
        assert len(found) < 5
        assert found[-1].name == name
        assert "unpacks to more than" in found[-1].reason


def test_what_lies_too_deep_is_named():
    content = b"text"
    for depth in range(8):
        content = zipped({f"{depth}.zip": content})
    (reason,) = skipped_in(content, "x.zip").values()
    assert reason == "lies within 4 archives already; unpack it first"


# ---- archives ----

ENTRIES = {
    "./a.txt": b"one",
    "../../up.txt": b"two",
    "/abs/b.md": b"three",
    "c\\d.txt": b"four",
    "x/.git/e": b"hidden",
    "x/.git/f": b"hidden",
    "__MACOSX/._a.txt": b"hidden",
    "lines.jsonl": b'{"text": "five"}\n',
    "p.png": b"\0",
    "deep.zip": zipped({"g.txt.gz": gzip.compress(b"six")}),
}


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.xz", "x.tar.bz2"])
def test_entries_are_documents_whose_names_lead_nowhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack = {"gz": gzip.compress, "tgz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}
    content = zipped(ENTRIES) if name == "x.zip" else tarred(ENTRIES)
    content = pack.get(name.rpartition(".")[2], bytes)(content)
    texts = {
        "a.txt": "one",
        "up.txt": "two",
        "abs/b.md": "three",
        "c/d.txt": "four",
        "lines.jsonl, line 1": "five",
        "deep.zip/g.txt.gz": "six",
    }
    assert texts_in(content, name, "text") == {f"{name}/{entry}": text for entry, text in texts.items()}
    assert skipped_in(content, name, "text") == {
        f"{name}/x/.git": "hidden, or a directory of tools",
        f"{name}/__MACOSX": "hidden, or a directory of tools",
        f"{name}/p.png": "binary: it has a zero byte",
    }
    assert "name the field" in skipped_in(content, name)[f"{name}/lines.jsonl"]
    assert list(tmp_path.iterdir()) == []


def test_links_and_devices_of_an_archive_are_named():
    content = tarred(
        {"l": (tarfile.SYMTYPE, "/etc/passwd"), "h": (tarfile.LNKTYPE, "a"), "d": (tarfile.CHRTYPE, ""), "a": b"one"}
    )
    assert texts_in(content, "x.tar") == {"x.tar/a": "one"}
    reasons = {"x.tar/l": "a link to /etc/passwd", "x.tar/h": "a link to a", "x.tar/d": "not a regular file"}
    assert skipped_in(content, "x.tar") == reasons


def test_a_damaged_archive_gives_what_came_before_and_is_named():
    content = bytearray(tarred({"a.txt": b"one", "b.txt": b"two", "c.txt": b"three"}))
    assert texts_in(bytes(content[:700]), "x.tar") == {"x.tar/a.txt": "one"}
    assert "unexpected end" in skipped_in(bytes(content[:700]), "x.tar")["x.tar"]
    content[1024] ^= 1  # the second header: what follows is not the end
    assert texts_in(bytes(content), "x.tar") == {"x.tar/a.txt": "one"}
    assert "tar: damaged (bad checksum)" in skipped_in(bytes(content), "x.tar")["x.tar"]
    assert "zip: damaged" in skipped_in(zipped({"a.txt": b"one"})[:-10], "x.zip")["x.zip"]
    noise = {f"{i}.txt": os.urandom(500).hex().encode() for i in range(3)}
    content = bytearray(zipped(noise))
    content[50] ^= 0xFF
    assert list(texts_in(bytes(content), "x.zip")) == ["x.zip/1.txt", "x.zip/2.txt"]
    assert "damaged" in skipped_in(bytes(content), "x.zip")["x.zip/0.txt"]


def test_an_encrypted_entry_and_an_empty_archive_are_named():
    content = bytearray(zipped({"a.txt": b"one"}))
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    assert skipped_in(bytes(content), "x.zip") == {"x.zip/a.txt": "encrypted"}
    assert skipped_in(zipped({}), "x.zip") == {"x.zip": "an archive without files"}


def test_no_room_for_what_is_packed_within_is_no_reason_to_leave_it_out(monkeypatch):
    def write(self, piece):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", write)
    with pytest.raises(InputError, match="No space left on device; to read what is packed .* another place by TMPDIR"):
        found_in(gzip.compress(zipped({"a.txt": b"one"})), "x.zip.gz")
