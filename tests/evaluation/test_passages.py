"""What is read of passages, against plain formulas, token by token, and against what the engine generates."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SHAPE

from gpt import GPT, InputError, SamplingConfig, Tokenizer, generate
from gpt.dataset.shards import MemorySplit
from gpt.evaluation.passages import FEWEST_PIECES, LENGTH, SHORTEST, Passages, passage_length
from gpt.generation.sampling import candidates, draw_logprob

DRAWN = partial(draw_logprob, sampling=SamplingConfig())


def dataset_of(train, validation, tokenizer=None):
    splits = MemorySplit("train", np.array(train)), MemorySplit("validation", np.array(validation))
    return SimpleNamespace(train=splits[0], validation=splits[1], tokenizer=tokenizer or Tokenizer.utf8_bytes())


@pytest.fixture
def ids(model):
    """Three passages of 40 ids: what the model goes on with by itself, that with another last id, and others."""
    rng = np.random.default_rng(0)
    found = []
    for kind in range(3):
        first = rng.integers(0, 256, 20).tolist()
        second = list(generate(model, first, max_tokens=20, temperature=0))
        if kind == 1:
            second[-1] = (second[-1] + 1) % 256
        if kind == 2:
            second = rng.integers(0, 256, 20).tolist()
        found += [*first, *second]
    return found


def read(model, train, length, monkeypatch, **options):
    monkeypatch.setattr("gpt.evaluation.passages.passage_length", lambda *_: length)
    passages = Passages(dataset_of(train, range(250)), model.config.context_length, "cpu", DRAWN, **options)
    assert passages.length == length
    return passages, passages.read(model, passages.train)


@torch.no_grad()
def test_losses_and_what_comes_out_are_those_of_plain_formulas(model, ids, monkeypatch):
    # Windows end to end share an id: the last of one is the first of the next. So each passage is read by itself.
    for number, comes_out in enumerate((True, False, False)):
        own = ids[40 * number : 40 * number + 40]
        passages, scores = read(model, own, 40, monkeypatch)
        logits = model(torch.tensor([own[:-1]]))[0]
        losses = -logits.double().log_softmax(-1)[range(39), own[1:]]
        assert scores.loss == pytest.approx(float(losses.mean()), rel=1e-6)
        assert scores.measured.sums[:, 1].sum() == 39
        assert scores.verbatim.tolist() == [comes_out]
        chances = []
        for place in range(20, 40):  # one token at a time, each after all before it
            kept, probabilities = candidates(model(torch.tensor([own[:place]]))[:, -1], SamplingConfig())
            there = kept[0] == own[place]
            chances.append(float(probabilities[0][there].sum()))
        wanted = math.fsum(map(math.log, chances)) if min(chances) > 0 else -math.inf
        assert scores.logprobs.tolist() == pytest.approx([wanted], rel=1e-5)
        assert passages.suffix == 20


def test_many_passages_are_read_as_one_by_one(model, rng, monkeypatch):
    train = [rng.randrange(256) for _ in range(1000)]
    passages, together = read(model, train, 30, monkeypatch)
    monkeypatch.setattr("gpt.evaluation.passages.BATCH_TOKENS", 1)
    alone = passages.read(model, passages.train)
    np.testing.assert_allclose(together.measured.sums, alone.measured.sums, rtol=1e-5)
    np.testing.assert_allclose(together.logprobs, alone.logprobs, rtol=1e-4)
    assert len(together.verbatim) == 999 // 29  # the last one is shorter, and only its loss is measured
    assert together.measured.sums[:, 1].sum() == 999


def test_chosen_passages_are_spread_evenly(model, rng, monkeypatch):
    passages, scores = read(model, [rng.randrange(256) for _ in range(3000)], 30, monkeypatch, most=10)
    assert len(scores.verbatim) == 10
    assert passages.train.begins.tolist() == [29 * (i * 104 // 10) for i in range(10)]


def test_no_base_finds_all_tokens_equally_likely(model, monkeypatch):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    passages, zero = read(model, list(range(200)), 30, monkeypatch)
    passages.drawn = lambda logits, ids: float(logits.log_softmax(-1).gather(1, ids[:, None]).sum())
    zero, base = passages.read(model, passages.train), passages.read(None, passages.train)
    np.testing.assert_allclose(base.measured.sums, zero.measured.sums, rtol=1e-5)
    np.testing.assert_allclose(base.logprobs, zero.logprobs, rtol=1e-5)
    assert not base.verbatim.any()
    assert base.loss == pytest.approx(math.log(257))


@pytest.mark.parametrize(
    ("tokens", "context", "length"),
    [
        (10**6, 1024, LENGTH),
        (10**6, 32, 33),
        (16 * 70, 1024, 70),  # as many as an error needs
        (100, 1024, SHORTEST),
        (7, 1024, 7),
        (2, 1024, 2),
    ],
)
def test_of_a_short_text_passages_are_shorter(tokens, context, length):
    splits = MemorySplit("train", np.zeros(10**6)), MemorySplit("validation", np.zeros(tokens))
    assert passage_length(splits, context) == length
    assert length in (LENGTH, context + 1) or length <= max(SHORTEST, tokens // FEWEST_PIECES)


def test_a_split_of_two_tokens_is_read(model):
    passages = Passages(dataset_of([1, 2], [3, 4]), 48, "cpu", DRAWN)
    scores = passages.read(model, passages.train)
    assert (passages.length, passages.suffix, len(scores.verbatim)) == (2, 1, 1)
    assert scores.measured.sums[:, 1].tolist() == [1]


def test_documents_are_kept_apart_where_training_did_so(monkeypatch):
    torch.manual_seed(0)
    model = GPT(replace(SHAPE, context_length=64)).eval()
    end = Tokenizer.utf8_bytes().end_of_text
    own, other = [5, 9, 1, 7, end], [8, 8, 2, 6, 3]
    read_as = []
    for before in (own, [*other[::-1][:4], end]):
        _, scores = read(model, [*before, *other], 10, monkeypatch, document_mask=True)
        read_as.append(scores.measured.sums[-1, 0])
    assert read_as[0] == pytest.approx(read_as[1], rel=1e-5)


class Masked(MemorySplit):
    """A split in memory of which a part is learned."""

    def __init__(self, name, ids, mask):
        super().__init__(name, ids)
        self.is_masked, self.mask = True, mask

    def learned(self, start, count):
        return self.mask[start : start + count]


@torch.no_grad()
def test_of_masked_text_second_halves_count_as_far_as_they_are_learned(model, ids, monkeypatch):
    """Questions are given, and need not come out; a passage of too few learned tokens is none."""
    monkeypatch.setattr("gpt.evaluation.passages.passage_length", lambda *_: 40)
    own, mask = np.array(ids[40:80]), np.ones(40, dtype=bool)  # all of the second half comes out but for its last id

    def read(mask):
        dataset = dataset_of([], range(250))
        dataset.train = Masked("train", own, mask)
        passages = Passages(dataset, 48, "cpu", DRAWN)
        assert len(passages.read(None, passages.train).verbatim) == len(passages.read(model, passages.train).verbatim)
        return passages.read(model, passages.train), passages.read(None, passages.train)

    assert read(mask)[0].verbatim.tolist() == [False]
    mask[-1] = False
    mask[20:29] = False  # ten are left
    tuned, base = read(mask)
    assert tuned.verbatim.tolist() == [True]
    logits, wanted = model(torch.from_numpy(own[None, :-1]))[0], 0.0
    for place in range(29, 39):
        kept, probabilities = candidates(logits[place - 1][None], SamplingConfig())
        wanted += math.log(float(probabilities[0][kept[0] == own[place]].sum()))
    assert tuned.logprobs.tolist() == pytest.approx([wanted], rel=1e-5)
    assert base.logprobs.tolist() == pytest.approx([-10 * math.log(257)])
    mask[29] = False
    tuned, base = read(mask)
    assert (tuned.verbatim.tolist(), tuned.logprobs.tolist(), len(base.logprobs)) == ([], [], 0)
    assert tuned.measured.sums[:, 1].sum() == mask[1:].sum()


def test_by_frequency_tokens_have_the_loss_of_how_often_they_occur(rng):
    train, validation = [rng.choice([1, 1, 2, 5]) for _ in range(400)], [rng.choice([1, 2, 9]) for _ in range(300)]
    passages = Passages(dataset_of(train, validation), 48, "cpu", DRAWN)
    counts = {token: train[1:].count(token) for token in set(train)}
    assert len(counts) == 3
    chance = {token: (counts.get(token, 0) + 3 / 257) / (399 + 3) for token in range(257)}
    assert math.fsum(chance.values()) == pytest.approx(1)
    wanted = -math.fsum(math.log(chance[token]) for token in validation[1:])
    assert passages.by_frequency.sums.sum(axis=0).tolist() == pytest.approx([wanted, 299, 299])


def test_weights_that_are_not_finite_and_no_passages_are_refused(model, monkeypatch):
    with torch.no_grad():
        model.final_norm.weight.fill_(math.nan)
    with pytest.raises(InputError, match="logits are not finite"):
        read(model, list(range(200)), 30, monkeypatch)
    with pytest.raises(InputError, match="`passages` is 0; it must be at least 1"):
        read(model, list(range(200)), 30, monkeypatch, most=0)
    with pytest.raises(InputError, match="tokens of the train split is 1; it must be at least 2"):
        read(model, [1], 30, monkeypatch)


def test_passages_without_an_answer_are_refused_by_their_own_option():
    mask = np.arange(500) == 499  # which one passage does not reach
    dataset = dataset_of(range(250), [])
    dataset.validation = Masked("validation", np.arange(500) % 256, mask)
    with pytest.raises(InputError, match="none of the 1 passages of the validation split .*: give more `passages`"):
        Passages(dataset, 48, "cpu", DRAWN, most=1)
    dataset.validation.mask = np.zeros(500, dtype=bool)
    with pytest.raises(InputError, match="passages of the validation split .*: name other data"):
        Passages(dataset, 48, "cpu", DRAWN)
