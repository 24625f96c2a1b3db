"""The verdict from figures that are made by hand: what each rule says, and that words and figures agree."""

import json
import math
import re

import numpy as np
import pytest

from gpt.dataset.shards import MemorySplit
from gpt.evaluation.compare import Measured, loss_difference
from gpt.evaluation.memorization import Memorization, Point, Rise, Sides, draws_needed, mean_probability
from gpt.evaluation.passages import Reading
from gpt.evaluation.verdict import sentence, verdict_json, verdict_rows
from gpt.evaluation.windows import Windows


def reading(loss, passages=64, verbatim=0.0, noise=0.02, seed=0):
    """What a model made of so many passages of 10 tokens, one per document."""
    generator = np.random.default_rng(seed)
    ids = np.tile(np.append(np.ones(9), 0), passages).astype(np.int64)
    windows = Windows(MemorySplit("any", np.append(0, ids)), 10, end_of_text=0)
    hardness = np.random.default_rng(9).normal(0, 0.5, passages)  # which all models find alike
    nats = 10 * (loss + hardness - hardness.mean() + generator.normal(0, noise, passages))
    sums = np.stack([nats, np.full(passages, 10.0), np.full(passages, 30.0)], axis=1)
    out = np.arange(passages) < round(verbatim * passages)
    return Reading(Measured(sums, windows), out, np.where(out, math.log(0.5), -math.inf))


def found(
    base=(4.0, 4.0), tuned=(3.0, 3.2), passages=(64, 64), verbatim=(0.0, 0.0), known=0.0, noise=0.02, step=100, **more
):
    """Of training and validation text each: losses of the base and the tuned model, and what comes out."""
    train = Sides(
        reading(base[0], passages[0], known, noise, seed=1), reading(tuned[0], passages[0], verbatim[0], noise, seed=2)
    )
    validation = Sides(
        reading(base[1], passages[1], 0.0, noise, seed=3), reading(tuned[1], passages[1], verbatim[1], noise, seed=4)
    )
    return Memorization(train, validation, step=step, base="the base", prompt=50, suffix=50, **more)


def rise(by, best=40, later=100):
    one, two = (reading(3.0 + more, seed=seed).measured for more, seed in ((0, 5), (by, 6)))
    return Rise(best, later, loss_difference(one, two))


@pytest.mark.parametrize(
    ("verdict", "case"),
    [
        ("learned", {}),
        ("learned", {"tuned": (3.0, 3.8), "rise": rise(0.0)}),  # the best there is, on a small text
        ("learned", {"tuned": (3.0, 3.8), "step": 40, "rise": rise(0.5)}),  # it is the best, and the run went on
        ("learned", {"tuned": (3.0, 3.2), "rise": rise(0.5)}),  # overfitted, and most of the gain holds for new text
        ("memorized", {"tuned": (3.0, 3.8), "rise": rise(0.5)}),
        ("memorized", {"tuned": (1.0, 5.0)}),
        ("memorized", {"verbatim": (0.2, 0.0)}),
        ("memorized", {"verbatim": (0.9, 0.1), "known": 0.3}),
        ("memorized", {"verbatim": (1.0, 0.0), "passages": (64, 1)}),
        ("learned", {"verbatim": (0.3, 0.0), "known": 0.3}),  # the base knew it: quotations, say
        ("learned", {"verbatim": (0.2, 0.15)}),  # formulas that stand in any such text
        ("learned", {"verbatim": (1 / 64, 0.0)}),  # chance
        ("nothing learned", {"tuned": (4.0, 4.0)}),
        ("nothing learned", {"base": (0.1, 4.0), "tuned": (0.08, 4.3), "verbatim": (0.95, 0.0), "known": 0.95}),
        ("too little text", {"passages": (64, 1)}),
        ("too little text", {"passages": (2, 64)}),
        ("too little text", {"tuned": (3.9, 3.95), "noise": 0.6}),
    ],
)
def test_verdicts(verdict, case):
    m = found(**case)
    assert m.verdict == verdict, verdict_rows(m)
    said = sentence(m)
    assert said.startswith(f"{verdict.capitalize()}")
    assert ("Overfitted: the validation loss is 0.5" in said) == m.is_overfitted
    assert ("After it the run was overfitted" in said) == (case.get("step") == 40)


