"""Downloads from a server that breaks off, lies, changes its mind, or is busy."""

import errno
import hashlib
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
import web as faulty
from helpers import heard

from gpt.corpus.download import RemoteFile, bytes_in_words, download
from gpt.errors import InputError

CONTENT = random.Random(0).randbytes(300_000)
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served(web):
    web.files["/a/text.bin"], web.spoilt = CONTENT, "text.bin"
    return web


def known(web, **changes):
    return RemoteFile(
        **({"url": web.url("/a/text.bin"), "name": "text.bin", "size": len(CONTENT), "sha256": HASH} | changes)
    )


def unknown(web):
    return known(web, size=None, sha256=None)


def there(directory):
    return {path.name for path in directory.iterdir()} - {".lock"}


WHOLE = {"text.bin", "text.bin.sha256"}


def begins(drops):
    """Where the requests begin that follow upon one whose answer broke off at 40 %, and so on."""
    begin = 0
    for _ in range(drops):
        begin += int((len(CONTENT) - begin) * 0.4)
        yield f"bytes={begin}-"


WAYS = {
    "undisturbed": ((), [None]),
    "a drop": ((faulty.drop,), [None, "bytes=120000-"]),
    "more drops than tries": ((faulty.drop,) * 9, [None, *begins(9)]),
    "200 for a range": ((faulty.drop, faulty.whole), [None, "bytes=120000-"]),
    "200 for a range, and a drop": ((faulty.drop, faulty.drop_of_whole), [None, "bytes=120000-", "bytes=100-"]),
    "a new ETag": ((faulty.drop, faulty.renamed), [None, "bytes=120000-"]),
    "206 of a new ETag": ((faulty.drop, faulty.other_version), [None, "bytes=120000-", None]),
    "206 of another range": ((faulty.drop, faulty.other_range), [None, "bytes=120000-", None]),
    "busy": ((faulty.busy, faulty.drop, faulty.down), [None, None, "bytes=120000-", "bytes=120000-"]),
    "moved on the same host": ((faulty.moved,), [None, None]),
}


@pytest.mark.parametrize("file", [known, unknown])
@pytest.mark.parametrize("way", WAYS)
def test_it_arrives_whole_whatever_happens_on_the_way(served, tmp_path, file, way):
    served.faults[:], ranges = WAYS[way]
    [path] = download([file(served)], tmp_path)
    assert path == tmp_path / "text.bin"
    assert path.read_bytes() == CONTENT
    assert served.ranges() == ranges
    assert there(tmp_path) == WHOLE
    assert (tmp_path / "text.bin.sha256").read_text() == f"{HASH}  text.bin\n"  # what sha256sum --check reads


def test_what_is_here_is_not_asked_for_again(served, tmp_path):
    with heard() as first:
        download([known(served)], tmp_path)
    with heard() as second:
        download([known(served)], tmp_path)
    assert len(served.requests) == 1
    assert first[0] == f"downloading {served.url('/a/text.bin')}, 300.0 kB, to {tmp_path}"
    assert second == []


