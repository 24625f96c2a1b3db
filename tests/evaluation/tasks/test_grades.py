import json
import math

import numpy as np
import pytest
import torch
from helpers import exact

from gpt import GPT, InputError, Tokenizer
from gpt.evaluation.tasks.grades import Grades, difference, encoded, grade, mcnemar, spread_of
from gpt.evaluation.tasks.published import PUBLISHED, is_comparable, published
from gpt.evaluation.tasks.rows import KINDS, OWN, Row
from gpt.evaluation.tasks.task import Task, read_task

BYTES = Tokenizer.utf8_bytes()
END = BYTES.end_of_text


def task_of(rows, kind=OWN):
    return Task(kind, tuple(rows), tuple(f"row {i}" for i in range(len(rows))), (("file", "0" * 64),))


def grades_of(rows, logprobs, greedy=None, cut=0, task=None):
    greedy = np.array(greedy if greedy is not None else [False] * len(rows))
    return Grades(task or task_of(rows), tuple(map(tuple, logprobs)), greedy, cut)


def likelihood(model, context, ending):
    """Of an ending, by a full pass over all bytes."""
    ids = torch.tensor([[*context, *ending]])
    with torch.no_grad():
        logprobs = model(ids[:, :-1])[0].log_softmax(-1)[-len(ending) :]
    return logprobs[range(len(ending)), list(ending)].sum().item()


@pytest.fixture(scope="module")
def model():
    """Of large weights, which finds texts of very different likelihoods."""
    model = exact("gpt2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


# ---- what the model is asked ----


def test_each_choice_has_the_likelihood_of_a_pass_over_its_text(model):
    rows = [Row("Is it?", ("né", "no", "perhaps"), 1), Row("", ("a", "bb")), Row("sp  ", ("x", "yy"), delimiter="")]
    found = grade(model, BYTES, task_of(rows), END)
    for row, logprobs in zip(rows, found.logprobs, strict=True):
        context = row.context.rstrip().encode() or [END]
        spaces = row.context[len(row.context.rstrip()) :]
        expected = [likelihood(model, context, (spaces + ending).encode()) for ending in row.endings]
        assert logprobs == pytest.approx(expected, rel=1e-9)
    assert found.cut == 0


def test_of_a_long_context_the_end_is_read_and_the_row_is_counted(model):
    fits, long = "a" * 44, "b" * 45  # four more for the choice: 48 read, since the last one is only predicted
    rows = [Row(fits, ("xyzw", "x")), Row(fits + "c", ("xyzw", "x")), Row(long * 2, ("xyz", "x"))]
    found = grade(model, BYTES, task_of(rows), END)
    assert found.cut == 2
    assert found.logprobs[2][0] == pytest.approx(likelihood(model, b"b" * 45, b" xyz"), rel=1e-9)


def test_endings_are_what_is_beyond_the_contexts_ids(bpe):
    row = Row("def f(x):\n  ", ("return x", "pass"), delimiter="")
    for (context, ending), text in zip(encoded(row, bpe, 0), row.endings, strict=True):
        assert list(context) == bpe.encode("def f(x):")
        assert [*context, *ending] == bpe.encode(row.context + text)


def test_end_of_text_is_a_token_and_stands_for_an_empty_context():
    (one, two) = encoded(Row("", ("<|endoftext|>a", "b"), delimiter=""), BYTES, END)
    assert (list(one[0]), list(one[1])) == ([END], [97])
    assert (list(two[0]), list(two[1])) == ([END], [98])
    ((context, ending),) = encoded(Row("  ", ("b",), delimiter=""), BYTES, END)
    assert (list(context), list(ending)) == ([END], [32, 32, 98])


def test_a_letter_that_the_vocabulary_lacks_names_the_row(model):
    letters = Tokenizer.char("ab \n", end_of_text=False)
    with pytest.raises(InputError, match="row 1: .*'c'.*; grade a run whose tokenizer has every byte"):
        grade(model, letters, task_of([Row("a", ("b", "a")), Row("a", ("b", "c"))]), 0)


def test_what_cannot_be_scored_names_the_row(model):
    with pytest.raises(InputError, match="row 0: what is to be scored is too long .49 tokens; the model sees 48"):
        grade(model, BYTES, task_of([Row("a", ("b" * 48, "c"))]), END)
    with pytest.raises(InputError, match="row 0: what is to be scored has no token of its own"):
        grade(model, BYTES, task_of([Row("", ("<|endoftext|>",), delimiter="")]), END)


def test_progress_counts_every_likelihood(model):
    told = []
    grade(model, BYTES, task_of([Row("a", ("b", "cd")), Row("", ("e", "f"))]), END, progress=told.append)
    assert sum(told) == 4


# ---- the figures ----


def test_choices_are_picked_by_sum_characters_and_bytes():
    rows = [Row("", ("a", "bbbb")), Row("", ("éé", "abc")), Row("", ("ab", "cd"), 1)]
    found = grades_of(rows, [(-1, -2), (-3, -4), (-5, -5)])
    assert found.picked("acc").tolist() == [0, 0, 0]  # the first of two that are alike
    assert found.picked("acc_norm").tolist() == [1, 1, 0]  # −1 < −0.5; −1.5 < −1.33
    assert found.picked("acc_bytes").tolist() == [1, 0, 0]  # −0.75 > −1.33
    assert found.figure("acc").value == pytest.approx(2 / 3)
    assert found.figure("acc_norm").value == 0


def test_errors_of_accuracies_are_the_binomials():
    rows = [Row("", ("a", "b"), i % 2) for i in range(40)]
    figure = grades_of(rows, [(-1, -2 if i < 30 else 0) for i in range(40)]).figure("acc")
    p = np.mean([(0 if i < 30 else 1) == i % 2 for i in range(40)])
    assert figure.value == pytest.approx(p)
    assert figure.spread.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 39))
    assert figure.spread.units == "40 rows"
    low, high = figure.interval
    assert 0 < low < p < high < 1
    sure = grades_of(rows[:2], [(-1, -2), (-2, -1)]).figure("acc")
    assert (sure.value, sure.spread.standard_error, sure.interval[1]) == (1, 0, 1)
    assert sure.interval[0] < 0.4  # of two rows that are right nothing is sure
    assert grades_of(rows[:1], [(-1, -2)]).figure("acc").spread is None