def test_the_excess_share_and_its_error_are_those_of_the_formulas():
    m = found(tuned=(2.0, 3.0), noise=0.3)
    train, validation = m.train.gain, m.validation.gain
    assert train.value == pytest.approx(m.train.base.loss - m.train.tuned.loss)
    assert m.excess_share == pytest.approx((train.value - validation.value) / train.value)
    draws = np.random.default_rng(0).normal(
        (train.value, validation.value), (train.standard_error, validation.standard_error), (200_000, 2)
    )
    assert m.excess_share_error == pytest.approx((1 - draws[:, 1] / draws[:, 0]).std(), rel=0.02)


def test_a_gain_of_next_to_nothing_has_no_share():
    m = found(tuned=(3.97, 4.2), noise=0.001)
    assert m.train.gain.value > 2 * m.train.gain.standard_error
    assert (m.excess_share, m.excess_share_error, m.verdict) == (None, None, "nothing learned")


def test_how_likely_passages_are_drawn():
    logprobs = np.log([0.5, 0.1, 1e-300])
    mean, error = mean_probability(logprobs)
    assert mean == pytest.approx(0.2)
    assert error == pytest.approx(np.std([0.5, 0.1, 0], ddof=1) / math.sqrt(3))
    assert draws_needed(logprobs) == 4  # 1 - 0.5^4 > 0.9 > 1 - 0.5^3
    assert draws_needed(np.log([0.95])) == draws_needed(np.zeros(1)) == 1
    assert draws_needed(np.log([1e-6])) == pytest.approx(math.log(0.1) / math.log1p(-1e-6), abs=1)
    assert draws_needed(np.array([-math.inf])) == draws_needed(np.array([])) == draws_needed(np.array([-2000.0]))
    assert math.isinf(draws_needed(np.array([])))
    assert math.isnan(mean_probability(np.array([]))[0])
    assert mean_probability(np.log([0.25]))[0] == 0.25


COURSE = [Point(i, i / 10, 4 - i / 50, 4.0) for i in range(1, 40)]


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"verbatim": (0.5, 0.0)},
        {"passages": (64, 1)},
        {"rise": rise(0.3)},
        {"tuned": (3.0, 6.5), "noise": 1.5},  # an excess of 350 %, and an error that is large
    ],
)
def test_words_and_values_agree(case):
    m = found(**case, course=COURSE, course_is_measured=True)
    values, rows = json.loads(json.dumps(verdict_json(m))), verdict_rows(m)
    words = dict(rows)
    assert values["sentence"] == sentence(m)
    assert values["verdict"] == m.verdict
    for side, row in (("train", "training loss"), ("validation", "validation loss")):
        v = values[side]
        gain = f"gained +{v['gain']['value']:.3f}" if v["gain"]["value"] > 0 else f"gained {v['gain']['value']:.3f}"
        assert words[row].startswith(
            f"{v['model']['loss']:.4f} nats per token, the base {v['base']['loss']:.4f}: {gain}"
        )
    share = values["train"]["model"]["verbatim"] / values["train"]["model"]["passages"]
    assert f"training {share:.0%} " in words["verbatim"]
    assert re.search(rf"{values['excess_share']:.0%}[ ,)]", words["excess"])
    assert ("too little text to tell" in words["excess"]) == (case.get("passages") == (64, 1))
    assert words["passages"].startswith("64 passages of training text and ")
    assert words["course"] == "losses measured on the same passages"
    points = [text for name, text in rows if text.startswith("step ")]
    assert points[0] == "step 1, epoch 0.10: training 3.9800, validation 4.0000"
    assert points[-1].startswith("step 39, ")
    assert len(points) == 12


def test_a_course_of_few_points_is_shown_whole():
    points = [text for _, text in verdict_rows(found(course=COURSE[:3])) if text.startswith("step ")]
    assert len(points) == 3


def test_the_best_checkpoint_is_what_helps():
    said = sentence(found(tuned=(1.0, 5.0), rise=rise(0.5)))
    assert "What helps: use the best checkpoint, of step 40; or train for fewer epochs" in said
    assert "Overfitted: the validation loss is 0.50" in said
    assert "Nothing needs to be changed" in sentence(found())
    assert "What helps: more text." in sentence(found(tuned=(3.0, 3.8)))
    assert not found(rise=rise(0.0)).is_overfitted
