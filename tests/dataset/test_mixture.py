"""Several datasets in one run: whose sample comes when, and which sample of its own it is."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import python_text, write_dataset

from gpt.dataset.dataset import Dataset
from gpt.dataset.mixture import Interleave, Interleaved, mix_datasets, open_weighted, source_names, whole_weights
from gpt.dataset.order import Stream
from gpt.errors import InputError
from gpt.hashing import row_hashes

WEIGHTS = [
    [1],
    [7, 3],
    [1, 1],
    [999_999, 1],
    [5, 3, 2],
    [1000, 1, 1],
    [4, 3, 3],
    [1] * 10,
    [1000, *[1] * 9],
    [512, 256, 128, 64, 32, 16, 8, 4, 2, 1],
    [985, 194, 129, 3],
    [551, 235, 235, 229, 199, 10],
    [500, 300, 150, 49, 1],
]


def shares(weights, count):
    """By the definition, in fractions: how many of the first `count` samples each source has."""
    if len(weights) == 1:
        return [count]
    whole = Fraction(sum(weights))
    cut = min(range(1, len(weights)), key=lambda cut: abs(sum(weights[:cut]) / whole - Fraction(1, 2)))
    first = (sum(weights[:cut]) * count / whole + Fraction(1, 2)).__floor__()
    return shares(weights[:cut], first) + shares(weights[cut:], count - first)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_each_sample_goes_where_the_definition_says_and_is_the_next_one_of_its_source(weights):
    dealt, interleave = [0] * len(weights), Interleave(weights)
    for sample in range(400):
        assert interleave.counts(sample) == shares(weights, sample) == dealt
        source, number = interleave.locate(sample)
        assert number == dealt[source]
        dealt[source] += 1


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_after_no_sample_is_a_source_away_from_its_weight_by_more_than_promised(weights):
    bound = {1: 0, 2: Fraction(1, 2), 3: 1}.get(len(weights), 2)
    total, interleave = sum(weights), Interleave(weights)
    for sample in [*range(1, 500), *range(10**12, 10**12 + 200)]:  # there is no drift to be found later
        counts = interleave.counts(sample)
        assert sum(counts) == sample
        off = max(abs(count - Fraction(weight * sample, total)) for count, weight in zip(counts, weights, strict=True))
        assert off < bound or (off <= bound and len(weights) <= 2)


def test_the_bound_holds_for_weights_of_all_kinds(rng):
    for _ in range(150):
        weights = sorted((rng.choice([rng.randint(1, 1000), 2 ** rng.randint(0, 20)]) for _ in range(9)), reverse=True)
        total, interleave = sum(weights), Interleave(weights)
        for sample in rng.choices(range(100_000), k=40):
            pairs = zip(interleave.counts(sample), weights, strict=True)
            assert max(abs(count * total - weight * sample) for count, weight in pairs) < 2 * total


def test_a_weight_of_less_than_a_thousandth_is_kept_too():
    interleave = Interleave([999_999, 1])
    assert interleave.counts(10**7) == [10**7 - 10, 10]
    assert [interleave.locate(sample)[0] for sample in (499_998, 499_999, 500_000, 500_001)].count(1) == 1


# ---- of datasets ----


def written(path, begin, end, tokenizer="bytes"):
    text = python_text()[begin:end]
    pieces = [text[i : i + 300] for i in range(0, len(text), 300)]
    return write_dataset([("validation" if i % 5 == 0 else "train", p) for i, p in enumerate(pieces)], tokenizer, path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Datasets of some 4,800, 1,900 and 960 training tokens."""
    home = tmp_path_factory.mktemp("data")
    places = {"large": (0, 6000), "middle": (6000, 8400), "small": (8400, 9600)}
    return [written(home / name, *place) for name, place in places.items()]


@pytest.fixture(scope="module")
def mixture(parts):
    return mix_datasets([*zip(parts, map(Fraction, (3, 6, 1)), strict=True)])


