"""The verdict from figures that are made by hand: what each rule says, and that words and figures agree."""

import itertools
import json
import math
import re
from functools import cache

import numpy as np
import pytest

from gpt.dataset.shards import MemorySplit
from gpt.evaluation.compare import Difference, Measured, loss_difference
from gpt.evaluation.memorization import (
    Evidence,
    Memorization,
    Point,
    Rise,
    Sides,
    decide,
    draws_needed,
    is_gain,
    mean_probability,
)
from gpt.evaluation.passages import PassageScores
from gpt.evaluation.statistics import Spread
from gpt.evaluation.verdict import sentence, verdict_json, verdict_rows
from gpt.evaluation.windows import Windows


@cache
def reading(loss, passages=64, verbatim=0.0, noise=0.02, seed=0):
    """What a model made of so many passages of 10 tokens, one per document."""
    generator = np.random.default_rng(seed)
    ids = np.tile(np.append(np.ones(9), 0), passages).astype(np.int64)
    windows = Windows(MemorySplit("any", np.append(0, ids)), 10, end_of_text=0)
    hardness = np.random.default_rng(9).normal(0, 0.5, passages)  # which all models find alike
    chance = generator.normal(0, noise, passages)
    nats = 10 * (loss + hardness - hardness.mean() + chance - chance.mean())
    sums = np.stack([nats, np.full(passages, 10.0), np.full(passages, 30.0)], axis=1)
    out = np.arange(passages) < round(verbatim * passages)
    return PassageScores(Measured(sums, windows), out, np.where(out, math.log(0.5), -math.inf))


def found(
    base=(4.0, 4.0),
    tuned=(3.0, 3.2),
    passages=(64, 64),
    verbatim=(0.0, 0.0),
    known=(0.0, 0.0),
    noise=0.02,
    step=100,
    by_frequency=7.0,
    **more,
):
    """Of training and validation text each: losses of the base and the tuned model, and what comes out."""
    train, validation = (
        Sides(
            reading(base[side], passages[side], known[side], noise, seed=1 + 2 * side),
            reading(tuned[side], passages[side], verbatim[side], noise, seed=2 + 2 * side),
        )
        for side in range(2)
    )
    frequency = reading(by_frequency, passages[1], 0.0, noise, seed=7).measured
    return Memorization(
        train, validation, step=step, base="the base", prompt=50, suffix=50, by_frequency=frequency, **more
    )


def rise(by, best=40, later=100):
    one, two = (reading(3.0 + more, seed=seed).measured for more, seed in ((0, 5), (by, 6)))
    return Rise(best, later, loss_difference(one, two))


CASES = [
    ("learned", {}),
    ("learned", {"tuned": (3.0, 3.8), "rise": rise(0.0)}),  # the best there is, on a small text
    ("learned", {"tuned": (3.0, 3.8), "step": 40, "rise": rise(0.5)}),  # it is the best, and the run went on
    ("learned", {"tuned": (3.0, 3.2), "rise": rise(0.5)}),  # overfitted, and most of the gain holds for new text
    ("learned", {"tuned": (3.0, 3.6), "noise": 0.8}),  # how much is excess is not certain: 60 % ± 16 %
    ("learned", {"tuned": (3.99, 3.8)}),  # the base knew the training text, and not the new one
    ("memorized", {"tuned": (3.0, 3.8), "rise": rise(0.5)}),
    ("memorized", {"tuned": (3.0, 3.8), "by_frequency": 3.8}),
    ("memorized", {"tuned": (3.0, 3.96)}),  # a trifle of the gain holds for new text
    ("memorized", {"tuned": (1.0, 5.0)}),
    ("memorized", {"tuned": (1.0, 5.0), "verbatim": (0.9, 0.0)}),
    ("memorized", {"tuned": (3.0, 3.2), "verbatim": (0.2, 0.0), "rise": rise(0.5)}),
    ("memorized", {"tuned": (3.0, 3.2), "verbatim": (1.0, 0.7)}),  # most of validation text is training text
    ("memorized", {"verbatim": (1.0, 0.0), "passages": (64, 1)}),
    ("learned and memorized", {"verbatim": (0.2, 0.0)}),
    ("learned and memorized", {"verbatim": (0.9, 0.1), "known": (0.3, 0.0)}),
    ("learned", {"verbatim": (0.3, 0.0), "known": (0.3, 0.0)}),  # the base knew it: quotations, say
    ("learned", {"verbatim": (0.2, 0.15)}),  # formulas that stand in any such text
    ("learned", {"verbatim": (1 / 64, 0.0)}),  # chance
    ("nothing learned", {"tuned": (4.0, 4.0)}),
    ("nothing learned", {"base": (0.1, 4.0), "tuned": (0.08, 4.3), "verbatim": (0.95, 0.0), "known": (0.95, 0.0)}),
    ("nothing learned", {"base": (0.1, 0.1), "tuned": (0.1, 0.1), "verbatim": (1.0, 1.0), "known": (1.0, 1.0)}),
    ("nothing learned", {"tuned": (5.0, 5.1)}),  # diverged
    ("nothing learned", {"base": (8.0, 8.0), "tuned": (7.0, 7.1)}),  # better than random weights, and that is all
    ("nothing learned", {"tuned": (3.93, 3.96), "noise": 0.001}),
    ("too little text", {"passages": (64, 1)}),
    ("too little text", {"passages": (1, 1)}),
    ("learned", {"passages": (2, 64)}),  # but nobody knows how much of it for the training text alone
    ("too little text", {"tuned": (3.9, 3.95), "noise": 0.6}),
    ("too little text", {"tuned": (3.9, 3.97), "noise": 0.15}),  # a gain, but perhaps of its own text alone
    ("too little text", {"tuned": (0.1, 0.1), "verbatim": (1.0, 1.0)}),  # copies of training text validate
]