def test_perplexity_is_of_words_with_an_error_by_the_delta_method():
    nats = np.array([1.0, 2.0, 4.0, 0.5])
    found = grades_of([Row("a", ("b",), delimiter="")] * 4, [(-x,) for x in nats], [True, False, False, True])
    assert found.metrics == ("acc", "perplexity")
    assert found.figure("acc").value == 0.5
    figure = found.figure("perplexity")
    assert figure.value == pytest.approx(math.exp(nats.mean()))
    assert figure.spread.standard_error == pytest.approx(math.exp(nats.mean()) * nats.std(ddof=1) / 2)
    assert figure.interval[0] < figure.value < figure.interval[1]


def test_rows_of_a_group_are_one_unit():
    """The cluster-robust error of a mean, as statsmodels' cov_type="cluster" has it but for its (N−1)/(N−1)."""
    groups, rights = ["a"] * 3 + ["b"] * 2 + ["c"], np.array([1, 1, 0, 0, 0, 1])
    rows = [Row("", ("x", "y"), group=group) for group in groups]
    figure = grades_of(rows, [(0, -1) if right else (-1, 0) for right in rights]).figure("acc")
    residuals = rights - rights.mean()
    sums = [residuals[:3].sum(), residuals[3:5].sum(), residuals[5]]
    assert figure.spread.standard_error == pytest.approx(math.sqrt(3 / 2 * sum(s * s for s in sums)) / 6)
    assert figure.spread.units == "3 groups of rows"
    assert figure.interval[0] >= 0


def test_grouped_errors_hold_in_simulation():
    """Paradigms of very different difficulty: the error is that between them, more than twice the binomial's here."""
    rng, means, errors = np.random.default_rng(0), [], []
    groups = [str(i) for i in range(67) for _ in range(20)]
    for _ in range(800):
        rights = rng.random((67, 20)) < rng.beta(2, 1, (67, 1))
        means.append(rights.mean())
        deviations = ((rights - rights.mean()) / rights.size).ravel()
        errors.append(spread_of(deviations, groups).standard_error)
    assert np.mean(errors) == pytest.approx(np.std(means, ddof=1), rel=0.12)
    assert np.mean(errors) > 2 * math.sqrt(2 / 9 / 1340)


