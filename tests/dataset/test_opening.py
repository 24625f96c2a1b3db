"""How a dataset is opened: what is read of it, how often, by whom, with how many files and in what time."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from gpt import InputError
from gpt.commands.train import open_for_all
from gpt.dataset import dataset as dataset_module
from gpt.dataset import shards as shards_module
from gpt.dataset.dataset import REMEMBERED, open_dataset
from gpt.dataset.manifest import ShardInfo, write_manifest
from gpt.dataset.shards import MOST_OPEN, Shard, Split, write_shard
from gpt.text.tokenizer import Tokenizer


@pytest.fixture
def copy(dataset, tmp_path):
    """A dataset directory that was written some time ago."""
    shutil.copytree(dataset.path, tmp_path / "copy", ignore=shutil.ignore_patterns(REMEMBERED))
    for file in (tmp_path / "copy").iterdir():
        age(file)
    return tmp_path / "copy"


def age(file):
    os.utime(file, ns=(0, time.time_ns() - 10**11))


@pytest.fixture
def scanned(monkeypatch):
    """The shards that are read whole, in the order in which that is done."""
    names, honest = [], Shard.scan

    def scan(shard):
        names.append(shard.path.name)
        return honest(shard)

    monkeypatch.setattr(Shard, "scan", scan)
    return names


BOTH = ["train-00000.bin", "validation-00000.bin"]


@pytest.fixture
def files_here():
    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not tell which files are open")


def opened_files():
    return set(Path("/proc/self/fd").iterdir())


def test_a_shard_is_hashed_once(copy, scanned):
    first = open_dataset(copy)
    assert sorted(scanned) == BOTH
    assert open_dataset(copy).fingerprint == first.fingerprint
    assert sorted(scanned) == BOTH


def put_back_the_times(file):
    """Change a byte, and nothing that `ls` shows."""
    status = file.stat()
    content = bytearray(file.read_bytes())
    content[-4] ^= 1  # of the last letter; after it is the end of text
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [age, put_back_the_times, lambda file: shutil.copy2(file, f"{file}.new")])
def test_a_changed_file_is_hashed_again(copy, scanned, change):
    open_dataset(copy)
    scanned.clear()
    file = copy / BOTH[0]
    change(file)
    if (copy / f"{file.name}.new").exists():
        (copy / f"{file.name}.new").replace(file)
    with pytest.raises(InputError, match="SHA-256") if change is put_back_the_times else contextlib.nullcontext():
        open_dataset(copy)
    assert scanned == BOTH[:1]


def test_what_was_written_a_moment_ago_is_not_remembered(copy, scanned):
    """The clock of a file system may not tell a change that follows at once."""
    (copy / BOTH[0]).touch()
    open_dataset(copy)
    scanned.clear()
    open_dataset(copy)
    assert scanned == BOTH[:1]


def test_a_damaged_shard_is_not_remembered_and_the_others_are(copy, scanned):
    content = (copy / BOTH[1]).read_bytes()
    put_back_the_times(copy / BOTH[1])
    with pytest.raises(InputError, match="SHA-256"):
        open_dataset(copy)
    (copy / BOTH[1]).write_bytes(content)
    scanned.clear()
    open_dataset(copy)
    assert scanned == BOTH[1:]


@pytest.mark.parametrize("content", ["", "[]", '{"files": {"a": 1}}', '{"format": "gpt-verified", "version": 1}', "\0"])
def test_what_is_remembered_may_be_damaged(copy, scanned, content):
    (copy / REMEMBERED).write_text(content)
    open_dataset(copy)
    entries = json.loads((copy / REMEMBERED).read_text())["files"]
    assert sorted(scanned) == sorted(entries) == BOTH
    wrong = {"format": "gpt-verified", "version": 1, "files": {BOTH[0]: [*entries[BOTH[0]][:-2], 999, "x"]}}
    (copy / REMEMBERED).write_text(json.dumps(wrong))
    with pytest.raises(InputError, match="holds the id 999"):
        open_dataset(copy)


@pytest.mark.parametrize("writable", [True, False])
def test_of_a_dataset_that_nobody_may_write_to_it_is_remembered_in_the_users_cache(
    copy, scanned, monkeypatch, tmp_path, writable
):
    """And where that cannot be written to, it is hashed each time."""
    honest = dataset_module.write_whole

    def write(path, content):
        if path.parent == copy or not writable:
            raise PermissionError(13, "read-only")
        honest(path, content)

    monkeypatch.setattr(dataset_module, "write_whole", write)
    monkeypatch.setattr(dataset_module, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    (copy / REMEMBERED).write_text('{"format": "gpt-verified", "version": 1, "files": {}}')  # of whoever made it
    for _ in range(2):
        open_dataset(copy)
    assert sorted(scanned) == (BOTH if writable else sorted(BOTH * 2))


def test_shards_of_others_are_hashed_once_too(tmp_path, scanned):
    Tokenizer.utf8_bytes().save(tmp_path / "tokenizer.json")
    for name in ("train.bin", "val.bin"):
        np.arange(200, dtype="<u2").tofile(tmp_path / name)
        age(tmp_path / name)
    first = open_dataset(tmp_path)
    assert open_dataset(tmp_path).fingerprint == first.fingerprint
    assert sorted(scanned) == ["train.bin", "val.bin"]


class Rank:
    """A world of which this process is one; what the first told the others."""

    def __init__(self, is_main, told=None):
        self.is_main, self.told = is_main, told

    def from_main(self, function):
        if self.is_main:
            self.told = function()
        return self.told

    def require_same(self, what, value):
        pass


@pytest.mark.parametrize("has_manifest", [True, False])
def test_one_process_hashes_for_all(copy, scanned, has_manifest):
    if not has_manifest:
        (copy / "manifest.json").unlink()
    first = Rank(True)
    found = open_for_all(copy, first)
    assert sorted(scanned) == BOTH
    scanned.clear()
    (copy / REMEMBERED).unlink()
    other = open_for_all(copy, Rank(False, first.told))
    assert other.fingerprint == found.fingerprint
    assert scanned == []
    os.truncate(copy / BOTH[0], 2000)  # sizes are looked at by each
    with pytest.raises(InputError, match=rf"{BOTH[0]}: has 2,000 bytes where its header promises"):
        open_for_all(copy, Rank(False, first.told))
    with pytest.raises(InputError, match="holds other shards here"):
        (copy / BOTH[0]).unlink()
        (copy / "manifest.json").unlink(missing_ok=True)
        open_for_all(copy, Rank(False, first.told))


def test_a_thousand_shards_of_a_hundred_billion_tokens_open_at_once(tmp_path, monkeypatch, files_here):
    tokenizer, count, tokens = Tokenizer.utf8_bytes(), 1000, 100_000_000
    tokenizer.save(tmp_path / "tokenizer.json")
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, tokens
    infos = [
        ShardInfo(f"{i:04}.bin", "train" if i else "validation", tokens, 1, tokens, 0, "0" * 64) for i in range(count)
    ]
    for info in infos:
        (tmp_path / info.file).write_bytes(header)
        os.truncate(tmp_path / info.file, 1024 + 2 * tokens)  # the rest takes no room on the disk
        age(tmp_path / info.file)
    write_manifest(tmp_path, tokenizer, infos, {}, "", {})
    monkeypatch.setattr(Shard, "scan", lambda shard: (0, "0" * 64))  # the first time, which takes as long as it takes
    open_dataset(tmp_path)
    monkeypatch.delattr(Shard, "scan")
    before, files, start = psutil.Process().memory_info().rss, opened_files(), time.perf_counter()
    dataset = open_dataset(tmp_path)
    assert time.perf_counter() - start < 2
    assert psutil.Process().memory_info().rss - before < 300e6
    assert len(opened_files() - files) <= 1  # the listing's own
    assert dataset.train.tokens == 99_900_000_000
    assert dataset.train.read(50_000_000_000 - 5, 10).tolist() == [0] * 10


@pytest.fixture
def many(tmp_path):
    """300 shards of 50 tokens each: the stream 0, 1, 2 …"""
    for number in range(300):
        write_shard(tmp_path / f"{number}.bin", [np.arange(50 * number, 50 * number + 50, dtype="<u2")])
    return Split("train", [Shard(tmp_path / f"{number}.bin") for number in range(300)])


def test_few_files_are_open_and_many_threads_read(many, files_here):
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        before = opened_files()

        def read(seed):
            rng = random.Random(seed)
            for start in rng.sample(range(14_900), 300):
                assert many.read(start, 100).tolist() == list(range(start, start + 100))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(8)))
        assert len(opened_files() - before) <= MOST_OPEN + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_many_open_files_are_not_taken_for_a_damaged_dataset(many, monkeypatch):
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    monkeypatch.setattr(shards_module, "_open", shards_module._OpenFiles(1))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(InputError, match=r"0\.bin: cannot be read \(Too many open files\); .* \(ulimit -n\)"):
            many.read(0, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_files_are_read_where_the_system_has_no_pread(many, monkeypatch):
    monkeypatch.setattr(shards_module, "_open", shards_module._OpenFiles(2))
    monkeypatch.delattr(os, "pread")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda start: many.read(start, 60).tolist(), range(0, 600, 7)))
    assert found == [list(range(start, start + 60)) for start in range(0, 600, 7)]


def test_a_dataset_is_read_after_a_change_of_directory(copy, monkeypatch):
    monkeypatch.chdir(copy.parent)
    dataset = open_dataset("copy")
    monkeypatch.chdir("/")
    assert dataset.train.read(0, 10).tolist() == open_dataset(copy).train.read(0, 10).tolist()


@pytest.mark.parametrize("kept_open", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: os.truncate(file, 2000), "has changed since it was opened"),
        (lambda file: file.write_bytes(file.read_bytes() + b"\0\0"), "has changed since it was opened"),
        (Path.unlink, "was removed or replaced|cannot be read"),
        (lambda file: (file.rename(f"{file}.old"), Path(f"{file}.old").unlink()), "was removed|cannot be read"),
        (lambda file: (shutil.copy(file, f"{file}.new"), Path(f"{file}.new").replace(file)), "replaced|has changed"),
        (lambda file: (file.unlink(), file.mkdir()), "was removed or replaced|cannot be read|has changed"),
    ],
)
def test_a_shard_that_is_no_longer_what_it_was_is_named(copy, change, said, kept_open):
    file = copy / BOTH[0]
    shard = Shard(file)
    if kept_open:
        shard.read(0, 10)
    change(file)
    with pytest.raises(InputError, match=rf"train-00000\.bin: .*({said}).*prepare the dataset again"):
        shard.read(0, 10)


def test_an_error_of_the_disk_names_the_shard(copy, monkeypatch):
    shard = Shard(copy / BOTH[0])

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(InputError, match=r"train-00000\.bin: cannot be read \(Input/output error\)"):
        shard.scan()


def test_the_hash_is_that_of_the_file(many, tmp_path):
    assert many.shards[7].scan() == (399, hashlib.sha256((tmp_path / "7.bin").read_bytes()).hexdigest())
