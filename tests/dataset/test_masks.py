"""Masks beside shards: what a loader makes of them; and damage of every kind, found before anything is learned."""

import hashlib
import json
import random
import re
import shutil
from functools import partial

import numpy as np
import pytest
from damage import cut_short, rewritten
from helpers import run_gpt
from instruction_files import lines_of, made

from gpt import InputError
from gpt.dataset.dataset import open_dataset
from gpt.dataset.loader import Loader
from gpt.dataset.manifest import MaskedShardInfo, ShardInfo, fingerprint
from gpt.dataset.masks import Mask, attach
from gpt.dataset.order import Stream
from gpt.dataset.packing import Packed
from gpt.dataset.shards import Shard, Split, mask_name, write_shard
from gpt.dataset.verify import verify_shards
from gpt.text.tokenizer import Tokenizer

END = 256
REMEDY = "; (prepare the dataset again|put the file itself there|make it readable)"


def a_split(directory, documents, sizes, unmasked=()):
    """A split of (ids, learned) in shards of these sizes, of which some have no mask."""
    ids = np.concatenate([own for own, _ in documents]).astype("<u2")
    mask = np.concatenate([learned for _, learned in documents]).astype("u1")
    shards = []
    for number, (part, own) in enumerate(zip(*(np.split(a, np.cumsum(sizes)) for a in (ids, mask)), strict=True)):
        write_shard(directory / f"{number}.bin", [part])
        shards.append(Shard(directory / f"{number}.bin"))
        if number not in unmasked:
            write_shard(directory / mask_name(f"{number}.bin"), [own])
            attach(Mask(directory / mask_name(f"{number}.bin")), shards[-1])
    return Split("train", shards), ids, mask


def drawn_documents(rng, count):
    for _ in range(count):
        ids = [rng.randrange(250) for _ in range(rng.randrange(1, 30))]
        learned = [rng.random() < 0.4 for _ in ids]
        yield [*ids, END], [*learned, True]