def test_the_delta_method_holds_in_simulation():
    rng, values, errors = np.random.default_rng(0), [], []
    rows = [Row("a", ("b",), delimiter="")] * 300
    task = task_of(rows)
    for _ in range(300):
        found = grades_of(rows, [(-x,) for x in rng.gamma(2, 1.5, 300)], task=task).figure("perplexity")
        values.append(found.value)
        errors.append(found.spread.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.12)


# ---- two models ----


def test_differences_are_paired_and_mcnemar_decides():
    rows = [Row("", ("x", "y"))] * 30
    task, yes, no = task_of(rows), (0, -1), (-1, 0)
    one = grades_of(rows, [yes] * 10 + [no] * 20, task=task)
    two = grades_of(rows, [yes] * 9 + [no] + [yes] * 9 + [no] * 11, task=task)
    found = difference(one, two, "acc")
    assert (found.value, found.alone) == (pytest.approx(8 / 30), (1, 9))
    d = np.array([0] * 9 + [-1] + [1] * 9 + [0] * 11)
    assert found.spread.standard_error == pytest.approx(d.std(ddof=1) / math.sqrt(30))
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)  # P(at most 1 of 10), twice
    assert found.verdict == "better than"
    assert difference(two, one, "acc").verdict == "worse than"
    same = difference(one, one, "acc")
    assert (same.value, same.alone, same.p, same.verdict) == (0, (0, 0), 1, "cannot be told from")


def test_perplexities_differ_by_their_paired_words():
    rng = np.random.default_rng(1)
    hard = rng.gamma(2, 1.5, 200)
    rows = [Row("a", ("b",), delimiter="")] * 200
    task = task_of(rows)
    one = grades_of(rows, [(-x,) for x in hard], task=task)
    two = grades_of(rows, [(-x * 0.98,) for x in hard], task=task)
    found = difference(one, two, "perplexity")
    assert found.value == pytest.approx(math.exp(0.98 * hard.mean()) - math.exp(hard.mean()))
    assert found.verdict == "better than"
    assert found.spread.standard_error < one.figure("perplexity").spread.standard_error / 5
    assert found.alone is None


def test_grouped_rows_are_decided_by_their_groups():
    rows = [Row("", ("x", "y"), group=str(i // 50)) for i in range(100)]
    task, yes, no = task_of(rows), (0, -1), (-1, 0)
    one, two = grades_of(rows, [no] * 100, task=task), grades_of(rows, [yes] * 50 + [no] * 50, task=task)
    found = difference(one, two, "acc")
    assert (found.alone, found.p, found.verdict) == ((0, 50), None, "cannot be told from")  # one of two paradigms


@pytest.mark.parametrize(("one", "two"), [(0, 0), (3, 3), (0, 5), (12, 30), (700, 800)])
def test_mcnemars_p_is_the_binomials(one, two):
    total = one + two
    exactly = sum(math.comb(total, k) for k in range(min(one, two) + 1)) * 2 / 2**total
    assert mcnemar(one, two) == pytest.approx(min(1, exactly))
    assert mcnemar(one, two) == mcnemar(two, one)


# ---- what is published ----


def test_published_figures_are_comparable_by_protocol_rows_and_shots_only(tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text(json.dumps({"text": "a b"}) + "\n")
    few = read_task(KINDS["lambada"], path)
    assert published(few)
    assert not any(is_comparable(each, few) for each in published(few))
    whole = Task(KINDS["lambada"], few.rows * 5153, few.places * 5153, few.files)
    alike = [each for each in published(whole) if is_comparable(each, whole)]
    assert {each.metric for each in alike} == {"acc", "perplexity"}
    assert all("last token" not in each.protocol for each in alike)
    assert {each.task for each in PUBLISHED} == {*KINDS}
    assert not published(task_of([Row("a", ("b",))]))


def test_the_model_stays_in_its_mode(model):
    model.train()
    grade(model, BYTES, task_of([Row("a", ("b", "c"))]), END)
    assert model.training
    assert isinstance(model.eval(), GPT)
