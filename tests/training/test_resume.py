"""A run that goes on: as if it had never stopped, or from the beginning where nothing is saved; on which data."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import CLOCKED, Training, require_equal, weights, without_clock

from gpt import InputError
from gpt.config import CheckpointConfig, EvaluationConfig
from gpt.runs import checkpoint
from gpt.runs.checkpoint import list_checkpoints, load_best, load_newest, step_of
from gpt.tracking.jsonl import read_metrics
from gpt.training import trainer, validation


@pytest.fixture(params=["gpt2", "modern", "recomputed", "scaled"])
def any_config(request, tiny_shape, modern_shape):
    """The exact GPT-2 with AdamW, and the modern recipe, all of it; and rates by kind."""
    configs = {"gpt2": tiny_shape, "modern": modern_shape, "recomputed": replace(modern_shape, recompute="blocks")}
    scales = {"embedding_lr_scale": 2.0, "ngram_lr_scale": 3.0, "head_lr_scale": 0.3, "vector_lr_scale": 0.5}
    optimizer = replace(modern_shape.optimizer, **scales, weight_decay=0.1, muon_cautious_decay=True)
    configs["scaled"] = replace(modern_shape, optimizer=optimizer)
    config = configs[request.param]
    evaluation, checkpoint = replace(config.evaluation, every=3), replace(config.checkpoint, every=3)
    return replace(config, steps=8, evaluation=evaluation, checkpoint=checkpoint)


def test_a_resumed_run_repeats_an_undisturbed_one_bit_for_bit(undisturbed, make_training, any_config):
    """8 steps at once, and 5 + 3 with everything rebuilt from disk between, dropout on."""
    whole = undisturbed(any_config)
    first = make_training(replace(any_config, stop_at=5), "parts")
    assert not first.fit()
    torch.manual_seed(99)  # whatever else happened in between
    second = make_training(any_config, "parts", resume=True)
    assert second.state.step == 5
    assert second.fit()
    require_equal(weights(whole), weights(second))
    one, two = (load_newest(t.run) for t in (whole, second))
    require_equal(one.model, two.model)
    require_equal(one.optimizer, two.optimizer)
    assert without_clock(read_metrics(whole.run)) == without_clock(read_metrics(second.run))
    clocked = ("elapsed_s", "record")
    states = [{key: value for key, value in saved.state.items() if key not in clocked} for saved in (one, two)]
    assert states[0] == states[1]
    assert whole.state.gain == second.state.gain
    assert whole.state.gain is not None  # the last table's row "change"


@pytest.mark.parametrize("micro_batch_size", [8, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "rounded"])
def test_resuming_is_exact_in_every_precision_and_accumulation(
    make_training, tiny_config, dtype, micro_batch_size, request
):
    config = replace(tiny_config, batch_tokens=8 * 32, micro_batch_size=micro_batch_size, steps=5)
    if dtype == "rounded":
        request.getfixturevalue("rounds")
        config = replace(config, float32_matmul_precision="medium")
    else:
        config = replace(config, dtype=dtype)
    whole = make_training(config, "whole")
    whole.fit()
    make_training(replace(config, stop_at=2), "parts").fit()
    parts = make_training(config, "parts", resume=True)
    parts.fit()
    one, two = (load_newest(training.run) for training in (whole, parts))
    require_equal(one.model, two.model)
    require_equal(one.optimizer, two.optimizer)
    assert without_clock(read_metrics(whole.run)) == without_clock(read_metrics(parts.run))
    timeless = [{key: value for key, value in c.state.items() if key not in CLOCKED} for c in (one, two)]
    records = [without_clock([state.pop("record")]) for state in timeless]
    assert timeless[0] == timeless[1]
    assert records[0] == records[1]


@pytest.mark.parametrize("saved_before_it_could_be_chosen", [False, True])
def test_going_on_in_another_precision_is_told(
    make_training, tiny_config, said, as_if_it_rounds, monkeypatch, saved_before_it_could_be_chosen
):
    """Of a checkpoint that does not tell, too; going on in the same is nothing to tell."""
    config, rounded = tiny_config, replace(tiny_config, float32_matmul_precision="medium")
    with monkeypatch.context() as patch:
        if saved_before_it_could_be_chosen:
            honest = trainer.conditions
            patch.setattr(trainer, "conditions", lambda *given: without_precision(honest(*given)))
        make_training(replace(config, stop_at=2)).fit()
    make_training(replace(config, stop_at=4), resume=True).fit()
    assert not [line for line in said if "rounding" in line]
    make_training(replace(rounded, stop_at=6), resume=True).fit()
    make_training(config, resume=True)
    told = "from here on equal to an undisturbed run up to rounding only: float32_matmul_precision "
    assert [line.partition(told)[2] for line in said if told in line] == ["highest → medium", "medium → highest"]


def without_precision(conditions):
    return {name: value for name, value in conditions.items() if name != "float32_matmul_precision"}


def test_a_last_step_is_evaluated_though_it_was_not_to_be_the_last(make_training, tiny_config):
    """Stopped at 12 of 30, then told that 12 are enough; once."""
    training = make_training(replace(tiny_config, stop_at=12, log_every=5))
    assert not training.fit()
    for _ in range(2):
        training = make_training(replace(tiny_config, steps=12, log_every=5), resume=True)
        assert training.fit()
        records = read_metrics(training.run)
        assert [record["step"] for record in records] == [5, 10, 12]
        assert "val_loss" in records[-1]
        newest = load_newest(training.run)
        assert (newest.state["step"], newest.state["evaluation"]["loss"]) == (12, records[-1]["val_loss"])


def test_fewer_steps_than_were_done_are_refused_and_change_nothing(make_training, tiny_config, trained_run):
    before = (trained_run / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"`steps` 20: .* has done 30 steps already"):
        make_training(replace(tiny_config, steps=20), resume=True)
    assert (trained_run / "config.json").read_bytes() == before


def test_a_run_without_a_checkpoint_yet_begins_again(make_training, tiny_config):
    make_training(tiny_config)
    again = make_training(tiny_config, resume=True)
    assert again.state.step == 0
    assert again.fit()


def test_a_run_whose_checkpoints_are_gone_begins_again_and_keeps_its_records(make_training, tiny_config, said):
    first = make_training(replace(tiny_config, stop_at=5))
    first.fit()
    records = (first.run / "metrics.jsonl").read_bytes()
    shutil.rmtree(first.run / "checkpoints")
    again = make_training(tiny_config, resume=True)
    assert again.state.step == 0
    assert (first.run / "metrics-until-step-5.jsonl").read_bytes() == records
    assert any("has no checkpoint, and begins again" in line for line in said)


def test_other_data_is_refused_on_resume(make_training, tiny_config):
    training = make_training(replace(tiny_config, stop_at=5))
    training.fit()
    path = list_checkpoints(training.run)[-1]
    state = json.loads((path / "state.json").read_text()) | {"dataset_fingerprint": "other"}
    for old in list_checkpoints(training.run):
        old.rename(old.with_suffix(".old"))
    checkpoint.save(training.run, training.model.state_dict(), {}, state)
    with pytest.raises(InputError, match="is not the dataset"):
        make_training(tiny_config, resume=True)


def test_other_data_can_be_allowed(make_training, tiny_config, said):
    training = make_training(replace(tiny_config, stop_at=5))
    training.fit()
    other = replace(training.dataset, fingerprint="other")
    with pytest.raises(InputError, match="or go on with `allow_other_data`"):
        Training(training.config, other, training.run, resumes=True)
    before = len(said)
    assert Training(training.config, other, training.run, resumes=True, allow_other_data=True).state.step == 5
    assert "it goes on with it" in said[before]


def test_checkpoints_tell_of_what_corpus_the_data_was_made(make_training, tiny_config, said):
    """The same shards of another corpus are what the run has learned from; other shards are not, whatever they say."""
    training = make_training(replace(tiny_config, stop_at=5))
    training.fit()
    own = training.dataset.corpus_fingerprint
    state = json.loads((list_checkpoints(training.run)[-1] / "state.json").read_text())
    assert state["corpus_fingerprint"] == own and len(own) == 64
    alike = replace(training.dataset, corpus_fingerprint="f" * 64)
    corpora = f"(corpus {own[:12]}, and now ffffffffffff)"
    before = len(said)
    again = Training(training.config, alike, training.run, resumes=True)
    assert (again.state.step, again.state.corpus_fingerprint) == (5, "f" * 64)
    assert said[before].startswith(
        f"data: {alike.path} was prepared anew, of other texts or with other settings {corpora}"
    )
    with pytest.raises(InputError, match=re.escape(f"or has changed since {corpora}; restore it")):
        Training(training.config, replace(alike, fingerprint="other"), training.run, resumes=True)


def test_a_checkpoint_from_before_there_was_a_corpus_fingerprint_goes_on(make_training, tiny_config, said):
    training = make_training(replace(tiny_config, stop_at=5))
    training.state.corpus_fingerprint = None
    training.fit()
    before = len(said)
    assert make_training(tiny_config, resume=True).state.corpus_fingerprint == training.dataset.corpus_fingerprint
    assert not any("corpus" in line for line in said[before:])


def test_the_best_of_other_data_is_forgotten(make_training, tiny_config, monkeypatch):
    """A loss on one validation split is not compared with that on another."""
    losses = {5: 1.0, 10: 0.5, 15: 9.0, 20: 8.0, 25: 8.5}
    honest = validation.summarize
    results = iter(losses.values())
    monkeypatch.setattr(validation, "summarize", lambda *arguments: replace(honest(*arguments), loss=next(results)))
    config = replace(tiny_config, evaluation=EvaluationConfig(every=5), checkpoint=CheckpointConfig(every=0, keep=1))
    first = make_training(replace(config, stop_at=14, early_stopping_patience=4))
    first.fit()
    assert load_best(first.run).state["step"] == 10
    config, other = replace(first.config, stop_at=25), replace(first.dataset, fingerprint="other")
    second = Training(config, other, first.run, resumes=True, allow_other_data=True)
    assert (
        second.state.step,
        second.state.best_validation_loss,
        second.state.last_validation_loss,
        second.state.evaluations_since_best,
    ) == (14, None, None, 0)
    second.fit()
    assert second.state.best_validation_loss == 8.0
    assert load_best(first.run).state["step"] == 20
    assert [step_of(path) for path in list_checkpoints(first.run)] == [20, 25]  # the old best is pruned