@pytest.mark.parametrize("samples", [Stream, partial(Packed, end_of_text=END)], ids=["stream", "packed"])
def test_of_each_epoch_just_the_learned_targets_count_and_each_once(tmp_path, samples):
    documents = [*drawn_documents(random.Random(1), 60)]
    split, ids, mask = a_split(tmp_path, documents, (100, 7, 300))
    loader = Loader(split, 4, 16, 3, samples)
    places = []
    for step in range(-(-loader.windows // 4)):
        batch = loader.batch(step)
        for sample, inputs, targets in zip(loader.samples(step), batch.inputs, batch.targets, strict=True):
            if sample >= loader.windows:
                continue
            filled = 0
            for start, length in loader.spans(sample):
                assert inputs[filled : filled + length].tolist() == ids[start : start + length].tolist()
                for place, target in enumerate(targets[filled : filled + length].tolist(), start + 1):
                    assert target == (ids[place] if mask[place] else -100)
                    places += [place] if mask[place] else []
                filled += length
            assert (targets[filled:] == -100).all()
    assert sorted(places) == (1 + np.flatnonzero(mask[1:])).tolist()


def test_a_split_reads_its_masks_across_shards_of_which_some_have_none(tmp_path):
    split, _, mask = a_split(tmp_path, [*drawn_documents(random.Random(2), 30)], (50, 9, 100), unmasked=(1,))
    mask[50:59] = 1
    assert split.learned(0, split.tokens).tolist() == mask.astype(bool).tolist()
    for start, count in ((0, 0), (49, 2), (50, 9), (58, 40), (40, 200)):
        assert split.learned(start, count).tolist() == mask[start : start + count].astype(bool).tolist()
        assert split.count_learned(start, start + count) == mask[start : start + count].sum()
    plain, _, _ = a_split(tmp_path, [*drawn_documents(random.Random(2), 30)], (50,), unmasked=(0, 1))
    assert not plain.is_masked
    assert plain.learned(0, 9).all()
    assert plain.count_learned(3, 9) == 6


def test_the_mask_is_what_the_documentation_says(tmp_path):
    write_shard(tmp_path / "a.mask.bin", [np.array([1, 0], "u1"), np.array([1], "u1")])
    content = (tmp_path / "a.mask.bin").read_bytes()
    assert np.frombuffer(content[:1024], "<i4").tolist() == [20261128, 1, 3] + [0] * 253
    assert content[1024:] == b"\1\0\1"


def test_a_mask_is_part_of_the_fingerprint_and_without_one_that_is_as_it_was():
    facts = ("a.bin", "train", 9, 1, 9, 5, "0" * 64)
    names = ("file", "split", "tokens", "documents", "text_bytes", "largest_id", "sha256")
    content = json.dumps(["t", [dict(zip(names, facts, strict=True))]], sort_keys=True)
    plain = fingerprint("t", [ShardInfo(*facts)])
    assert plain == hashlib.sha256(content.encode()).hexdigest()
    masked = {fingerprint("t", [MaskedShardInfo(*facts, "a.mask.bin", digest, 4)]) for digest in ("1", "2")}
    assert len(masked | {plain}) == 3


# ---- damage ----


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    home = tmp_path_factory.mktemp("small")
    (home / "a.jsonl").write_text("\n".join(lines_of(80)))
    return made(home)


MASKS = ("train-00000.mask.bin", "validation-00000.mask.bin")


@rewritten
def lengthened(content, rng):
    content += rng.choice([b"\0", b"\1", rng.randbytes(rng.randrange(1, 3000))])


@rewritten
def a_bit_flipped(content, rng):
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


@rewritten
def a_token_learned_or_not(content, rng):
    content[rng.randrange(1024, len(content))] ^= 1


@rewritten
def a_byte_that_is_no_bit(content, rng):
    content[rng.randrange(1024, len(content))] = rng.randrange(2, 256)


@rewritten
def all_learned(content, rng):
    content[1024:] = b"\1" * (len(content) - 1024)


@rewritten
def nothing_learned(content, rng):
    content[1024:] = bytes(len(content) - 1024)


@rewritten
def another_header(content, rng):
    place = 4 * rng.randrange(4)
    before = content[place : place + 4]
    while content[place : place + 4] == before:
        number = rng.choice([0, 1, 2, 7, 20240520, 20240801, -5, 2**31 - 1])
        content[place : place + 4] = number.to_bytes(4, "little", signed=True)


@rewritten
def no_header(content, rng):
    del content[:1024]


@rewritten
def one_token_more_with_its_header(content, rng):
    content[8:12] = (len(content) - 1023).to_bytes(4, "little")
    content += b"\1"


def removed(file, rng):
    file.unlink()


def a_directory(file, rng):
    file.unlink()
    file.mkdir()


def those_of_the_splits_exchanged(file, rng):
    other = file.with_name(next(name for name in MASKS if name != file.name))
    contents = file.read_bytes(), other.read_bytes()
    for path, content in zip((other, file), contents, strict=True):
        path.write_bytes(content)


def the_shard_in_its_place(file, rng):
    file.write_bytes(file.with_name(file.name.replace(".mask", "")).read_bytes())


def in_place_of_its_shard(file, rng):
    file.with_name(file.name.replace(".mask", "")).write_bytes(file.read_bytes())


def promised(change):
    """Damage of what the manifest says of the mask."""

    def damage(file, rng):
        manifest = json.loads((file.parent / "manifest.json").read_text())
        (info,) = (info for info in manifest["shards"] if info["mask"] == file.name)
        change(info, rng, manifest)
        (file.parent / "manifest.json").write_text(json.dumps(manifest))

    damage.__name__ = change.__name__
    return damage


@promised
def another_hash(info, rng, manifest):
    info["mask_sha256"] = rng.randbytes(32).hex()


@promised
def another_name(info, rng, manifest):
    info["mask"] = rng.choice(["none.mask.bin", "../own/a.mask.bin", "/etc/passwd", "", info["file"]])


@promised
def another_type(info, rng, manifest):
    info[rng.choice(["mask", "mask_sha256", "learned"])] = rng.choice([None, [], {}, 1.5, True])


@promised
def one_of_its_entries_gone(info, rng, manifest):
    del info[rng.choice(["mask", "mask_sha256", "learned"])]


@promised
def the_version_without_masks(info, rng, manifest):
    manifest["version"] = rng.choice([1, 3])


DAMAGES = [
    *(cut_short, lengthened, a_bit_flipped, a_token_learned_or_not, a_byte_that_is_no_bit, all_learned),
    *(nothing_learned, another_header, no_header, one_token_more_with_its_header, removed, a_directory),
    *(those_of_the_splits_exchanged, the_shard_in_its_place, in_place_of_its_shard),
    *(another_hash, another_name, another_type, one_of_its_entries_gone, the_version_without_masks),
]
VERIFIED = 4  # of each kind are also verified, file by file
IN_THE_MANIFEST = {another_name, another_type, one_of_its_entries_gone, the_version_without_masks}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_masks_are_refused_and_named_with_reason_and_remedy(small, tmp_path, damage):
    """Fifteen of each kind: 300. Some are also verified file by file, which names them."""
    for seed in range(15):
        rng, copy = random.Random(seed), tmp_path / str(seed)
        shutil.copytree(small.path, copy)
        file = copy / rng.choice(MASKS)
        damage(file, rng)
        with pytest.raises(InputError) as refused:
            open_dataset(copy)
        named = re.escape(file.name) if damage not in IN_THE_MANIFEST else r"manifest\.json|none|names|is named"
        named = r"(train|validation)-00000\.mask" if damage is those_of_the_splits_exchanged else named
        named = r"(train|validation)-00000\.bin" if damage is in_place_of_its_shard else named
        assert re.search(rf"{re.escape(str(copy))}.*({named}).*{REMEDY}", str(refused.value)), refused.value
        if damage in {*IN_THE_MANIFEST, a_directory} or seed >= VERIFIED:
            continue
        faults = [each for each in verify_shards(copy) if isinstance(each.found, InputError)]
        assert faults
        assert all(re.search(rf"{each.file}.*{REMEDY}", str(each.found)) for each in faults)
        assert [each.file for each in faults] == [file.name] or damage in (
            those_of_the_splits_exchanged,
            in_place_of_its_shard,
        )


def test_a_sound_dataset_is_verified_with_its_masks(small, tmp_path):
    found = [*verify_shards(small.path)]
    assert [(each.file, each.is_mask) for each in found] == [
        (name, ".mask." in name)
        for split in ("train", "validation")
        for name in (f"{split}-00000.bin", f"{split}-00000.mask.bin")
    ]
    said = run_gpt(tmp_path, "data", "verify", small.path)
    assert re.search(r"train-00000\.mask\.bin +train +[\d,]+ tokens  a mask of 0 and 1 +ok", said)
    shutil.copytree(small.path, tmp_path / "copy")
    (tmp_path / "copy" / MASKS[0]).unlink()
    said = run_gpt(tmp_path, "data", "verify", "copy", code=1)
    assert "1 of 4 shards and masks cannot be used" in said


def test_a_dataset_with_masks_is_opened_as_it_was_written(small):
    opened = open_dataset(small.path)
    assert opened.fingerprint == small.fingerprint
    assert opened.shards == small.shards
    for split in ("train", "validation"):
        one, two = getattr(small, split), getattr(opened, split)
        assert one.learned(0, one.tokens).tolist() == two.learned(0, two.tokens).tolist()
    again = open_dataset(small.path, small.shards)  # as other processes do
    assert again.train.is_masked


# ---- of other programs ----


def theirs(path, learned=(1, 0)):
    """Shards of another program, with a mask for the first."""
    Tokenizer.utf8_bytes().save(path / "tokenizer.json")
    for name in ("train", "val"):
        write_shard(path / f"{name}.bin", [np.arange(100, dtype="<u2")])
    write_shard(path / "train.mask.bin", [np.array(learned * 50, "u1")])


def test_a_mask_beside_a_shard_of_another_program_is_used(tmp_path):
    theirs(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.train.learned(0, 4).tolist() == [True, False, True, False]
    assert (dataset.train.is_masked, dataset.validation.is_masked) == (True, False)
    assert open_dataset(tmp_path, dataset.shards).fingerprint == dataset.fingerprint
    assert [each.file for each in verify_shards(tmp_path)] == ["train.bin", "train.mask.bin", "val.bin"]


@pytest.mark.parametrize(
    ("learned", "reason"),
    [
        ((0, 0), r"by its masks \(train\.mask\.bin\), no token of its train split is learned"),
        ((1, 2), r"train\.mask\.bin: holds a byte of 2, and a mask holds 0 and 1 only"),
        ((1,), r"train\.mask\.bin: is a mask of 50 tokens, and train\.bin has 100"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(tmp_path, learned, reason):
    theirs(tmp_path, learned)
    with pytest.raises(InputError, match=f"{reason}{REMEDY}"):
        open_dataset(tmp_path)


def test_what_is_learned_is_shown(small, tmp_path):
    assert re.search(r"train +[\d,]+ tokens .* [\d,]+ tokens learned", run_gpt(tmp_path, "data", "show", small.path))


def test_what_is_learned_of_a_document_is_said(small, tmp_path, said):
    text = run_gpt(tmp_path, "data", "show", small.path, "--document", "0")
    assert re.fullmatch(r"What is \d+ and \d+\? \d+", text)
    answer = text.rpartition(" ")[2]
    assert f"learned: {len(answer) + 1} tokens: {answer}<|endoftext|>" in said