@pytest.mark.parametrize("spoil", ["shorter", "no record", "another hash"])
def test_what_is_not_what_it_should_be_is_downloaded_again(served, tmp_path, spoil):
    [path] = download([known(served)], tmp_path)
    if spoil == "shorter":
        os.truncate(path, 1000)
    elif spoil == "no record":
        (tmp_path / "text.bin.sha256").unlink()
    else:
        (tmp_path / "text.bin.sha256").write_text("0" * 64 + "  text.bin\n")
    download([known(served)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert len(served.requests) == 2


REFUSED = {
    "another length": (known, faulty.short, "has 120,000 bytes .*, and should have 300,000"),
    "more than its length": (known, faulty.long, "has 300,008 bytes"),
    "another content": (known, faulty.corrupt, f"its SHA-256 is [0-9a-f]*, and should be {HASH}"),
    "a page in its place": (known, faulty.page, r"has 25 bytes \(text/html\), and should have 300,000"),
    "packed": (known, faulty.packed, "comes packed .gzip."),
    "to another scheme": (known, faulty.to_another_scheme, "leads to ftp://127.0.0.1, and is followed to https alone"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_another_file_is_refused_and_leaves_none(served, tmp_path, reason):
    file, fault, message = REFUSED[reason]
    served.faults.append(fault)
    with pytest.raises(InputError, match=message):
        download([file(served)], tmp_path)
    assert there(tmp_path) == set()
    assert len(served.requests) == 1
    download([file(served)], tmp_path)
    assert there(tmp_path) == WHOLE


def test_a_server_that_never_comes_further_is_given_up_and_what_came_is_kept(served, tmp_path):
    def begin_anew(handler, content):
        faulty.answer(handler, 200, content[:120_000], len(content), ETag=handler.web.etag(handler.path))

    served.faults[:] = [begin_anew] * 9
    with pytest.raises(InputError, match="6 times one after another; the same command goes on later"):
        download([known(served)], tmp_path)
    assert served.pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert there(tmp_path) == {".text.bin.partial", ".text.bin.etag"}
    served.faults.clear()
    download([known(served)], tmp_path)
    assert served.ranges()[-1] == "bytes=120000-"


def test_a_part_outlives_an_answer_that_is_another_file(served, tmp_path):
    served.faults[:] = [faulty.drop, faulty.page]
    with pytest.raises(InputError, match="text/html"):
        download([known(served)], tmp_path)
    assert (tmp_path / ".text.bin.partial").stat().st_size == 120_000
    download([known(served)], tmp_path)
    assert served.ranges()[-1] == "bytes=120000-"


def test_a_file_of_which_only_the_hash_is_known_is_held_against_it(served, tmp_path):
    served.faults.append(faulty.short)
    with pytest.raises(InputError, match="its SHA-256 is"):
        download([known(served, size=None)], tmp_path)
    assert there(tmp_path) == set()


def test_parts_that_do_not_fit_together_are_replaced_by_the_whole(served, tmp_path):
    (tmp_path / ".text.bin.partial").write_bytes(b"x" * 1000)
    with heard() as lines:
        [path] = download([known(served)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert served.ranges() == ["bytes=1000-", None]
    assert any("its parts do not fit together" in line for line in lines)


def test_a_file_that_stays_another_one_is_downloaded_twice_and_not_oftener(served, tmp_path):
    (tmp_path / ".text.bin.partial").write_bytes(b"x" * 1000)
    served.faults[:] = [faulty.honest, faulty.corrupt]
    with pytest.raises(InputError, match="nothing of it was kept"):
        download([known(served)], tmp_path)
    assert there(tmp_path) == set()
    assert len(served.requests) == 2


@pytest.mark.parametrize("file", [known, unknown])
@pytest.mark.parametrize("size", [300_000, 300_001])
def test_a_part_of_unknown_origin_is_believed_by_its_hash_alone(served, tmp_path, file, size):
    (tmp_path / ".text.bin.partial").write_bytes((CONTENT + b"x")[:size])
    [path] = download([file(served)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert len(served.requests) == (0 if file is known and size == 300_000 else 1)


def test_a_weak_etag_promises_nothing(served, tmp_path):
    served.etags["/a/text.bin"] = 'W/"1"'
    served.faults[:] = [faulty.drop]
    download([unknown(served)], tmp_path)
    assert served.ranges() == [None, None]


def test_a_length_that_is_not_told_needs_another_proof(served, tmp_path):
    def unending(handler, content):
        faulty.answer(handler, 200, content, length="")

    served.faults[:] = [unending] * 2
    with pytest.raises(InputError, match="comes without its length"):
        download([unknown(served)], tmp_path)
    download([known(served, size=None)], tmp_path)
    assert (tmp_path / "text.bin").read_bytes() == CONTENT


def test_chunks_tell_their_end(served, tmp_path):
    def chunked(handler, content, ends):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        half = len(content) // 2
        for block in (content[:half], content[half:]) if ends else (content[:half],):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        handler.wfile.write(b"0\r\n\r\n" if ends else b"")
        handler.close_connection = True

    served.faults[:] = [lambda *a: chunked(*a, ends=False), lambda *a: chunked(*a, ends=True)]
    [path] = download([unknown(served)], tmp_path)
    assert path.read_bytes() == CONTENT
    assert served.pauses == [1.0]


def test_several_files_come_one_after_another(served, tmp_path):
    served.files["/b.bin"], served.files["/empty.bin"] = b"second", b""
    files = [known(served), RemoteFile(served.url("/b.bin"), "b.bin"), RemoteFile(served.url("/empty.bin"), "e.bin", 0)]
    download(files[1:2], tmp_path)
    with heard() as lines:
        paths = download(files, tmp_path)
    assert [path.read_bytes() for path in paths] == [CONTENT, b"second", b""]
    assert lines == [f"downloading 2 of 3 files, 300.0 kB, to {tmp_path}"]


@pytest.mark.parametrize("name", ["../text.bin", "a/b", "..", "", "/etc/passwd"])
def test_no_name_leads_out_of_the_directory(served, tmp_path, name):
    with pytest.raises(InputError, match="which is no plain name"):
        download([known(served, name=name)], tmp_path / "in")
    assert served.requests == []


def test_a_disk_without_room_is_told_before_anything_is_downloaded(served, tmp_path, monkeypatch):
    (tmp_path / ".text.bin.partial").write_bytes(CONTENT[:100_000])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=199_999))
    with pytest.raises(InputError, match=r"200\.0 kB are to be downloaded, and 200\.0 kB are free there; make room"):
        download([known(served)], tmp_path)
    assert served.requests == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200_000))
    download([known(served)], tmp_path)


def test_a_disk_that_fills_keeps_the_part(served, tmp_path, monkeypatch):
    class Filling:
        def __init__(self, *arguments):
            self.file = open(*arguments)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, block):
            if self.file.tell() + len(block) > 150_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.file.write(block)

        def flush(self):
            self.file.flush()

    with monkeypatch.context() as patch:
        patch.setattr("gpt.corpus.download.open", lambda *a: Filling(*a) if a[1] == "ab" else open(*a), raising=False)
        with pytest.raises(InputError, match="No space left on device; make room there; what was downloaded is kept"):
            download([known(served)], tmp_path)
    kept = (tmp_path / ".text.bin.partial").stat().st_size
    assert 0 < kept <= 150_000
    assert "text.bin" not in there(tmp_path)
    download([known(served)], tmp_path)
    assert served.ranges() == [None, f"bytes={kept}-"]
    assert there(tmp_path) == WHOLE


def test_ctrl_c_keeps_the_part(served, tmp_path):
    def interrupting(handler, content):
        faulty.answer(handler, 200, content[:120_000], len(content), ETag=handler.web.etag(handler.path))
        handler.wfile.flush()
        part = tmp_path / ".text.bin.partial"
        while not part.exists() or part.stat().st_size < 120_000:
            time.sleep(0.001)
        handler.close_connection = False
        os.kill(os.getpid(), signal.SIGINT)

    served.faults[:] = [interrupting]
    with pytest.raises(KeyboardInterrupt, match="what was downloaded is kept, and the same command goes on from there"):
        download([unknown(served)], tmp_path)
    assert "text.bin" not in there(tmp_path)
    [path] = download([unknown(served)], tmp_path)
    assert served.ranges() == [None, "bytes=120000-"]
    assert path.read_bytes() == CONTENT


def test_two_that_want_the_same_download_it_once(served, tmp_path):
    both_here, results = threading.Event(), []

    def slow(handler, content):
        both_here.wait(10)
        faulty.honest(handler, content)

    served.faults[:] = [slow]
    with heard() as lines:
        threads = [threading.Thread(target=lambda: results.extend(download([known(served)], tmp_path))) for _ in "ab"]
        for thread in threads:
            thread.start()
        while not any("another process downloads to it" in line for line in lines):
            time.sleep(0.001)
        both_here.set()
        for thread in threads:
            thread.join()
    assert results == [tmp_path / "text.bin"] * 2
    assert len(served.requests) == 1


def test_a_place_where_nothing_can_be_written_is_named(served, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/text.bin: cannot be opened .*Not a directory"):
        download([known(served)], tmp_path / "file")
    monkeypatch.setattr(Path, "mkdir", mock.Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(InputError, match="here: Permission denied; it must be a directory to write to"):
        download([known(served)], tmp_path / "here")
    assert served.requests == []


def test_bytes_are_counted_for_people():
    counts = (0, 999, 1_000, 300_000, 2_149_000_000, 28_518_193_415)
    assert [bytes_in_words(count) for count in counts] == [
        "0 bytes", "999 bytes", "1.0 kB", "300.0 kB", "2.1 GB", "28.5 GB",
    ]  # fmt: skip
