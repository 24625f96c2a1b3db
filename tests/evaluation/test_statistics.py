"""Standard errors must cover: of many corpora of one kind, 95 of 100 intervals hold that kind's true figure."""

import math
from itertools import accumulate

import numpy as np
import pytest

from gpt.evaluation.statistics import (
    FEWEST_PIECES,
    Share,
    effective_number,
    excess,
    paired_excess,
    ratio_errors,
    spread,
    student_t,
)

TRUE = 2.0


def documents(generator, number, inequality):
    """Nats, tokens and document of each window, as real corpora have them.

    Lengths of documents are heavy-tailed, and windows of one document are alike: its author's mean, and what is
    hard for a while.
    """
    windows = np.maximum(1, np.round(np.exp(generator.normal(0, inequality, size=number)) * 4)).astype(int)
    document = np.repeat(np.arange(number), windows)
    tokens = np.full(len(document), 128.0)
    tokens[np.cumsum(windows) - 1] = generator.integers(1, 129, size=number)
    mean = np.repeat(generator.normal(TRUE, 0.4, size=number), windows)
    return tokens * (mean + 0.3 * wandering(generator, len(document), 3)), tokens, document


def wandering(generator, length, memory):
    """An autoregression of variance 1 whose correlation falls to 1/e over `memory` places: (length,)."""
    rate = math.exp(-1 / memory)
    share = math.sqrt(1 - rate**2)
    values = generator.normal(size=length).tolist()
    return np.array(list(accumulate(values, lambda before, new: rate * before + share * new)))


def covered(draws, spread_of):
    held = []
    for nats, tokens, document in draws:
        loss, errors = ratio_errors(nats, tokens)
        held.append(abs(loss - TRUE) <= spread_of(errors, tokens, document).half_width)
    return np.mean(held)


def windows_as_units(errors, tokens, document):
    return spread(errors, tokens, np.arange(len(errors)))


@pytest.mark.parametrize(("number", "inequality"), [(6, 0.3), (12, 0.7), (34, 1.5), (50, 1.3), (200, 1.0)])
def test_intervals_over_documents_cover(number, inequality):
    """Those over windows, which take neighbors for independent, do not."""
    generator = np.random.default_rng(number)
    draws = [documents(generator, number, inequality) for _ in range(600)]
    assert 0.92 < covered(draws, spread) < 0.985
    assert covered(draws, windows_as_units) < 0.85


@pytest.mark.parametrize(("windows", "memory"), [(40, 1), (200, 4), (1000, 20), (1000, 1)])
def test_intervals_over_blocks_of_a_single_text_cover(windows, memory):
    generator = np.random.default_rng(windows)
    tokens, one = np.full(windows, 128.0), np.zeros(windows, dtype=int)
    draws = [(tokens * (TRUE + wandering(generator, windows, memory)), tokens, one) for _ in range(600)]
    assert 0.91 < covered(draws, spread) < 0.985
    if memory > 1:
        assert covered(draws, windows_as_units) < 0.75


def test_over_bootstrap_draws_of_documents_intervals_hold_the_loss_of_all():
    generator = np.random.default_rng(1)
    nats, tokens, document = documents(generator, 45, 1.2)
    by_document = np.stack([np.bincount(document, nats), np.bincount(document, tokens)])
    everything, held = by_document[0].sum() / by_document[1].sum(), []
    for _ in range(500):
        drawn = by_document[:, generator.integers(0, 45, size=45)]
        loss, errors = ratio_errors(*drawn)
        held.append(abs(loss - everything) <= spread(errors, drawn[1], np.arange(45)).half_width)
    assert 0.91 < np.mean(held) < 0.98


def test_the_standard_error_is_the_jackknifes():
    """Of documents of one, two and many pieces, against leaving out each and taking the ratio anew."""
    generator = np.random.default_rng(0)
    document = np.sort(generator.integers(0, 9, size=40))
    tokens = generator.integers(1, 50, size=40).astype(float)
    nats = tokens * generator.normal(2, 0.5, size=40)
    loss, errors = ratio_errors(nats, tokens)
    without = [
        nats[document != left_out].sum() / tokens[document != left_out].sum() for left_out in np.unique(document)
    ]
    found = spread(errors, tokens, document)
    assert found.standard_error == pytest.approx(np.sqrt(((np.array(without) - loss) ** 2).sum()))
    assert found.units == f"{len(without)} documents"


