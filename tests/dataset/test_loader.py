import itertools
import threading
from collections import Counter
from typing import cast

import numpy as np
import pytest
import torch

from gpt.choices import IGNORE_INDEX
from gpt.dataset.loader import Loader, Prefetcher
from gpt.dataset.order import permuted
from gpt.dataset.shards import Split
from gpt.errors import InputError
from gpt.hashing import mix, row_hashes


class Counting:
    """A split whose token at place i is i, so that each target says where it came from."""

    name, is_masked = "train", False

    def __init__(self, tokens):
        self.tokens = tokens

    def read(self, start, count):
        assert start >= 0 and start + count <= self.tokens
        return np.arange(start, start + count)


PERMUTED = [5, 11, 9, 1, 0, 8, 4, 10, 7, 2, 3, 6]


def split(tokens):
    return cast("Split", Counting(tokens))


def pair(batch):
    return batch.inputs, batch.targets


@pytest.mark.parametrize("tokens", [66, 129, 1000, 1001, 1025])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_reads_each_target_exactly_once(tokens, epoch):
    loader = Loader(split(tokens), batch=1, context_length=64, seed=3)
    seen = Counter()
    for sample in range(epoch * loader.windows, (epoch + 1) * loader.windows):
        targets = loader.batch(sample).targets
        seen.update(targets[targets != IGNORE_INDEX].tolist())
    assert seen == Counter(range(1, tokens))


def test_a_target_is_the_token_after_its_input():
    loader = Loader(split(1000), batch=4, context_length=64, seed=3)
    for step in range(20):
        inputs, targets = pair(loader.batch(step))
        assert inputs.shape == targets.shape == (4, 64)
        counted = targets != IGNORE_INDEX
        assert (targets - inputs)[counted].eq(1).all()
        assert counted.sum() > 0


def test_batches_are_the_samples_in_order():
    loader, other = Loader(split(1000), 6, 64, seed=3), Loader(split(1000), 2, 64, seed=3)
    batch, others = loader.batch(5), [other.batch(step) for step in (15, 16, 17)]
    assert batch.inputs.tolist() == [row for one in others for row in one.inputs.tolist()]
    assert batch.targets.tolist() == [row for one in others for row in one.targets.tolist()]


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        loader = Loader(split(3000), 1, 64, seed)
        return [tuple(loader.batch(epoch * loader.windows + i).targets[0].tolist()) for i in range(loader.windows)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_windows_are_shuffled():
    loader = Loader(split(64 * 1000 + 1), 1, 64, seed=0)
    starts = np.array([loader.batch(i).targets[0, 0] for i in range(1000)])
    assert abs(np.corrcoef(np.arange(1000), starts)[0, 1]) < 0.1
    assert (np.abs(np.diff(starts)) == 64).mean() < 0.02


def permuted_by(key, size):
    return permuted(np.arange(size), size, np.full(size, key, dtype=np.uint64)).tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100, 1000])
def test_the_permutation_is_one(size):
    for key in range(5):
        assert sorted(permuted_by(key, size)) == list(range(size))


def test_the_permutation_never_changes():
    """Else a resumed run would read other data: the values of the first version, computed one by one."""
    assert permuted_by(mix(7, 1), 12) == PERMUTED
    numbers = np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64)
    assert mix(3, numbers).tolist() == [mix(3, int(number)) for number in numbers]
    keys = np.arange(40, dtype=np.uint64) * np.uint64(2**59 + 1)
    together = permuted(np.arange(40) % 12, 12, keys).tolist()  # of several epochs
    assert together == [permuted_by(key, 12)[place % 12] for place, key in enumerate(keys.tolist())]


def test_a_batch_across_the_end_of_an_epoch_has_rows_of_both():
    loader, single = Loader(split(1000), 7, 64, seed=3), Loader(split(1000), 1, 64, seed=3)
    assert loader.windows == 16  # so the third batch begins in one epoch and ends in the next
    for step in (*range(10), 146):  # the last one begins in one block of samples and ends in the next
        rows = [pair(single.batch(sample)) for sample in loader.samples(step)]
        for one, others in zip(pair(loader.batch(step)), zip(*rows, strict=True), strict=True):
            assert torch.equal(one, torch.cat(others))


