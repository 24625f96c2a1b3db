"""Damage of every kind, to the shards of a dataset: found before anything is learned, and named."""

import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from damage import cut_short, rewritten
from helpers import write_dataset

from gpt import InputError
from gpt.dataset.dataset import open_dataset
from gpt.dataset.shards import Shard
from gpt.dataset.verify import verify_shards
from gpt.text.tokenizer import Tokenizer

REMEDIES = r"; (prepare the dataset again|write it as uint16|put the file itself there|make it readable)"


def header(ids, magic=20240520, version=1):
    numbers = np.zeros(256, dtype="<i4")
    numbers[:3] = magic, version, len(ids)
    return numbers.tobytes()


# ---- what damages a file of ours, given (its path, a generator); each gives what is to be named ----


@rewritten
def lengthened(content, rng):
    content += rng.randbytes(rng.randrange(1, 3000))


@rewritten
def a_bit_flipped(content, rng):
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


@rewritten
def a_block_of_zeros(content, rng):
    start = rng.randrange(1024, len(content) - 100)
    content[start : start + 100] = bytes(100)


@rewritten
def other_ids(content, rng):
    place = 1024 + 2 * rng.randrange((len(content) - 1024) // 2)
    content[place : place + 2] = rng.randrange(257, 1 << 16).to_bytes(2, "little")


@rewritten
def another_header(content, rng):
    place = 4 * rng.randrange(3)
    before = content[place : place + 4]
    while content[place : place + 4] == before:
        number = rng.choice([0, 1, 7, 20240520, 20240801, -5, 2**31 - 1])
        content[place : place + 4] = number.to_bytes(4, "little", signed=True)


@rewritten
def ids_of_32_bits(content, rng):
    ids = np.frombuffer(content[1024:], dtype="<u2")
    content[:] = header(ids, 20240801, 7) + ids.astype("<u4").tobytes()


@rewritten
def no_header(content, rng):
    del content[:1024]


def removed(file, rng):
    file.unlink()


def a_directory(file, rng):
    file.unlink()
    file.mkdir()


def a_link_elsewhere(file, rng):
    content = file.read_bytes()
    elsewhere = file.parent.parent / "elsewhere.bin"
    elsewhere.write_bytes(content)
    file.unlink()
    file.symlink_to(elsewhere)


def a_link_to_itself(file, rng):
    file.unlink()
    file.symlink_to(file)


def two_exchanged(file, rng):
    (other,) = set(file.parent.glob("*.bin")) - {file}
    contents = file.read_bytes(), other.read_bytes()
    for path, content in zip((other, file), contents, strict=True):
        path.write_bytes(content)


def promised(change):
    """Damage of what the manifest says of the shard."""

    def damage(file, rng):
        manifest = json.loads((file.parent / "manifest.json").read_text())
        (info,) = (info for info in manifest["shards"] if info["file"] == file.name)
        change(info, rng)
        (file.parent / "manifest.json").write_text(json.dumps(manifest))

    damage.__name__ = change.__name__
    return damage


@promised
def another_hash(info, rng):
    info["sha256"] = rng.randbytes(32).hex()


@promised
def other_tokens(info, rng):
    info["tokens"] += rng.choice([-1, 1, 1000, -1000])


@promised
def another_largest_id(info, rng):
    info["largest_id"] += rng.choice([-1, 1, 70_000])


@promised
def another_name(info, rng):
    info["file"] = rng.choice(["none.bin", "../own/train-00000.bin", "/etc/passwd", "", ".", "a\0b", "é" * 300])


@promised
def another_split(info, rng):
    info["split"] = rng.choice(["test", "", "Train"])


@promised
def another_type(info, rng):
    info[rng.choice([*info])] = rng.choice([None, [], {}, 1.5, True])


OURS = [
    *(cut_short, lengthened, a_bit_flipped, a_block_of_zeros, other_ids, another_header, ids_of_32_bits, no_header),
    *(removed, a_directory, a_link_elsewhere, a_link_to_itself, two_exchanged),
    *(another_hash, other_tokens, another_largest_id, another_name, another_split, another_type),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A dataset whose shards are small, to be copied often."""
    rng = random.Random(1)
    texts = ["".join(rng.choice("abc \n") for _ in range(300)) for _ in range(2)]
    return write_dataset([("train", texts[0]), ("validation", texts[1])], "bytes", tmp_path_factory.mktemp("s") / "own")


def refusal(path):
    with pytest.raises(InputError) as refused:
        open_dataset(path)
    return str(refused.value)


@pytest.mark.parametrize("damage", OURS, ids=lambda damage: damage.__name__)
def test_damaged_shards_are_refused_with_path_reason_and_remedy(small, tmp_path, damage):
    """Twelve of each kind, and of shards without a manifest below as many: 300 and more."""
    for seed in range(12):
        rng, copy = random.Random(seed), tmp_path / str(seed)
        shutil.copytree(small.path, copy)
        file = copy / rng.choice(["train-00000.bin", "validation-00000.bin"])
        damage(file, rng)
        said = refusal(copy)
        named = {
            another_split: "manifest.json",
            another_type: "manifest.json",
            another_name: "none.bin|names|cannot be opened",
            two_exchanged: "train-00000.bin",
        }.get(damage, re.escape(file.name))
        assert re.search(rf"{re.escape(str(copy))}.*({named}).*{REMEDIES}", said), said


def write_theirs(path, rng):
    """A dataset of another program, of a kind drawn, of ids below 257."""
    Tokenizer.utf8_bytes().save(path / "tokenizer.json")
    kind = rng.choice(["llm.c", "nanogpt", "numpy"])
    for name in ("train", "val"):
        ids = np.array([rng.randrange(1, 257) for _ in range(200)], dtype="<u2")
        if kind == "numpy":
            np.save(path / f"{name}.npy", ids)
        else:
            (path / f"{name}.bin").write_bytes((header(ids) if kind == "llm.c" else b"") + ids.tobytes())
    return path / f"train.{'npy' if kind == 'numpy' else 'bin'}"


def too_large_an_id(file, rng):
    content = bytearray(file.read_bytes())
    content[-2:] = rng.randrange(257, 1 << 16).to_bytes(2, "little")
    file.write_bytes(content)


def half_an_id_more(file, rng):
    file.write_bytes(file.read_bytes() + b"\1")


def ids_of_32_bits_without_a_header(file, rng):
    file.unlink()
    np.array([rng.randrange(1, 257) for _ in range(200)], dtype="<u4").tofile(file.with_suffix(".bin"))


def an_odd_number_of_bytes_gone(file, rng):
    content = file.read_bytes()
    file.write_bytes(content[: -2 * rng.randrange(1, 30) + 1])


def another_array(file, rng):
    file.unlink()
    array = rng.choice([np.zeros((9, 9), "<u2"), np.zeros(9, "<i4"), np.zeros(9, ">u2"), np.array(5, "<u2")])
    np.save(file.with_suffix(".npy"), array)


def another_magic_number(file, rng):
    ids = np.array([rng.randrange(1, 257) for _ in range(200)], dtype="<u2")
    file.unlink()
    file.with_suffix(".bin").write_bytes(header(ids, 20240520 ^ 1 << rng.randrange(31)) + ids.tobytes())


THEIRS = [
    *(too_large_an_id, half_an_id_more, ids_of_32_bits_without_a_header, an_odd_number_of_bytes_gone),
    *(another_array, another_magic_number),
]


@pytest.mark.parametrize("damage", THEIRS, ids=lambda damage: damage.__name__)
def test_damaged_shards_of_others_are_refused_alike(tmp_path, damage):
    for seed in range(12):
        rng, copy = random.Random(seed), tmp_path / str(seed)
        copy.mkdir()
        damage(write_theirs(copy, rng), rng)
        said = refusal(copy)
        assert re.search(rf"{re.escape(str(copy))}/train\.(bin|npy): .*{REMEDIES}", said), said


def test_there_are_300_of_them():
    assert 12 * (len(OURS) + len(THEIRS)) >= 300


def test_every_bad_shard_is_named_and_the_good_ones_are_told(small, tmp_path):
    shutil.copytree(small.path, tmp_path / "copy")
    assert [shard.found for shard in verify_shards(tmp_path / "copy")] == small.shards
    (tmp_path / "copy" / "train-00000.bin").unlink()
    first, second = verify_shards(tmp_path / "copy")
    assert (first.file, first.split, second.found) == ("train-00000.bin", "train", small.shards[1])
    assert isinstance(first.found, InputError)


def test_it_reads_everything_whatever_was_found_before(small, tmp_path, monkeypatch):
    shutil.copytree(small.path, tmp_path / "copy")
    open_dataset(tmp_path / "copy")
    read, honest = [], Shard.scan
    monkeypatch.setattr(Shard, "scan", lambda shard: read.append(shard.path.name) or honest(shard))
    assert len([*verify_shards(tmp_path / "copy")]) == len(read) == 2


def test_the_rest_is_not_read_where_nobody_asks_for_it(small, tmp_path):
    shutil.copytree(small.path, tmp_path / "copy")
    shards = verify_shards(Path(tmp_path / "copy"))
    next(shards)
    shards.close()
