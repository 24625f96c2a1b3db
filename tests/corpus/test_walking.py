"""A disk or a network that fails for a moment: nothing is left out for that, and the preparation ends with a name."""

import errno
import gzip
import io
import json
import os
import zipfile

import pytest

from gpt.corpus import executor, sources
from gpt.corpus.sources import TextFiles
from gpt.corpus.stage_progress import DISK
from gpt.errors import InputError

LINES = "".join(json.dumps({"text": f"{number} words"}) + "\n" for number in range(9)).encode()


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.txt", content)
    return file.getvalue()


def parquet(content):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` reads Parquet")
    pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": content.decode().split("\n")}), file)
    return file.getvalue()


KINDS = {".txt": bytes, ".jsonl": bytes, ".jsonl.gz": gzip.compress, ".zip": zipped, ".parquet": parquet, ".csv": bytes}


@pytest.mark.parametrize("reads", [0, 1])
@pytest.mark.parametrize("suffix", KINDS)
def test_a_file_that_cannot_be_read_on_ends_it_with_its_name(tmp_path, monkeypatch, suffix, reads):
    """Also where what reads its format takes that for damage."""
    (tmp_path / f"x{suffix}").write_bytes(KINDS[suffix](LINES))
    left, timed = [reads], executor.timed

    def failing(on, call, *arguments):
        if on == DISK and not left[0]:
            raise OSError(errno.EIO, "Input/output error")
        left[0] -= on == DISK
        return timed(on, call, *arguments)

    files = TextFiles([tmp_path], None if suffix in (".txt", ".zip") else "text")
    (part,) = files.parts()
    monkeypatch.setattr(executor, "timed", failing)
    with pytest.raises(
        InputError, match=rf"x{suffix}: cannot be read just now \(Input/output error\), and is not left"
    ):
        [*files.read(part)]
    monkeypatch.undo()
    assert [*files.read(part)]


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_directory_or_a_file_that_cannot_be_opened_just_now_ends_it_too(tmp_path, monkeypatch, error):
    def failing(path, *arguments):
        raise OSError(error, os.strerror(error), str(path))

    (tmp_path / "x.txt").write_text("words")
    files = TextFiles([tmp_path])
    (part,) = files.parts()
    monkeypatch.setattr(sources, "TimedFile", failing)
    with pytest.raises(InputError, match="x.txt: cannot be read just now"):
        [*files.read(part)]
    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(InputError, match=f"{tmp_path}: cannot be read just now"):
        files.parts()


def test_a_file_that_cannot_be_divided_just_now_is_not_taken_whole(tmp_path, monkeypatch):
    """As it would be read as other slices than at another time."""
    (tmp_path / "x.jsonl").write_bytes(LINES)
    files = TextFiles([tmp_path], "text")
    (part,) = files.parts()
    assert len(files.divided(part, 40)) > 1

    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sources, "ranges_of", failing)
    with pytest.raises(InputError, match="x.jsonl: cannot be read just now"):
        files.divided(part, 40)