def test_permutations_look_random():
    """Over many keys each place is as likely as the others (chi-squared, 9 degrees of freedom, p = 1e-4)."""
    counts = np.bincount(permuted(np.zeros(5000), 10, mix(np.arange(5000, dtype=np.uint64))).astype(int), minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 33.7


def test_mix_depends_on_every_number_and_their_order():
    assert len({mix(1, 2, 3), mix(1, 3, 2), mix(1, 2), mix(1, 2, 4), mix(2, 2, 3)}) == 5
    assert all(0 <= mix(i) < 2**64 for i in range(100))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_processes_read_the_rows_of_the_same_batch(ranks):
    """Three epochs and more: the rows of all ranks, one after the other, and the sum of their hashes."""
    loader = Loader(split(1000), batch=8, context_length=16, seed=3)
    for step in range(30):
        whole = pair(loader.batch(step))
        share = 8 // ranks
        parts = [pair(loader.batch(step, rank * share, share)) for rank in range(ranks)]
        for one, others in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(one, torch.cat(others))
        samples = loader.samples(step)
        hashes = [row_hashes(samples[r * share :][:share], *part).sum() for r, part in enumerate(parts)]
        assert np.sum(hashes) == row_hashes(samples, *whole).sum()


def test_a_hash_names_the_rows_their_order_and_their_place():
    loader = Loader(split(1000), batch=4, context_length=16, seed=3)
    inputs, targets = pair(loader.batch(0))
    seen = {int(row_hashes(range(4), inputs, targets).sum())}
    seen.add(int(row_hashes(range(1, 5), inputs, targets).sum()))
    for x, y in ((inputs.flip(0), targets.flip(0)), (inputs + 1, targets), (inputs, targets + 1)):
        seen.add(int(row_hashes(range(4), x, y).sum()))
    assert len(seen) == 5


def test_a_hash_is_that_of_plain_numbers_and_each_number_and_place_counts():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.integers(-100, 2**32, (3, 2, 40)))

    def plain(sample, *parts):
        sums = [
            sum(number * mix(place, i) for i, number in enumerate(part)) % 2**64 for place, part in enumerate(parts)
        ]
        return mix(sample, *sums) >> 1

    expected = [plain(7 + row, *rows[:, row].tolist()) for row in range(2)]
    assert row_hashes(range(7, 9), *rows).tolist() == expected
    seen = {expected[0]}
    for part, place in itertools.product(range(3), range(40)):
        changed = rows.clone()
        changed[part, 0, place] += 1 << (place % 17)
        seen.add(int(row_hashes(range(7, 9), *changed)[0]))
        changed = rows.clone()
        changed[part, 0, [place, place - 1]] = changed[part, 0, [place - 1, place]]
        seen.add(int(row_hashes(range(7, 9), *changed)[0]))
    assert len(seen) == 1 + 2 * 3 * 40


# ---- the next batch, read in a thread ----


def test_batches_that_are_read_ahead_are_the_loaders():
    loader = Loader(split(1000), 7, 64, seed=3)
    with Prefetcher(Loader(split(1000), 7, 64, seed=3), 2, 3) as ahead:
        for step in (0, 1, 2, 3, 9, 4, 4, 146, 0):  # also where it goes on from another step
            assert ahead.fault(step) is None
            for one, other in zip(pair(ahead.batch(step)), pair(loader.batch(step, 2, 3)), strict=True):
                assert torch.equal(one, other)


class Losing(Counting):
    """A split that cannot be read from some read on."""

    def __init__(self, tokens, error, reads):
        super().__init__(tokens)
        self.error, self.reads = error, reads

    def read(self, start, count):
        self.reads -= 1
        if self.reads < 0:
            raise self.error
        return super().read(start, count)


def test_what_cannot_be_read_is_told_at_its_own_step():
    lost = Losing(64 * 100 + 1, InputError("x.bin: was removed"), reads=8)
    with Prefetcher(Loader(cast("Split", lost), 4, 64, seed=3)) as ahead:
        for step in range(2):
            assert ahead.fault(step) is None
            assert ahead.batch(step).inputs.shape == (4, 64)
        assert str(ahead.fault(2)) == "x.bin: was removed"
        with pytest.raises(InputError, match="was removed"):
            ahead.batch(2)


def test_a_mistake_of_the_program_is_no_fault_of_the_data():
    lost = Losing(1000, ZeroDivisionError(), reads=0)
    with Prefetcher(Loader(cast("Split", lost), 1, 64, seed=3)) as ahead, pytest.raises(ZeroDivisionError):
        ahead.fault(0)


def test_the_next_batch_is_read_before_it_is_asked_for_and_no_thread_is_left():
    read, threads = threading.Event(), threading.active_count()

    class Noted(Counting):
        def read(self, start, count):
            if threading.current_thread() is not threading.main_thread():
                noted.append(start)
                if len(noted) > 1:
                    read.set()
            return super().read(start, count)

    noted = []
    with pytest.raises(KeyboardInterrupt), Prefetcher(Loader(cast("Split", Noted(1000)), 1, 64, seed=3)) as ahead:
        ahead.batch(0)
        assert read.wait(10)
        raise KeyboardInterrupt
    assert threading.active_count() == threads


def test_a_gpu_gets_batches_from_pinned_memory_on_its_own_number(monkeypatch):
    """Without one, what would be called."""
    called = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", called.append)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: called.append("pinned") or tensor)
    for end_of_text in (None, 500):
        called.clear()
        loader = Loader(split(1000), 2, 64, seed=3, end_of_text=end_of_text)
        with Prefetcher(loader, device="cuda") as ahead:
            for one, other in zip(ahead.batch(0).tensors, loader.batch(0).tensors, strict=True):
                assert torch.equal(one, other)
        tensors = 2 if end_of_text is None else 3
        assert called[: 1 + tensors] == [3, *["pinned"] * tensors]