@pytest.mark.parametrize(("verdict", "case"), CASES)
def test_verdicts(verdict, case):
    m = found(**case)
    assert m.verdict == verdict, verdict_rows(m)
    said = sentence(m)
    assert said.startswith(f"{verdict.capitalize()}")
    assert ("Overfitted: the validation loss is 0.5" in said) == m.evidence.overfitted
    assert ("After it the run was overfitted" in said) == (case.get("step") == 40)


def test_each_combination_of_evidence_has_the_verdict_of_the_first_row_that_it_meets():
    known = (True, False, None)
    rows = [  # of docs/fine-tuning.md: what is asked of the evidence, and the verdict
        (lambda e: e.verbatim and useful(e), "learned and memorized"),
        (lambda e: e.verbatim, "memorized"),
        (lambda e: e.alike, "too little text"),
        (lambda e: e.own is True and not useful(e), "memorized"),
        (lambda e: e.on_new is True, "learned"),
        (lambda e: e.on_training is False, "nothing learned"),
        (lambda e: (e.on_training, e.on_new, e.own) == (True, False, False), "nothing learned"),
        (lambda e: True, "too little text"),
    ]

    def useful(e):
        return e.on_new is True and not (e.overfitted or e.alike)

    seen = set()
    for e in itertools.starmap(Evidence, itertools.product(known, known, known, *[(True, False)] * 3)):
        row = next(number for number, (holds, _) in enumerate(rows) if holds(e))
        seen.add(row)
        assert decide(e) == rows[row][1], e
    assert seen == set(range(len(rows)))


@pytest.mark.parametrize(
    ("gain", "noise", "told"),
    [
        (0.06, 0.001, True),
        (0.04, 0.001, False),  # a trifle
        (0.0, 0.001, False),
        (-1.0, 0.9, False),
        (0.3, 1.8, None),
        (-0.1, 1.8, None),
        (2.0, 1.8, True),
    ],
)
def test_a_gain_is_told_from_chance_and_from_a_trifle(gain, noise, told):
    one, two = (reading(4.0 - more, noise=noise, seed=seed).measured for more, seed in ((gain, 1), (0.0, 2)))
    assert is_gain(loss_difference(one, two)) is told


def test_a_gain_without_an_error_is_not_told():
    assert is_gain(Difference(3.0, None)) is None
    assert is_gain(Difference(math.nan, Spread(0.1, 3, "units"))) is None


GRID = [
    {"base": base, "tuned": (base[0] - own, base[1] - new), "verbatim": verbatim, "passages": passages, "noise": noise,
     "rise": later, "by_frequency": frequency}
    for base in [(4.0, 4.0)]
    for own in (-0.3, 0.0, 0.06, 1.0)
    for new in (-1.0, 0.04, 0.3, 0.55, 0.95)
    for verbatim in ((0.0, 0.0), (0.5, 0.0), (0.9, 0.9))
    for passages, noise in (((48, 48), 0.02), ((48, 48), 0.8), ((48, 1), 0.02), ((1, 1), 0.02))
    for later in (None, rise(0.5))
    for frequency in (7.0, 3.6)
]  # fmt: skip


@pytest.fixture(scope="module")
def everything():
    """Of many figures, what is found and what is said."""
    return [(m, sentence(m)) for m in (found(**case) for case in GRID)]


