"""`gpt compare`, as a person calls it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import python_text, run_gpt, saved_run, write_dataset

from gpt.commands.compare import _next, _passages
from gpt.commands.evaluate import EvaluationText, ModelResult
from gpt.evaluation.compare import Difference, Measured, paired
from gpt.evaluation.statistics import Spread
from gpt.evaluation.windows import Windows


def compare(*arguments, cwd, code=0):
    return run_gpt(cwd, "compare", "--device", "cpu", *arguments, code=code)


@pytest.fixture
def runs(finished, tiny_config):
    """Two runs of the same data, the second with a half of the context."""
    shorter = replace(tiny_config, seed=1, model=replace(tiny_config.model, context_length=16))
    return [finished(tiny_config, "one"), finished(shorter, "two")]


def test_it_says_by_how_much_one_is_better_and_where_each_is_ahead(runs, tmp_path):
    output = compare(*runs, cwd=tmp_path)
    assert re.search(r"^A +\d\.\d{4} ± 0\.\d{4} \(95 %: .*\) bits per byte: .*one, step 30$", output, re.M)
    assert re.search(r"^B +\d\.\d{4} ± 0\.\d{4} \(95 %: .*\) bits per byte: .*two, step \d+$", output, re.M)
    verdict = r"B (is better than|is worse than|cannot be told from) A"
    assert re.search(rf"^difference +[+-]0\.\d+ ± 0\.\d+ bits per byte .*: {verdict}$", output, re.M)
    assert re.search(r"^passages +of (\d+), A is ahead on \d+ and B on \d+$", output, re.M)
    assert re.search(r"bits \(A \d\.\d\d, B \d\.\d\d per byte\): document \d+ \(\d+\), line \d+$", output, re.M)


def test_figures_are_those_of_eval_and_passages_add_up(runs, tmp_path):
    found = json.loads(compare(*runs, "--json", "--passages", 10_000, cwd=tmp_path))
    other = json.loads(run_gpt(tmp_path, "eval", "--device", "cpu", "--run", runs[0], "--against", runs[1], "--json"))
    for one, two in zip(found["runs"], other["runs"], strict=True):
        assert (one["evaluation"], one["minus_the_first"]) == (two["evaluation"], two["minus_the_first"])
    ahead, behind = found["passages"]
    assert [len(ahead), len(behind)] == found["ahead"]
    assert sum(found["ahead"]) <= found["pieces"]
    assert all(passage["bits_won"] < 0 for passage in ahead)
    assert [p["bits_won"] for p in behind] == sorted((p["bits_won"] for p in behind), reverse=True)
    bits = [e["evaluation"]["bits_per_byte"] * e["evaluation"]["text_bytes"] for e in found["runs"]]
    assert sum(passage["bits_won"] for passage in ahead + behind) == pytest.approx(bits[0] - bits[1], rel=1e-6)


def test_a_run_beside_itself_cannot_be_told_from_it(runs, tmp_path):
    output = compare(runs[0], runs[0], cwd=tmp_path)
    assert "B cannot be told from A" in output
    assert re.search(r"A is ahead on 0 and B on 0", output)
    assert "is ahead by most" not in output


def test_where_nothing_can_be_told_json_has_null(tmp_path):
    """Of one byte only the end of its document is predicted, which has no bytes: NaN is no JSON."""
    one = saved_run(tmp_path, "one")
    (tmp_path / "x.txt").write_text("x")
    found = json.loads(compare(one, one, "--text", "x.txt", "--json", cwd=tmp_path), parse_constant=pytest.fail)
    assert found["runs"][0]["evaluation"]["bits_per_byte"] is None and found["runs"][0]["evaluation"]["loss"] > 0


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [(-0.5, 0.1, "--run two"), (0.5, 0.1, "--run one"), (-0.5, 0.9, "--text FILES"), (-0.5, None, "--text FILES")],
)
def test_only_the_better_run_is_named_to_go_on_with(value, error, words):
    found = Difference(value, None if error is None else Spread(error, 100.0, "100 documents"))
    assert _next(Path("one"), Path("two"), found).endswith(words)


def test_runs_of_different_tokenizers_are_compared_document_by_document(dataset, bpe, tmp_path):
    one = saved_run(tmp_path, "one")
    two = saved_run(tmp_path, "two", tokenizer=bpe)
    output = compare(one, two, "--data", dataset.path, cwd=tmp_path)
    assert "nats per token" not in output
    assert re.search(r"^passages +of 10, A is ahead on \d+ and B on \d+$", output, re.M)


def test_a_passage_is_named_by_its_document_and_line_and_shown(tmp_path):
    """A model that needs a bit more per byte, but for one passage, where it needs ten less in all."""
    texts = ["first\n", "one\ntwo\nthree\n", "last\n"]
    data = write_dataset([("train", python_text()[:500]), *(("validation", text) for text in texts)], "bytes", tmp_path)
    windows = Windows(data.validation, 8, data.tokenizer.end_of_text)
    nats = np.ones(len(windows.starts))
    place = int(np.flatnonzero(windows.documents == 1)[-1])  # the last piece of the second document
    better = nats + np.log(2)
    better[place] = nats[place] - 10 * np.log(2)
    sums = [np.stack([n, np.ones(len(n)), np.full(len(n), 8.0)], axis=1) for n in (nats, better)]
    pieces = paired(*(Measured(one, windows) for one in sums))
    first = ModelResult("one", data.tokenizer, Measured(sums[0], windows), None, 0)
    [found] = _passages(pieces, first, EvaluationText.of(data), 5, 1)
    assert found.bits_won == pytest.approx(10)
    begins = int(windows.starts[place])
    ids = data.validation.read(begins, int(windows.starts[place + 1]) - begins)
    assert found.text == data.tokenizer.decode([id for id in ids.tolist() if id != data.tokenizer.end_of_text])
    assert found.where.startswith("document 1")
    assert len([*_passages(pieces, first, EvaluationText.of(data), 2, -1)]) == 2


def test_mistakes_are_named(runs, dataset, tmp_path):
    assert "--passages is -1; it must be at least 0" in compare(*runs, "--passages", -1, cwd=tmp_path, code=2)
    (tmp_path / "note.txt").write_text("text")
    both = compare(*runs, "--data", dataset.path, "--text", tmp_path / "note.txt", cwd=tmp_path, code=2)
    assert "each says what to evaluate on; give one of them" in both
    assert "did you mean" in compare(runs[0], "twoo", cwd=runs[0].parent, code=2)
