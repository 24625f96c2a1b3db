from dataclasses import replace
from unittest import mock

import pytest
import torch

from gpt import GPT
from gpt.distributed.world import World
from gpt.training import forecast
from gpt.training.forecast import Timings, forecast_lines, measure_timings, trial_seconds
from gpt.training.validation import windows_in


def values(lines):
    """The lines of a forecast as a dictionary; a name and its value are two spaces apart or more."""
    return {line[:28].strip(): line[28:].strip() for line in lines}


def test_a_forecast_is_made_of_its_parts(tiny_config, dataset, monkeypatch):
    """30 steps of 6 sequences, 4 at a time, and 3 evaluations of the validation split; a pass of 4 takes 2 seconds."""
    monkeypatch.setattr(forecast, "trial_seconds", lambda *_: (2.0, 1.0))
    shown = values(forecast_lines(tiny_config, dataset, World("cpu")))
    assert shown["batch"] == "6 sequences of 32 tokens, 4 at a time"
    assert shown["training tokens"] == "5,760"
    assert float(shown["epochs"]) == round(5760 / dataset.train.tokens, 2)
    assert shown["tokens per second"] == f"{5760 / (30 * (6 / 4 * 2 + 1)):,.0f}"
    evaluation = 3 * dataset.validation.tokens / 32 / 4 * 2 / 3
    minutes, seconds = divmod(round(120 + evaluation), 60)
    assert shown["time"].split(" ")[0] == f"{minutes}:{seconds:02d}"


def test_a_forecast_counts_what_evaluations_read(tiny_config, dataset, monkeypatch):
    """Three evaluations of ten windows, and the complete split at the end."""
    monkeypatch.setattr(forecast, "trial_seconds", lambda *_: (60.0, 1.0))
    config = replace(tiny_config, evaluation=replace(tiny_config.evaluation, tokens=320))
    shown = values(forecast_lines(config, dataset, World("cpu")))["time"].split(" of which ")[1]
    windows = 3 * 10 + -(-(dataset.validation.tokens - 1) // 32)
    minutes, seconds = divmod(round(windows / 4 * 60 / 3), 60)
    assert shown == f"{minutes}:{seconds:02d} evaluation"


def test_a_forecast_counts_what_is_evaluated_of_the_training_split(tiny_config, dataset):
    """Before the first step, after each of two epochs and at the end; never more often than there are evaluations."""
    steps = 1 + 2 * dataset.train.tokens // tiny_config.batch_tokens  # some more than two epochs
    for every, times in ((10, 4), (steps, 2)):
        evaluation = replace(tiny_config.evaluation, every=every, at_start=True, tokens=320)
        config = replace(tiny_config, steps=steps, evaluation=evaluation)
        measuring = replace(config, evaluation=replace(evaluation, train_split=True))
        assert windows_in(measuring, dataset, steps) - windows_in(config, dataset, steps) == times * 10


def test_a_trial_that_would_not_fit_is_not_made(tiny_config, dataset, monkeypatch):
    monkeypatch.setattr(forecast, "free_memory", lambda device: 0)
    monkeypatch.setattr(forecast, "used_memory", lambda: 0)
    monkeypatch.setattr(forecast, "LIBRARIES", 0)
    shown = values(forecast_lines(tiny_config, None, World("cpu")))
    assert shown["time"] == "not forecast: a trial would not fit into the free memory"
    assert "epochs" not in shown


def test_a_trial_takes_longer_with_more_sequences(tiny_config, monkeypatch):
    monkeypatch.setattr(forecast, "TRIAL_SECONDS", 0.05)
    model = replace(tiny_config.model, context_length=128, n_embd=64)
    config = replace(tiny_config, model=model, batch_tokens=64 * 128)
    few, many = (trial_seconds(config, sequences, World("cpu"), torch.float32)[0] for sequences in (1, 32))
    assert many > 4 * few


def test_evaluations_are_forecast_in_the_highest_precision(tiny_config, monkeypatch):
    """As they are computed: steps alone are faster in another."""
    monkeypatch.setattr(
        forecast,
        "trial_seconds",
        lambda config, *_: ({"highest": 3.0, "medium": 1.0}[config.float32_matmul_precision], 0),
    )
    config = replace(tiny_config, float32_matmul_precision="medium")
    assert measure_timings(config, World("cpu"), torch.float32, 6) == Timings(step=1.0, window=3.0 / 6 / 3)
    assert measure_timings(tiny_config, World("cpu"), torch.float32, 6) == Timings(step=3.0, window=3.0 / 6 / 3)


def test_a_trial_multiplies_as_training_does(tiny_config, monkeypatch, as_if_it_rounds):
    """In its passes, and not in the optimizer."""
    monkeypatch.setattr(forecast, "TRIAL_SECONDS", 0.05)
    seen, honest, moved = {}, GPT.hidden_states, forecast.Optimizer.step

    def noted(name, call, *given):
        seen.setdefault(name, set()).add(torch.backends.mkldnn.matmul.fp32_precision)
        return call(*given)

    monkeypatch.setattr(GPT, "hidden_states", lambda *given: noted("passes", honest, *given))
    monkeypatch.setattr(forecast.Optimizer, "step", lambda *given: noted("optimizer", moved, *given))
    before = torch.backends.mkldnn.matmul.fp32_precision
    trial_seconds(replace(tiny_config, float32_matmul_precision="medium"), 2, World("cpu"), torch.float32)
    assert seen == {"passes": {"bf16"}, "optimizer": {before}}


@pytest.mark.parametrize("mask", [False, True])
def test_a_trial_masks_documents_where_training_does(tiny_config, monkeypatch, mask):
    monkeypatch.setattr(forecast, "TRIAL_SECONDS", 0.05)
    seen, honest = [], GPT.hidden_states
    monkeypatch.setattr(GPT, "hidden_states", lambda *given: seen.append(given[3] is not None) or honest(*given))
    trial_seconds(replace(tiny_config, document_mask=mask), 2, World("cpu"), torch.float32)
    assert set(seen) == {mask}


def test_a_trial_gives_way_where_memory_runs_out(tiny_config, monkeypatch):
    tried = []

    def trial(config, sequences, *_):
        tried.append(sequences)
        if sequences > 2:
            raise MemoryError
        return sequences * 0.5, 1.0

    monkeypatch.setattr(forecast, "trial_seconds", trial)
    timings = measure_timings(tiny_config, World("cpu"), torch.float32, 6)
    assert tried == [6, 3, 2]
    assert timings == Timings(step=6 * 0.5 + 1.0, window=0.5 / 3)
    monkeypatch.setattr(forecast, "trial_seconds", mock.Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        measure_timings(tiny_config, World("cpu"), torch.float32, 6)


@pytest.mark.parametrize("where", ["hidden_states", "allocate"])
def test_a_first_step_that_memory_does_not_hold_is_a_memory_error(tiny_config, monkeypatch, where):
    owner = GPT if where == "hidden_states" else forecast.Optimizer
    monkeypatch.setattr(owner, where, mock.Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(MemoryError, match="with 2 sequences at a time"):
        trial_seconds(tiny_config, 2, World("cpu"), torch.float32)