def test_the_samples_of_a_source_are_those_it_has_alone_in_their_order(parts, mixture):
    """Over some epochs of the smaller ones, which are shuffled anew each time."""
    loader = mixture.loader(8, 32, 5)
    batches = [loader.batch(step) for step in range(120)]
    seen = dict.fromkeys(range(3), 0)
    alone = {number: source.dataset.loader(1, 32, 5) for number, source in enumerate(mixture.sources)}
    for sample in range(120 * 8):
        source, number = loader.source.locate(sample)
        assert number == seen[source]
        seen[source] += 1
        batch, row = batches[sample // 8], sample % 8
        expected = alone[source].batch(number)
        assert torch.equal(batch.inputs[row], expected.inputs[0])
        assert torch.equal(batch.targets[row], expected.targets[0])
        assert loader.spans(sample) == alone[source].spans(number)
    times = loader.epochs(120)
    assert times == [seen[number] / alone[number].windows for number in range(3)]
    assert max(times) > 3
    assert loader.windows == sum(loader.windows for loader in alone.values())


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_read_the_rows_of_the_same_batch(mixture, ranks):
    loader = mixture.loader(8, 32, 5)
    for step in (0, 1, 17, 10**9):
        whole, share = loader.batch(step), 8 // ranks
        rows = [loader.batch(step, rank * share, share) for rank in range(ranks)]
        assert torch.equal(torch.cat([part.inputs for part in rows]), whole.inputs)
        samples = loader.samples(step)
        hashes = [row_hashes(samples[r * share :][:share], p.inputs, p.targets).sum() for r, p in enumerate(rows)]
        assert np.sum(hashes) == row_hashes(samples, whole.inputs, whole.targets).sum()


def test_a_single_source_is_read_as_if_it_were_no_mixture(parts):
    stream = Stream(parts[0].train, 32, 5)
    only = Interleaved([stream], [1])
    for sample in (0, 7, 300, 10**6):
        assert only.locate(sample) == (0, sample)
        assert only.spans(sample) == Stream(parts[0].train, 32, 5).spans(sample)


def test_only_proportions_count_and_no_order_of_naming(parts):
    one, two, _ = parts
    first = mix_datasets([(one, Fraction(7, 10)), (two, Fraction(3, 10))])
    again = mix_datasets([(two, Fraction(3)), (one, Fraction(7))])
    assert first.fingerprint == again.fingerprint
    assert [source.name for source in again.sources] == ["large", "middle"]
    assert [source.weight for source in again.sources] == [Fraction(7, 10), Fraction(3, 10)]
    assert torch.equal(first.loader(16, 32, 5).batch(3).inputs, again.loader(16, 32, 5).batch(3).inputs)


def test_a_fingerprint_names_every_dataset_and_weight(parts, mixture):
    one, two, three = parts
    named = [one.fingerprint, mixture.fingerprint]
    for weighted in ([(one, 1), (two, 1)], [(one, 2), (two, 1)], [(one, 1), (two, 2)], [(one, 1), (three, 1)]):
        named.append(mix_datasets([(dataset, Fraction(weight)) for dataset, weight in weighted]).fingerprint)
    assert len(set(named)) == len(named)


def test_its_splits_are_those_of_all(parts, mixture):
    for name in ("train", "validation"):
        split = getattr(mixture, name)
        assert split.tokens == sum(getattr(part, name).tokens for part in parts)
        own = [getattr(source.dataset, name) for source in mixture.sources]
        ids = [token for part in own for token in part.read(0, part.tokens).tolist()]
        assert split.read(0, split.tokens).tolist() == ids
    assert mixture.shortest == min(part.validation.tokens for part in parts)


def test_different_tokenizers_are_refused_by_name(parts, bpe, tmp_path):
    other = written(tmp_path / "other", 0, 3000, bpe)
    with pytest.raises(InputError, match=r"large \(bytes, 257 ids\) and .*other \(bpe, 600 ids\) are written with"):
        mix_datasets([(parts[0], Fraction(2)), (other, Fraction(1))])


def test_the_same_text_twice_is_refused_whatever_it_is_called(parts, tmp_path):
    (tmp_path / "copy").symlink_to(parts[0].path)
    paths = {parts[0].path: Fraction(1), tmp_path / "copy": Fraction(1), parts[1].path: Fraction(3)}
    with pytest.raises(InputError, match=r"(large|copy) and .*(large|copy) hold the same: name one of them"):
        open_weighted(paths)


def test_a_dataset_too_short_for_a_window_is_named(mixture):
    with pytest.raises(InputError, match=r"small: its validation split has [\d,]+ tokens; one window needs"):
        mixture.require_window(mixture.shortest)
    mixture.require_window(mixture.shortest - 1)


def test_one_path_opens_a_dataset_and_several_a_mixture(parts):
    assert type(open_weighted({parts[0].path: Fraction(1)})) is Dataset
    several = open_weighted({part.path: Fraction(1) for part in parts})
    assert [source.weight for source in several.sources] == [Fraction(1, 3)] * 3


def test_datasets_are_called_by_the_last_part_of_their_path_unless_two_have_the_same():
    assert source_names([Path("/data/a"), Path("/more/b")]) == ["a", "b"]
    assert source_names([Path("/data/a"), Path("/more/a")]) == ["/data/a", "/more/a"]


def test_whole_weights_are_exact():
    weights = [Fraction("0.7"), Fraction("0.2"), Fraction("0.1")]
    assert whole_weights(weights) == [7, 2, 1]
    tiny = Fraction("1e-30")
    assert whole_weights([1 - tiny, tiny]) == [10**30 - 1, 1]


def test_the_corpus_of_a_mixture_is_that_of_all_with_their_weights_if_all_say_it(parts):
    def corpus(weights, datasets=parts):
        return mix_datasets([*zip(datasets, map(Fraction, weights), strict=True)]).corpus_fingerprint

    other = [replace(parts[0], corpus_fingerprint="f" * 64), *parts[1:]]
    assert corpus((3, 6, 1)) == corpus((6, 12, 2))
    assert len({corpus((3, 6, 1)), corpus((3, 5, 1)), corpus((3, 6, 1), other)}) == 3
    assert corpus((3, 6, 1), [replace(parts[0], corpus_fingerprint=None), *parts[1:]]) is None


def test_how_often_each_source_is_read_has_its_name(parts, mixture):
    loader, alone = mixture.loader(4, 32, 0), parts[0].loader(4, 32, 0)
    read = dict(zip(("epoch/middle", "epoch/large", "epoch/small"), loader.epochs(7), strict=True))
    assert loader.epoch(7) == {"epoch": 28 / loader.windows, **read}
    assert alone.epoch(7) == {"epoch": 28 / alone.windows}


def test_a_batch_tells_the_rows_of_each_source_however_it_is_divided(parts, mixture):
    loader = mixture.loader(8, 32, 5)
    located = [loader.source.locate(sample)[0] for sample in loader.samples(3)]
    for first, count in ((0, 8), (2, 3), (7, 1)):
        own = located[first:][:count]
        rows = {name: [r for r, s in enumerate(own) if s == n] for n, name in enumerate(("middle", "large", "small"))}
        assert loader.batch(3, first, count).sources == rows
    assert parts[0].loader(8, 32, 5).batch(3).sources == {}


def test_a_run_goes_on_where_another_number_of_processes_left_it(mixture):
    """Two, then one, then four: together they read what one process reads, each sample once."""
    loader, read = mixture.loader(8, 32, 5), []
    for ranks, steps in ((2, range(5)), (1, range(5, 9)), (4, range(9, 14))):
        for step in steps:
            anew = mixture.loader(8, 32, 5)  # nothing but the step is known
            share = 8 // ranks
            read += [anew.batch(step, rank * share, share).inputs for rank in range(ranks)]
    assert torch.equal(torch.cat(read), torch.cat([loader.batch(step).inputs for step in range(14)]))
    located = [loader.source.locate(sample) for sample in range(14 * 8)]
    assert len(set(located)) == len(located)


def test_weights_that_rise_are_no_order_for_a_tree():
    with pytest.raises(AssertionError):
        Interleave([1, 2])
