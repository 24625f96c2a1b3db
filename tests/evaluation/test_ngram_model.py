import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from gpt.evaluation.ngram_model import NgramCounts

VOCAB = 7


def discounts(counts):
    """Chen and Goodman's equation 26, of the counts of all n-grams of one length."""
    n = Counter(counts)
    if not (n[1] and n[2]):
        return [0, 0.5, 0.5, 0.5]
    y = n[1] / (n[1] + 2 * n[2])
    found = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3] if n[3] else 0.5]
    return [0, *(min(max(d, 0), most) for d, most in zip(found, (1, 2, 3), strict=True))]


def by_hand(text, context, token, order):
    """The same model by its definition, from dictionaries."""
    if order == 0:
        return 1 / VOCAB

    def counted(length, longest):
        grams = [tuple(text[i : i + length]) for i in range(len(text) - length + 1)]
        if longest:
            return Counter(grams)
        before = defaultdict(set)
        for i in range(1, len(text) - length + 1):
            before[tuple(text[i : i + length])].add(text[i - 1])
        return Counter({gram: len(found) for gram, found in before.items()})

    def probability(context, length, longest):
        if length == 0:
            return 1 / VOCAB
        lower = probability(context[1:], length - 1, False)
        counts = counted(length, longest)
        taken = discounts(counts.values())
        after = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        total = sum(after.values())
        if not total:
            return lower
        left_over = sum(taken[min(count, 3)] for count in after.values())
        count = after.get(token, 0)
        return (count - taken[min(count, 3)] if count else 0) / total + left_over / total * lower

    return probability(tuple(context[len(context) - order + 1 :]), order, True)


@pytest.fixture(scope="module")
def text():
    return (np.random.default_rng(0).integers(0, 5, 300) ** 2 // 4).tolist()  # ids 0, 1, 2 and 4 of 0 … 6


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_are_those_of_the_definition(text, order):
    asked = [4, 0, 1, 2, 0, 5, 0, 1, 4, 4, 4, 3, 2, 2, 1, 0]  # with ids that the text lacks
    found = NgramCounts(np.array(text), VOCAB, 4).probabilities(np.array(asked), order)
    for place in range(order - 1, len(asked)):
        expected = by_hand(text, asked[:place], asked[place], order)
        assert math.isclose(found[place], expected, rel_tol=1e-12), place


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("context", [[], [0], [0, 1], [6, 6], [1, 3]])
def test_those_of_all_ids_add_up_to_one(text, order, context):
    counts = NgramCounts(np.array(text), VOCAB, 3)
    total = sum(counts.probabilities(np.array([*context, id]), order)[-1] for id in range(VOCAB))
    assert math.isclose(total, 1, rel_tol=1e-12)


def test_a_model_that_has_seen_more_predicts_what_repeats():
    counts = NgramCounts(np.tile([0, 1, 2, 0, 2, 1], 50), VOCAB, 3)
    asked = np.array([2, 1, 0, 1, 2, 0, 2, 1, 0, 1])
    unigrams, bigrams, trigrams = (counts.probabilities(asked, order)[2:] for order in (1, 2, 3))
    assert np.log(unigrams).sum() < np.log(bigrams).sum() < np.log(trigrams).sum()


@pytest.mark.parametrize("text", [[0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 0]])
def test_of_little_text_probabilities_are_still_probabilities(text):
    counts = NgramCounts(np.array(text), VOCAB, 5)
    for order in (1, 2, 5):
        totals = [sum(counts.probabilities(np.array([*text[:4], id]), order)[-1] for id in range(VOCAB))]
        assert np.allclose(totals, 1)
        assert (counts.probabilities(np.array(text), order) > 0).all()


def test_ids_of_a_large_vocabulary_do_not_wrap_around():
    ids = np.tile(np.array([50_256, 0, 50_255], dtype=np.uint16), 100)
    assert NgramCounts(ids, 50_257, 5).probabilities(ids[:30], 5)[5:].min() > 0.9
