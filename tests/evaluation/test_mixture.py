"""Validation splits of several datasets: each by itself, and all of them by their weights."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import variant
from instruction_files import lines_of, made

from gpt.dataset.dataset import WeightedSource
from gpt.dataset.shards import Split
from gpt.evaluation.compare import Measured, loss_difference
from gpt.evaluation.loss import evaluate, summarize, sums_per_piece
from gpt.evaluation.mixture import MixedWindows
from gpt.evaluation.statistics import ratio_errors, spread
from gpt.evaluation.windows import Windows

END = 0
WEIGHTS = (Fraction(6, 10), Fraction(3, 10), Fraction(1, 10))


class Ids:
    """Ids in memory, in place of a shard."""

    mask = None

    def __init__(self, ids):
        self.ids, self.tokens = ids, len(ids)

    def read(self, start, count):
        return self.ids[start : start + count]


def text(tokens, length, seed):
    """Documents of about some length; not every one of a split ends with its end."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(1, 60, tokens)
    ids[generator.random(tokens) < 1 / length] = END
    return ids


IDS = [text(1800, 20, 1), text(1000, 30, 2), text(500, 15, 3)]


def mixed(tokens=None, context_length=16, mask=False):
    sources = [
        SimpleNamespace(dataset=SimpleNamespace(validation=Split("validation", [Ids(ids)])), weight=weight)
        for ids, weight in zip(IDS, WEIGHTS, strict=True)
    ]
    whole = Split("validation", [Ids(ids) for ids in IDS])
    return MixedWindows(whole, sources, context_length, END, tokens, mask)


def alone(number, tokens=None, mask=False):
    return Windows(Split("validation", [Ids(IDS[number])]), 16, END, tokens=tokens, document_mask=mask)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = variant("gpt2").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


BYTES = np.arange(1000) % 5 + 1


def sums_of(model, windows):
    return sums_per_piece(model, windows, BYTES, "cpu", torch.float32, 8)


@pytest.mark.parametrize(("tokens", "mask"), [(None, False), (330, False), (3, False), (330, True)])
def test_each_source_is_evaluated_as_it_is_alone(model, tokens, mask):
    windows = mixed(tokens, mask=mask)
    share = None if tokens is None else tokens // 3
    found = windows.of_sources(sums_of(model, windows))
    for number, evaluation in enumerate(found):
        expected = evaluate(model, alone(number, share, mask), BYTES, "cpu")
        assert evaluation.loss == pytest.approx(expected.loss, rel=1e-6)
        if tokens != 3:  # one window each, which is too little text to tell
            assert evaluation.loss_se == pytest.approx(expected.loss_se, rel=1e-4)
        assert (evaluation.tokens, evaluation.text_bytes) == (expected.tokens, expected.text_bytes)
    assert len(windows) == sum(len(alone(number, share)) for number in range(3))
    assert windows.targets == sum(evaluation.tokens for evaluation in found)
    assert windows.is_complete == (tokens is None)


def test_no_window_has_text_of_two_sources():
    windows = mixed()
    inputs, targets, _ = windows.read(range(len(windows)))
    rows = [alone(number).read(range(len(alone(number))))[:2] for number in range(3)]
    for found, expected in zip((inputs, targets), zip(*rows, strict=True), strict=True):
        assert torch.equal(found, torch.cat(expected))
    _, first = np.unique(windows.documents, return_index=True)
    for document in windows.documents[first]:
        assert len(set(windows.strata[windows.documents == document])) == 1


def test_the_figures_of_all_are_those_of_the_mixture(model):
    """The loss is the weighted mean; bits per byte are those of text of which a token is a source's by its weight."""
    windows = mixed()
    sums = sums_of(model, windows)
    every, parts = summarize(sums, windows), windows.of_sources(sums)
    weights = [float(weight) for weight in WEIGHTS]
    pairs = [*zip(weights, parts, strict=True)]
    assert every.loss == pytest.approx(sum(weight * part.loss for weight, part in pairs), rel=1e-12)
    nats, size = (
        sum(w * x for w, x in found)
        for found in ([(w, p.loss) for w, p in pairs], [(w, p.text_bytes / p.tokens) for w, p in pairs])
    )
    assert every.bits_per_byte == pytest.approx(nats / size / np.log(2), rel=1e-12)
    assert every.tokens == sum(part.tokens for part in parts) == every.split_tokens - 1


def test_the_errors_of_all_are_those_within_the_sources(model):
    """With many documents √Σ(w·se)², whatever lies between the sources."""
    windows = mixed()
    sums = sums_of(model, windows)
    sums[windows.strata == 1, 0] += 5 * sums[windows.strata == 1, 1]  # one is much harder
    every, parts = summarize(sums, windows), windows.of_sources(sums)
    within = np.sqrt(sum((float(weight) * part.loss_se) ** 2 for weight, part in zip(WEIGHTS, parts, strict=True)))
    assert every.loss_se == pytest.approx(within, rel=0.1)
    nats, tokens, _ = windows.weighted(sums.numpy()).T
    across = spread(ratio_errors(nats, tokens)[1], tokens, windows.documents)
    assert across.standard_error > 2 * within  # what would be said if the sources' shares were chance


def test_a_difference_of_all_is_the_weighted_mean_of_theirs(model):
    windows = mixed()
    one = sums_of(model, windows)
    two = one.clone()
    for number, gain in enumerate((0.1, 0.5, 0.0)):  # nothing but that: no chance is in it
        two[windows.strata == number, 0] -= gain * two[windows.strata == number, 1]
    found = loss_difference(*(Measured(windows.weighted(s.numpy()), windows) for s in (one, two)), windows.strata)
    assert found.value == pytest.approx(-(0.6 * 0.1 + 0.3 * 0.5))
    assert found.standard_error < 1e-12


@pytest.mark.parametrize("tokens", [1, 3, 100, 330, 500, 1000, 2000, 5399, 5400, 9000])
def test_a_budget_is_found_again_from_its_windows(tokens):
    windows = mixed(tokens)
    assert windows.within(tokens) == len(windows)
    assert len(mixed(windows.budget_of(len(windows)))) == len(windows)


def test_answers_only_is_said_of_the_sources_of_which_it_is_so(dataset, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(lines_of(60)))
    answers = made(tmp_path)
    for datasets, only, of in (([dataset, answers], False, "d"), ([dataset], False, ""), ([answers], True, "")):
        sources = [WeightedSource(each.path.name, each, Fraction(1, len(datasets))) for each in datasets]
        shards = [shard for each in datasets for shard in each.validation.shards]
        windows = MixedWindows(Split("validation", shards), sources, 16, 256)
        assert (windows.answers_only, windows.answers_of) == (only, of)