def test_a_document_that_outweighs_the_others_is_cut_into_blocks():
    generator = np.random.default_rng(0)
    document = np.repeat([0, 1, 2, 3, 4], [400, 1, 1, 1, 1])
    tokens = np.full(len(document), 128.0)
    nats = tokens * generator.normal(2, 0.5, size=len(document))
    found = spread(ratio_errors(nats, tokens)[1], tokens, document)
    assert "blocks of neighboring windows" in found.units
    assert found.standard_error == pytest.approx(0.5 / np.sqrt(404), rel=0.4)


def test_of_too_little_text_no_error_is_stated():
    def of(pieces, documents):
        errors = ratio_errors(np.arange(pieces, dtype=float), np.ones(pieces))[1]
        return spread(errors, np.ones(pieces), np.arange(pieces) % documents)

    assert of(1, 1) is of(2, 1) is of(FEWEST_PIECES - 1, 1) is of(FEWEST_PIECES - 1, 2) is None
    assert of(FEWEST_PIECES, 1) is not None
    assert of(4, 4) is not None
    assert of(4, 2) is None
    assert spread(np.zeros(20), np.zeros(20), np.arange(20)) is None  # nothing was weighed


def test_equal_pieces_have_no_error():
    assert spread(ratio_errors(np.full(64, 8.0), np.full(64, 4.0))[1], np.full(64, 4.0), np.zeros(64)).half_width == 0


@pytest.mark.parametrize(
    ("freedom", "tabulated"), [(2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (1000, 1.9623)]
)
def test_students_t_is_that_of_tables(freedom, tabulated):
    assert student_t(freedom) == pytest.approx(tabulated, rel=0.01 if freedom == 2 else 0.002)


def test_the_effective_number_is_of_equal_units():
    assert effective_number(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_number(np.array([1e9, 1, 1])) == pytest.approx(1)


@pytest.mark.parametrize(("hits", "of"), [(0, 10), (5, 10), (12, 100), (10, 10), (1, 1)])
def test_intervals_of_shares_hold_what_a_test_would_not_reject(hits, of):
    """As Wilson has it: the true shares p from which the one found is at most 1.96 √(p (1 − p) / n) away."""
    share, true = Share(hits, of), np.linspace(0, 1, 100_001)
    held = true[np.abs(true - hits / of) <= 1.959964 * np.sqrt(true * (1 - true) / of)]
    assert share.interval == pytest.approx((held.min(), held.max()), abs=1e-5)
    assert share.value == hits / of


def test_a_share_of_nothing_may_be_any():
    assert Share(0, 0).interval == (0.0, 1.0)
    assert np.isnan(Share(0, 0).value)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3])
@pytest.mark.parametrize(("one", "two"), [(1000, 100), (60, 7), (1, 1)])
def test_of_equal_shares_one_is_seldom_surely_above_the_other(rate, one, two):
    generator = np.random.default_rng(0)
    sure = [
        excess(Share(int(generator.binomial(one, rate)), one), Share(int(generator.binomial(two, rate)), two)).is_sure
        for _ in range(2000)
    ]
    assert np.mean(sure) < 0.05
    pairs = generator.random((2000, 2, one)) < rate
    assert np.mean([paired_excess(*pair).is_sure for pair in pairs]) < 0.05


def test_shares_that_differ_are_told_apart():
    assert excess(Share(20, 100), Share(2, 100)).is_sure
    assert not excess(Share(1, 100), Share(0, 100)).is_sure
    known = np.arange(100) < 50
    assert not paired_excess(known, known).is_sure
    found = paired_excess(np.arange(100) < 60, known)  # ten that the other lacks, and none of the other's
    assert found.is_sure
    assert found.value == pytest.approx(10 / 102)
