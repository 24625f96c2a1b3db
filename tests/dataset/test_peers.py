"""Shards of ours in the readers of others, and theirs in ours, token for token: each as its own program has it."""

import numpy as np
import pytest

from gpt.corpus.writer import ShardWriter
from gpt.dataset.shards import Shard
from gpt.text.tokenizer import Tokenizer


@pytest.fixture
def stream(rng):
    return [rng.randrange(256) for _ in range(3000)]


@pytest.fixture
def ours(stream, tmp_path):
    writer = ShardWriter(tmp_path / "0", "train", Tokenizer.utf8_bytes())
    writer.add([np.array(stream)])
    writer.close()
    return tmp_path / "0.train-0.bin"


def llm_c(path):
    """llmc/dataloader.h, dataloader_load_shard_: refuses what it would, then reads ids at their places."""
    with open(path, "rb") as file:
        header = np.frombuffer(file.read(256 * 4), dtype="<i4")
        assert (header[0], header[1]) == (20240520, 1)
        assert header[2] > 0
        file.seek(0, 2)
        assert file.tell() == 256 * 4 + int(header[2]) * 2
        ids = []
        for place in range(0, header[2], 700):  # B·T of them, from a place of the file on
            file.seek(256 * 4 + 2 * place)
            ids += np.frombuffer(file.read(1400), dtype="<u2").tolist()
    return ids


def speed_run(path):
    """modded-nanogpt train_gpt.py, _load_data_shard."""
    header = np.fromfile(path, dtype="<i4", count=256)
    assert (header[0], header[1]) == (20240520, 1), "magic number mismatch in the data .bin file"
    with path.open("rb", buffering=0) as file:
        tokens = np.empty(header[2], dtype=np.uint16)
        file.seek(256 * 4)
        assert file.readinto(tokens.data) == 2 * header[2], "number of tokens read does not match header"
    return tokens.tolist()


def nanogpt(path):
    """nanoGPT train.py, get_batch: a memory map of uint16, which here begins after the header that it does not know."""
    return np.memmap(path, dtype=np.uint16, mode="r", offset=1024).astype(np.int64).tolist()


@pytest.mark.parametrize("reader", [llm_c, speed_run, nanogpt])
def test_theirs_read_ours(ours, stream, reader):
    assert reader(ours) == [*stream, 256]


def write_llm_c(path, ids):
    """dev/data/data_common.py, write_datafile; the speed-run has the same."""
    header = np.zeros(256, dtype=np.int32)
    header[:3] = 20240520, 1, len(ids)
    with open(path, "wb") as file:
        file.write(header.tobytes())
        file.write(np.array(ids, dtype=np.uint16).tobytes())


def write_llama3(path, ids):
    """The same for vocabularies over 65,536."""
    header = np.zeros(256, dtype=np.int32)
    header[:3] = 20240801, 7, len(ids)
    path.write_bytes(header.tobytes() + np.array(ids, dtype=np.uint32).tobytes())


def write_nanogpt(path, ids):
    """data/openwebtext/prepare.py: a map that is filled in batches."""
    array = np.memmap(path, dtype=np.uint16, mode="w+", shape=(len(ids),))
    for place in range(0, len(ids), 1024):
        array[place : place + 1024] = ids[place : place + 1024]
    array.flush()


def write_numpy(path, ids):
    """build-nanogpt's fineweb.py: np.save."""
    np.save(path, np.array(ids, dtype=np.uint16))


@pytest.mark.parametrize(
    ("writer", "name"),
    [(write_llm_c, "a.bin"), (write_llama3, "a.bin"), (write_nanogpt, "a.bin"), (write_numpy, "a.npy")],
)
def test_ours_read_theirs(stream, tmp_path, writer, name):
    writer(tmp_path / name, stream)
    shard = Shard(tmp_path / name)
    assert shard.tokens == len(stream)
    assert [*shard.read(0, 1000), *shard.read(1000, len(stream) - 1000)] == stream
