import hashlib
import json
import shutil

import numpy as np
import pytest

from gpt.corpus.writer import ShardWriter
from gpt.dataset.dataset import open_dataset
from gpt.dataset.shards import Shard, Split
from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer


@pytest.fixture
def tokenizer():
    return Tokenizer.utf8_bytes()


@pytest.fixture
def copy(dataset, tmp_path):
    """A dataset directory to spoil."""
    shutil.copytree(dataset.path, tmp_path / "copy")
    return tmp_path / "copy"


def llm_c_shard(ids, magic=20240520, version=1, dtype="<u2"):
    """A shard as llm.c's dev/data/data_common.py writes it."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = (magic, version, len(ids))
    return header.tobytes() + np.array(ids, dtype=dtype).tobytes()


def test_the_layout_is_that_of_llm_c(tokenizer, tmp_path):
    writer = ShardWriter(tmp_path / "0", "train", tokenizer)
    writer.add([np.array([1, 2, 3])])
    writer.add([np.array([4])])
    (info,) = writer.close()
    content = (tmp_path / f"0.{info.file}").read_bytes()
    assert content == llm_c_shard([1, 2, 3, 256, 4, 256])
    assert (info.tokens, info.documents, info.text_bytes, info.largest_id) == (6, 2, 4, 256)
    assert info.sha256 == hashlib.sha256(content).hexdigest()


def test_shards_are_cut_at_the_token_and_read_as_one_stream(tokenizer, tmp_path, rng):
    documents = [[rng.randrange(256) for _ in range(rng.randrange(40))] for _ in range(50)]
    writer = ShardWriter(tmp_path / "0", "train", tokenizer, shard_tokens=100)
    for document in documents:
        writer.add([np.array(document, dtype=np.int64)])
    infos = writer.close()
    stream = [token for document in documents for token in [*document, 256]]
    assert [info.tokens for info in infos[:-1]] == [100] * (len(infos) - 1)
    assert sum(info.documents for info in infos) == 50
    split = Split("train", [Shard(tmp_path / f"0.{info.file}") for info in infos])
    assert split.tokens == len(stream)
    assert split.read(0, len(stream)).tolist() == stream
    for _ in range(200):
        start = rng.randrange(len(stream))
        count = rng.randrange(len(stream) - start + 1)
        assert split.read(start, count).tolist() == stream[start : start + count]


def test_large_vocabularies_are_written_in_32_bits(tmp_path):
    class Large:
        vocab_size, end_of_text = 70_001, 70_000

        def byte_lengths(self):
            return np.ones(70_001, dtype=np.int64)

    writer = ShardWriter(tmp_path / "0", "train", Large())  # ty: ignore[invalid-argument-type]
    writer.add([np.array([69_999, 1])])
    (info,) = writer.close()
    assert (tmp_path / f"0.{info.file}").read_bytes() == llm_c_shard([69_999, 1, 70_000], 20240801, 7, "<u4")
    assert Shard(tmp_path / f"0.{info.file}").read(0, 2).tolist() == [69_999, 1]


@pytest.mark.parametrize("token", [257, 70_000, -1])
def test_an_id_outside_the_vocabulary_is_never_written(tokenizer, tmp_path, token):
    writer = ShardWriter(tmp_path / "0", "train", tokenizer)
    with pytest.raises(InputError, match="do not fit a vocabulary of 257"):
        writer.add([np.array([1, token])])
    assert writer.close() == []


def test_headerless_and_numpy_shards_are_read(tmp_path):
    ids = np.arange(500, dtype="<u2")
    (tmp_path / "train.bin").write_bytes(ids.tobytes())
    np.save(tmp_path / "train.npy", ids)
    for name in ("train.bin", "train.npy"):
        assert Shard(tmp_path / name).read(100, 50).tolist() == list(range(100, 150))


def test_a_directory_of_other_programs_shards_is_a_dataset(tokenizer, tmp_path):
    (tmp_path / "train.bin").write_bytes(np.arange(200, dtype="<u2").tobytes())
    (tmp_path / "fineweb_val_000000.bin").write_bytes(llm_c_shard(range(100)))
    tokenizer.save(tmp_path / "tokenizer.json")
    dataset = open_dataset(tmp_path)
    assert (dataset.train.tokens, dataset.validation.tokens) == (200, 100)


@pytest.mark.parametrize("largest", [3, 256, 50_256, 65_535, 70_000, 200_000])
def test_32_bits_without_a_header_are_refused_and_16_bits_never(tmp_path, rng, largest):
    """As uint16 every second id would be 0, or as small as a vocabulary of over 65,536 makes it."""
    ids = [0, largest, *(rng.randrange(largest + 1) for _ in range(20_000))]
    Tokenizer.utf8_bytes().save(tmp_path / "tokenizer.json")
    (tmp_path / "val.bin").write_bytes(np.zeros(200, dtype="<u2").tobytes())  # alike throughout, and so either
    (tmp_path / "train.bin").write_bytes(np.array(ids, dtype="<u4").tobytes())
    with pytest.raises(InputError, match=r"train\.bin: seems to hold uint32 ids"):
        open_dataset(tmp_path)
    if largest < 65_536:
        (tmp_path / "train.bin").write_bytes(np.array(ids, dtype="<u2").tobytes())
        if largest <= 256:
            assert open_dataset(tmp_path).train.tokens == len(ids)
        else:
            with pytest.raises(InputError, match="outside the tokenizer's vocabulary"):
                open_dataset(tmp_path)


def test_the_split_is_a_word_of_the_name(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    names = {"constrained_val_0.bin": 100, "interval-train-1.bin": 101, "val.bin": 102, "train_val.bin": 103}
    others = {
        "constrained.bin": 104,
        "ovalbumin.bin": 105,
        "train.mask.bin": 106,
        "values.npy": 107,
        "trainer.bin": 108,
    }
    for name, tokens in (names | others | {"train_values.bin": 109, "training.bin": 110, "valid.bin": 111}).items():
        (tmp_path / name).write_bytes(llm_c_shard(range(tokens)))
    dataset = open_dataset(tmp_path)
    assert (dataset.train.tokens, dataset.validation.tokens) == (101 + 109 + 110, 100 + 102 + 103 + 111)


@pytest.mark.parametrize("tokens", [-1, -256, -(2**31)])
def test_a_negative_number_of_tokens_is_refused(tmp_path, tokens):
    size = max(16, 1024 + 2 * tokens)
    header = np.array([20240520, 1, tokens, 0] + [0] * 252, dtype="<i4").tobytes()
    (tmp_path / "train.bin").write_bytes(header.ljust(size, b"\0")[:size])
    with pytest.raises(InputError, match=r"train\.bin: has .* bytes where its header promises"):
        Shard(tmp_path / "train.bin")


@pytest.mark.parametrize("header", ["-" * 9000 + "1", "(" * 150, "[" * 9000, "{'shape': " * 900, "{}", "5", "\0"])
def test_an_odd_numpy_header_is_refused(tmp_path, header):
    content = header.encode()
    (tmp_path / "train.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content)
    with pytest.raises(InputError, match=r"train\.npy: is not a NumPy array"):
        Shard(tmp_path / "train.npy")


def test_without_a_tokenizer_the_ids_are_gpt2s(gpt2_tokenizer, tmp_path):
    np.save(tmp_path / "train.npy", np.arange(200, dtype="<u2"))
    np.save(tmp_path / "val.npy", np.array([50_256] * 80, dtype="<u2"))
    assert open_dataset(tmp_path).tokenizer.fingerprint == gpt2_tokenizer.fingerprint
    np.save(tmp_path / "val.npy", np.array([50_257] * 80, dtype="<u2"))
    with pytest.raises(
        InputError, match=r"val\.npy: holds the id 50,257, outside the tokenizer's vocabulary of 50,257"
    ):
        open_dataset(tmp_path)


def test_the_dataset_opens_and_knows_its_content(dataset):
    again = open_dataset(dataset.path)
    assert again.fingerprint == dataset.fingerprint
    assert again.tokenizer.fingerprint == dataset.tokenizer.fingerprint
    assert again.train.tokens == dataset.train.tokens


def rewrite(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def set_ids(content, value):
    content[-2:] = value.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.__delitem__(slice(-2, None)), "has .* bytes where its header promises"),
        (lambda c: c.extend(b"\0\0"), "has .* bytes where its header promises"),
        (lambda c: c.__setitem__(4, 9), "shard of version 9"),
        (lambda c: c.__setitem__(slice(1000, 1001), b"\1"), "SHA-256"),
        (lambda c: set_ids(c, 300), "the id 300, outside the tokenizer's vocabulary of 257"),
        (lambda c: set_ids(c, 7), "SHA-256"),
        (lambda c: c.__setitem__(0, 0), "header of the magic number 20240384"),
        (lambda c: c.__setitem__(slice(0, 12), bytes(12)), "manifest.json says"),
        (lambda c: c.clear(), "no whole number of uint16"),
    ],
)
def test_a_spoiled_shard_is_refused_with_path_reason_and_remedy(copy, change, message):
    rewrite(copy / "train-00000.bin", change)
    with pytest.raises(InputError, match=rf"train-00000\.bin: .*{message}.*prepare the dataset again"):
        open_dataset(copy)


def test_a_missing_shard_is_refused(copy):
    (copy / "validation-00000.bin").unlink()
    with pytest.raises(InputError, match=r"validation-00000\.bin: cannot be opened"):
        open_dataset(copy)


def test_another_tokenizer_than_the_manifests_is_refused(copy):
    Tokenizer.char("abc", end_of_text=True).save(copy / "tokenizer.json")
    with pytest.raises(InputError, match="another tokenizer"):
        open_dataset(copy)


def test_a_manifest_of_other_types_is_refused(copy):
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"documents": 90', '"documents": "90"'))
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read as a manifest"):
        open_dataset(copy)


def test_nanogpts_own_vocabularies_are_refused_and_others_said(gpt2_tokenizer, tmp_path, said):
    for name in ("train.bin", "val.bin"):
        (tmp_path / name).write_bytes(np.arange(100, dtype="<u2").tobytes())
    open_dataset(tmp_path)
    assert said == [f"{tmp_path}: has no tokenizer.json; its ids are taken for GPT-2's"]
    (tmp_path / "meta.pkl").write_bytes(b"")
    with pytest.raises(InputError, match="meta.pkl, a vocabulary of its own"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "shards": [{}]}'])
def test_a_damaged_manifest_is_refused(copy, content):
    (copy / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read"):
        open_dataset(copy)


def test_a_shard_counts_once(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"shards": manifest["shards"] * 2}))
    with pytest.raises(InputError, match="a shard is named twice"):
        open_dataset(copy)


def test_a_newer_manifest_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(InputError, match="of version 2, and this program reads 1"):
        open_dataset(copy)


def test_no_dataset_and_an_empty_directory_are_refused(tmp_path):
    with pytest.raises(InputError, match="no dataset here"):
        open_dataset(tmp_path / "none")
    with pytest.raises(InputError, match="neither a manifest.json nor shards"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("array", [np.zeros((2, 2), dtype="<u2"), np.zeros(4, dtype="<i4")])
def test_other_numpy_arrays_are_refused(tmp_path, array):
    np.save(tmp_path / "train.npy", array)
    with pytest.raises(InputError, match="one-dimensional uint16"):
        Shard(tmp_path / "train.npy")


def test_a_truncated_numpy_file_is_refused(tmp_path):
    np.save(tmp_path / "train.npy", np.zeros(100, dtype="<u2"))
    rewrite(tmp_path / "train.npy", lambda content: content.__delitem__(slice(-1, None)))
    with pytest.raises(InputError, match="where its header promises"):
        Shard(tmp_path / "train.npy")


def test_a_file_that_shrinks_while_it_is_open_is_an_error_and_no_crash(copy):
    shard = Shard(copy / "train-00000.bin")
    with open(copy / "train-00000.bin", "r+b") as file:
        file.truncate(2000)
    with pytest.raises(InputError, match="changed since it was opened"):
        shard.read(shard.tokens - 10, 10)


def test_too_small_a_split_is_refused_with_the_size_it_needs(dataset):
    dataset.require_window(64)
    with pytest.raises(InputError, match=r"one window needs 100,001 \(model.context_length 100,000"):
        dataset.require_window(100_000)
