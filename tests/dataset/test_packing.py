from collections import Counter
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import exact

from gpt.choices import IGNORE_INDEX
from gpt.dataset import packing, shards
from gpt.dataset.loader import Loader
from gpt.dataset.order import Stream
from gpt.dataset.packing import Packed, best_fit, packing_of
from gpt.dataset.shards import Shard, Split, write_shard
from gpt.errors import InputError
from gpt.hashing import row_hashes

END = 256
T = 16
RANDOM = np.random.default_rng(0)
TEXTS = {
    "random": [RANDOM.integers(0, END, length).tolist() for length in RANDOM.geometric(0.04, 150) - 1],
    "empty": [[1, 2], [], [], [3], [], [4, 5, 6]],
    "single tokens": [[token] for token in range(40)],
    "long": [[*range(100)], [*range(16)], [*range(15)], [*range(17)], [*range(31)], [*range(32)]],
    "one": [[*range(60)]],
}


@pytest.fixture(autouse=True)
def in_small_parts(monkeypatch):
    """Chunks, batches of pieces and blocks of samples end in the midst of all these texts."""
    monkeypatch.setattr(shards, "CHUNK_TOKENS", 7)
    monkeypatch.setattr(packing, "TOGETHER", 12)
    packing_of.cache_clear()


@pytest.fixture
def make_split(tmp_path):
    """Writes ids as the shards of a split, cut anywhere."""

    def make(ids, cuts=(50,)):
        parts = np.split(np.array(ids, dtype="<u2"), [cut for cut in cuts if cut < len(ids)])
        paths = [tmp_path / f"{number}.bin" for number in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            write_shard(path, [part])
        return Split("train", [Shard(path) for path in paths])

    return make


def stream(texts, first=False, last=False):
    """Ids with an end-of-text between documents, and if so before the first, and after the last."""
    ids = [id for text in texts for id in (END, *text)][not first :]
    return [*ids, END] if last else ids


def apart(ids):
    """Documents as they are learned from, by hand: inputs and targets, of which each begins with an end-of-text but the
    first, which has none before it."""
    found, inputs, targets = [], [], []
    for before, id in pairwise(ids):
        inputs.append(before)
        targets.append(id)
        if id == END:
            found.append((inputs, targets))
            inputs, targets = [], []
    return [*found, (inputs, targets)] if targets else found


@pytest.fixture(params=TEXTS)
def ids(request):
    return stream(TEXTS[request.param])


@pytest.mark.parametrize("ends", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("name", TEXTS)
def test_an_epoch_reads_each_target_exactly_once(name, ends, make_split):
    split = make_split(stream(TEXTS[name], *ends))
    samples = Packed(split, T, 3, END)
    for epoch in (0, 3):
        seen = Counter()
        for sample in range(epoch * samples.count, (epoch + 1) * samples.count):
            for start, length in samples.spans(sample):
                seen.update(range(start + 1, start + 1 + length))
        assert seen == Counter(range(1, split.tokens))


def test_a_document_is_cut_only_where_it_is_longer_than_a_window(ids, make_split):
    """Each piece is a whole document, or the next T targets of a longer one, or what remains of it."""
    samples = Packed(make_split(ids), T, 3, END)
    pieces = sorted(span for sample in range(samples.count) for span in samples.spans(sample))
    expected, start = [], 0
    for inputs, _ in apart(ids):
        expected += [(start + begin, min(T, len(inputs) - begin)) for begin in range(0, len(inputs), T)]
        start += len(inputs)
    assert pieces == expected
    for sample in range(samples.count):
        spans = samples.spans(sample)
        assert spans == sorted(spans) and sum(length for _, length in spans) <= T


def test_a_batch_is_its_pieces_side_by_side(ids, make_split):
    loader = Loader(make_split(ids), 3, T, 3, partial(Packed, end_of_text=END), END)
    for step in range(8):
        batch = loader.batch(step)
        for sample, *row in zip(loader.samples(step), batch.inputs, batch.targets, batch.documents, strict=True):
            inputs, targets, documents, number = [], [], [], 0
            for start, length in loader.spans(sample):
                inputs += ids[start : start + length]
                targets += ids[start + 1 : start + 1 + length]
                number += 1
                documents += [number] * length
            filled = T - len(inputs)
            inputs, targets = inputs + [0] * filled, targets + [IGNORE_INDEX] * filled
            documents += [number + 1] * filled
            assert [column.tolist() for column in row] == [inputs, targets, documents]


@pytest.mark.parametrize("windows", ["stream", "packed"])
def test_documents_of_a_row_are_those_of_its_ids(ids, windows, make_split):
    """One begins where the row does not go on in the split: a plain stream's begin anywhere, and wrap at its end."""
    samples = Stream if windows == "stream" else partial(Packed, end_of_text=END)
    loader, plain = (Loader(make_split(ids), 3, T, 3, samples, end) for end in (END, None))
    assert plain.batch(0).documents is None and len(plain.batch(0).tensors) == 2
    wraps = 0
    for step in range(2 * loader.windows):
        batch = loader.batch(step)
        assert torch.equal(batch.inputs, plain.batch(step).inputs)
        assert torch.equal(batch.targets, plain.batch(step).targets)
        rows = batch.inputs.tolist(), batch.documents.tolist()
        for sample, inputs, documents in zip(loader.samples(step), *rows, strict=True):
            places = [start + i for start, length in loader.spans(sample) for i in range(length)]
            wraps += places != sorted(places)
            filled = len(places)
            for t in range(1, T):
                starts_anew = t == filled or (t < filled and places[t] != places[t - 1] + 1)
                new = inputs[t] == END or starts_anew
                assert documents[t] == documents[t - 1] + int(new), (sample, t)
    assert (wraps > 0) == (windows == "stream")


@torch.no_grad()
@pytest.mark.parametrize("windows", ["stream", "packed"])
def test_a_masked_epoch_has_the_loss_of_each_document_alone(windows, make_split):
    """Of all documents that fit into a window, from the ids themselves; a stream cuts some of them."""
    model, texts = exact("modern"), [text for text in TEXTS["random"] if len(text) < T] + TEXTS["empty"]
    ids = stream(texts)
    samples = Stream if windows == "stream" else partial(Packed, end_of_text=END)
    loader = Loader(make_split(ids), 4, T, 3, samples, END)
    alone = sum(model(torch.tensor([x]), targets=torch.tensor([y])) for x, y in apart(ids))
    total = 0.0
    for sample in range(loader.windows):
        row = [tensor[sample % 4, None] for tensor in loader.batch(sample // 4).tensors]
        total += model(row[0], targets=row[1], documents=row[2])
    assert (float(total) == pytest.approx(float(alone), rel=1e-12)) == (windows == "packed")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_processes_read_the_rows_of_the_same_batch(ranks, make_split):
    loader = Loader(make_split(stream(TEXTS["random"])), 8, T, 3, partial(Packed, end_of_text=END), END)
    share = 8 // ranks
    for step in range(20):
        whole = loader.batch(step).tensors
        parts = [loader.batch(step, rank * share, share).tensors for rank in range(ranks)]
        for one, others in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(one, torch.cat(others))
        samples = loader.samples(step)
        hashes = [row_hashes(samples[r * share :][:share], *part).sum() for r, part in enumerate(parts)]
        assert np.sum(hashes) == row_hashes(samples, *whole).sum() != row_hashes(samples, *whole[:2]).sum()


def test_the_order_depends_on_seed_and_epoch_alone(make_split):
    split = make_split(stream(TEXTS["random"]))

    def order(seed, epoch):
        samples = Packed(split, T, seed, END)
        return [samples.spans(epoch * samples.count + i) for i in range(samples.count)]

    assert order(1, 0) == order(1, 0)
    for other in (order(1, 1), order(2, 0)):
        assert order(1, 0) != other
        assert sorted(order(1, 0)) == sorted(other)  # the same windows


def rooms_by_hand(lengths, capacity):
    """What is left in each bin, when one piece is placed after another; bins with the same room are all the same."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        room = min((room for room in rooms if room >= length), default=None)
        if room is None:
            room = capacity
        else:
            rooms.remove(room)
        rooms.append(room - length)
    return sorted(rooms)


@pytest.mark.parametrize("capacity", [1, 2, 7, 100])
@pytest.mark.parametrize("pieces", [0, 1, 5, 60, 700])
def test_best_fit_is_best_fit(capacity, pieces):
    random = np.random.default_rng(pieces)
    for skew in (1, 3):
        lengths = 1 + (capacity * random.random(pieces) ** skew).astype(np.int32)
        bins = best_fit(lengths, capacity)
        rooms = capacity - np.bincount(bins, weights=lengths)
        assert sorted(rooms.tolist()) == rooms_by_hand(lengths.tolist(), capacity)


def test_windows_of_many_documents_are_full(make_split, monkeypatch, said):
    """Lengths as in a corpus of texts, spread over two orders of magnitude: less than 1 % is empty."""
    monkeypatch.undo()
    lengths = np.random.default_rng(0).lognormal(5, 1.2, 3000).astype(int)
    split = make_split(stream([[1] * length for length in lengths]), cuts=(10_000, 200_000))
    samples = Packed(split, 256, 0, END)
    assert samples.count * 256 < 1.01 * (split.tokens - 1)
    Packed(split, 256, 1, END)
    (line,) = said  # gone through once
    assert line == f"train: {samples.count:,} windows that begin at documents; " + (
        f"{1 - (split.tokens - 1) / (samples.count * 256):.2%} of their places are empty"
    )


def test_a_shard_that_is_lost_is_told_when_it_is_packed(make_split, tmp_path):
    split = make_split(stream(TEXTS["random"]))
    (tmp_path / "1.bin").unlink()
    with pytest.raises(InputError, match="1.bin: .*(removed|cannot be read)"):
        Packed(split, T, 3, END)