def test_words_agree_with_figures_whatever_these_are(everything):
    assert {m.verdict for m, _ in everything} == {verdict for verdict, _ in CASES}
    for m, said in everything:
        share, error, e = m.excess_share, m.excess_share_error, m.evidence
        assert said.startswith(f"{m.verdict.capitalize()}"), said
        assert (
            len(re.findall(r"What helps: |Nothing needs to be changed|Give more text|Take what is like|If there", said))
            == 1
        )
        is_content = "Nothing needs to be changed" in said
        assert is_content == (m.verdict == "learned" and e.own is False and not e.overfitted), said
        if is_content:
            assert share is None or share <= 0.5
            assert m.validation.gain.value > 2 * m.validation.gain.standard_error
            assert m.over_frequency.value > 2 * m.over_frequency.standard_error
            assert m.validation.extracted.value <= 0.5
        if m.validation.gain.standard_error is None:
            assert m.verdict in ("too little text", "memorized", "nothing learned"), said
        if "learned" in m.verdict.split(" and ")[0] and m.verdict != "nothing learned":
            assert re.search(rf"it gained {m.validation.gain.value:.3f} ± ", said), said
        assert not re.search(
            r"better by -|worse by -|-[\d.]+ ± [\d.]+ nats per token better", said + str(verdict_rows(m))
        )
        assert ("the model is worse by" in str(verdict_rows(m))) == (m.over_frequency.value < 0)
        if "for new text as well" in said:
            assert share + 2 * error < 1
        if "most of the gain holds for its own text alone" in said:
            assert share - 2 * error > 0.5
        if share is not None and f"(it is {share:.0%}" not in said and "of what it gained" in said:
            assert f"{share:.0%} ± {error:.0%} of what it gained" in said


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
    assert math.isinf(draws_needed(np.array([-744.0])))  # likelier than never, but by less than a float can tell
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
    m = found(**case, course=COURSE, course_source="passages")
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


def test_the_source_of_a_course_is_told():
    for source, windows, words in (
        ("records", 0, "as the training recorded them"),
        ("training", 1200, "measured alike as it was trained, on at most 1,200 windows of each split"),
    ):
        m = found(course=COURSE, course_source=source, course_windows=windows)
        assert dict(verdict_rows(m))["course"] == f"losses {words}"
        values = verdict_json(m)
        assert (values["course_source"], values["course_windows"]) == (source, windows)


def test_a_course_of_few_points_is_shown_whole():
    points = [text for _, text in verdict_rows(found(course=COURSE[:3])) if text.startswith("step ")]
    assert len(points) == 3


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            {"tuned": (3.4, 3.6), "noise": 1.0},
            "What helps: more passages (`gpt memorized --passages`), to tell how much",
        ),
        ({"tuned": (3.9, 3.95), "noise": 0.6}, "say nothing certain. What helps: more passages (`gpt memorized --pas"),
    ],
)
def test_where_not_all_was_read_more_passages_help_and_not_more_text(case, words, monkeypatch):
    m = found(**case)
    assert words not in sentence(m)
    for sides in (m.train, m.validation):
        monkeypatch.setattr(sides.tuned.measured.windows, "is_complete", False)
    assert words in sentence(m)
    assert "more text" not in sentence(m)
    larger = max((m.train, m.validation), key=lambda sides: sides.gain.standard_error)
    monkeypatch.setattr(
        larger.tuned.measured.windows, "is_complete", True
    )  # the error is that of a split that was read
    assert words not in sentence(m)


def test_the_best_checkpoint_is_what_helps():
    said = sentence(found(tuned=(1.0, 5.0), rise=rise(0.5)))
    assert "What helps: use the best checkpoint, of step 40; or train for fewer epochs" in said
    assert "Overfitted: the validation loss is 0.50" in said
    assert "Nothing needs to be changed" in sentence(found())
    assert "What helps: more text." in sentence(found(tuned=(3.0, 3.8)))
    assert not found(rise=rise(0.0)).evidence.overfitted
    assert "use the best checkpoint" not in sentence(
        found(tuned=(1.0, 5.0), rise=rise(0.5, best=0))
    )  # that is the base


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ({"tuned": (3.0, 3.6), "noise": 0.8}, r"60% ± \d\d% of what it gained .* What helps: more text\.$"),
        (
            {"tuned": (3.4, 3.6), "noise": 1.0},
            r"to tell how much of the gain is excess .*: more text, or more of it for valid",
        ),
        ({"passages": (2, 64)}, r"^Learned: it gained 0\.800 .*: more text, or more of it for validation"),
        (
            {"tuned": (0.1, 0.1), "verbatim": (1.0, 1.0)},
            r"100% of its training .*, but 100% of validation text as well",
        ),
        (
            {"base": (8.0, 8.0), "tuned": (7.0, 7.1)},
            r"no better than by how often each token occurs .*begin with trained",
        ),
        ({"tuned": (5.0, 5.1)}, r"on its training text it is worse than the base, by 1\.0.* What helps: a lower rate"),
        (
            {"tuned": (3.93, 3.96), "noise": 0.001},
            r"on new text it gained 0\.0\d\d ± 0\.0\d\d nats per token over the base\. What helps",
        ),
        (
            {"verbatim": (0.2, 0.0)},
            r"it gained 0\.8.* on new text, but 20% of its training passages .*repeated passages out",
        ),
    ],
)
def test_what_is_said_of_each_region(case, said):
    assert re.search(said, sentence(found(**case))), sentence(found(**case))
