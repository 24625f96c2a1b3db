"""The sample that a training makes at each evaluation."""

import math
from dataclasses import replace

import torch
from helpers import require_equal, weights

from gpt.tracking.jsonl import read_metrics
from gpt.tracking.progress import printable


def test_a_sample_is_made_at_each_evaluation_from_the_same_prompt(make_training, modern_shape, capsys):
    config = replace(modern_shape, steps=6, evaluation=replace(modern_shape.evaluation, every=2, sample_tokens=9))
    training = make_training(config)
    training.validation.dataset = replace(training.dataset, recipe={"sample_prompt": "def "})
    training.fit()
    samples = [record["sample"] for record in read_metrics(training.run) if "sample" in record]
    assert len(samples) == 3
    for sample in samples:
        assert sample.startswith("def ")
        assert 4 < len(sample.encode()) <= 4 + 9 * 3  # bytes that are no UTF-8 are shown as one character of three
    shown = capsys.readouterr().err
    for sample in samples:
        assert "    | " + printable(sample).strip("\n").replace("\n", "\n    | ") in shown
    without = make_training(replace(config, evaluation=replace(config.evaluation, sample_tokens=0)), "without")
    without.fit()
    assert not any("sample" in record for record in read_metrics(without.run))
    require_equal(weights(training), weights(without))


def test_a_sample_that_cannot_be_made_ends_no_training(make_training, tiny_config, monkeypatch):
    """As where an evaluation finds weights that are not finite: that is told, and the guard's business."""
    training = make_training(tiny_config)
    monkeypatch.setattr(training.model, "head", lambda hidden: torch.full((*hidden.shape[:-1], 257), math.nan))
    assert training.fit()
    samples = [record["sample"] for record in read_metrics(training.run) if "sample" in record]
    assert len(samples) == 3
    assert "(no sample: the model's logits are not finite" in samples[0]
