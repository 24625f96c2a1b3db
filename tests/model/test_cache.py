from dataclasses import replace

import pytest
import torch
from helpers import SHAPE, VARIANTS, exact

from gpt import InputError
from gpt.model.cache import KVBlock, KVCache, Lookahead, RaggedBatch, StaticCache


def new_cache(model):
    return KVCache(KVBlock(model.config, dtype=model.dtype))


def random_ids(*shape):
    return torch.randint(257, shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_one_sequence_read_in_pieces_has_the_logits_of_the_full_pass(name):
    model, ids = exact(name), random_ids(1, 48)
    cache = new_cache(model)
    pieces = [model(ids[:, :7], cache), model(ids[:, 7:20], cache)]
    pieces += [model(ids[:, t : t + 1], cache) for t in range(20, 48)]
    assert (torch.cat(pieces, dim=1) - model(ids)).abs().max() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_rows_of_different_lengths_have_the_logits_of_the_full_pass(name):
    model, ids = exact(name), random_ids(4, 48)
    lengths = [1, 5, 20, 33]
    caches = [new_cache(model) for _ in lengths]
    for row, cache, length in zip(ids, caches, lengths, strict=True):
        model(row[None, :length], cache)
    for step in range(15):
        newest = torch.stack([row[length + step] for row, length in zip(ids, lengths, strict=True)])
        logits = model(newest[:, None], RaggedBatch(caches), last=True)
        for i, (row, length) in enumerate(zip(ids, lengths, strict=True)):
            assert (logits[i] - model(row[None, : length + step + 1])[0, -1]).abs().max() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_ids_that_are_read_ahead_have_the_logits_of_the_full_pass(name):
    """Alone and beside others, and again after some of them turned out to be wrong."""
    model, ids = exact(name), random_ids(3, 48)
    caches = [new_cache(model) for _ in range(3)]
    for row, cache, length in zip(ids, caches, (20, 5, 1), strict=True):
        model(row[None, :length], cache)
    wrong = torch.tensor([ids[0, 20], *(ids[0, 21:24] + 1) % 257])
    alone = model(wrong[:, None], Lookahead(caches[0], wrong.tolist()), last=True)
    assert (alone - model(torch.cat([ids[:1, :20], wrong[None]], dim=1))[0, 20:]).abs().max() < 1e-10
    assert (caches[0].length, caches[0].ahead) == (21, 3)
    caches[0].ahead = 0
    batch = RaggedBatch(
        [Lookahead(caches[0], ids[0, 21:26].tolist()), caches[1], Lookahead(caches[2], [int(ids[2, 1])])]
    )
    rows = torch.cat([ids[0, 21:26], ids[1, 5:6], ids[2, 1:2]])
    logits = model(rows[:, None], batch, last=True)
    expected = torch.cat([model(ids[:1, :26])[0, 21:], model(ids[1:2, :6])[0, 5:], model(ids[2:, :2])[0, 1:]])
    assert (logits - expected).abs().max() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_slots_have_the_logits_of_the_full_pass(name):
    """With one slot unused, and another given to a new sequence midway."""
    model, ids = exact(name), random_ids(4, 48)
    slots = StaticCache(model.config, 4, "cpu", model.dtype)
    sequences = {0: [0, 9], 2: [1, 1], 3: [2, 30]}  # slot: row and length
    for slot, (row, length) in sequences.items():
        model(ids[row : row + 1, :length], slots.slot(slot))
    for step in range(16):
        if step == 8:
            sequences[2] = [3, 14]
            model(ids[3:4, :14], slots.slot(2))
        newest = torch.zeros(4, 1, dtype=torch.int64)
        for slot, (row, length) in sequences.items():
            newest[slot] = ids[row, length]
        slots.begin_step({slot: length for slot, (_, length) in sequences.items()})
        logits = model(newest, slots, last=True)
        for slot, (row, length) in sequences.items():
            assert (logits[slot] - model(ids[row : row + 1, : length + 1])[0, -1]).abs().max() < 1e-10
            sequences[slot][1] += 1


def test_slots_read_no_more_than_the_longest_needs():
    slots = StaticCache(replace(SHAPE, context_length=1000), 3, "cpu")
    for lengths, read in [({0: 0}, 128), ({0: 127, 2: 5}, 128), ({1: 128}, 256), ({0: 600, 1: 7}, 1000)]:
        slots.begin_step(lengths)
        assert slots.read == read
        assert slots.lengths.tolist() == [lengths.get(slot, 0) for slot in range(3)]


def test_a_cache_takes_the_memory_it_was_asked_for_and_no_more_than_the_context():
    """Rounded up to 16 positions."""
    assert KVBlock(SHAPE, 10).store.shape == (2, 2, 1, 4, 16, 8)
    assert KVBlock(SHAPE, 1000, sequences=3).store.shape == (2, 2, 3, 4, 48, 8)
    assert KVBlock(replace(SHAPE, n_kv_head=2, context_length=50)).store.shape == (2, 2, 1, 2, 64, 8)


def test_beyond_its_room_a_cache_is_refused(model):
    cache = KVCache(KVBlock(model.config, 10))
    model(random_ids(1, 8), cache)
    with pytest.raises(InputError, match="11 positions do not fit into the cache, which has room for 10"):
        model(random_ids(1, 3), cache)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_a_copied_beginning_goes_on_like_its_original_and_apart_from_it(name):
    model, ids = exact(name), random_ids(2, 30)
    original, copy = new_cache(model), new_cache(model)
    model(ids[:1, :20], original)
    model(ids[:1, 20:30], original)
    copy.copy_from(original, 20)
    other = torch.cat([ids[:1, :20], ids[1:, :10]], dim=1)
    torch.testing.assert_close(model(ids[1:, :10], copy), model(other)[:, 20:], atol=1e-10, rtol=0)
    torch.testing.assert_close(
        model(ids[1:, :1], original), model(torch.cat([ids[:1], ids[1:, :1]], 1))[:, -1:], atol=1e-10, rtol=0
    )
