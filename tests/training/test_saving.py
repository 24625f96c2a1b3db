"""Which checkpoints a training saves and keeps, and what it does where none can be saved."""

import shutil
from dataclasses import replace

import pytest

from gpt.runs import checkpoint
from gpt.runs.checkpoint import list_checkpoints, step_of
from gpt.training import validation


def test_checkpoints_are_kept_as_configured(trained_run, make_training, tiny_config):
    assert [step_of(path) for path in list_checkpoints(trained_run)] == [20, 30]
    config = replace(tiny_config, checkpoint=replace(tiny_config.checkpoint, every=5, keep=3))
    training = make_training(config, "three")
    training.fit()
    assert [step_of(path) for path in list_checkpoints(training.run)] == [20, 25, 30]


def test_the_best_checkpoint_survives_worse_ones(make_training, tiny_config, monkeypatch):
    losses = iter([3.0, 1.0, 2.5])
    original = validation.summarize
    monkeypatch.setattr(validation, "summarize", lambda *sums: replace(original(*sums), loss=next(losses)))
    config = replace(tiny_config, checkpoint=replace(tiny_config.checkpoint, every=0, keep=1))
    training = make_training(config)
    training.fit()
    assert [step_of(path) for path in list_checkpoints(training.run)] == [20, 30]


def test_a_full_disk_does_not_stop_training_and_the_next_save_tries_again(
    make_training, tiny_config, monkeypatch, said
):
    config = replace(tiny_config, checkpoint=replace(tiny_config.checkpoint, every=5, keep=9))
    training = make_training(config)
    original = checkpoint.save

    def full(run, model, optimizer, state):
        if state["step"] in (10, 15):
            raise OSError(28, "No space left on device")
        return original(run, model, optimizer, state)

    monkeypatch.setattr(checkpoint, "save", full)
    assert training.fit()
    assert [step_of(path) for path in list_checkpoints(training.run)] == [5, 20, 25, 30]
    said = [line for line in said if "could not be saved" in line]
    assert len(said) == 2
    assert said[0] == (
        "step 10 could not be saved ([Errno 28] No space left on device); earlier checkpoints are as they were; "
        "training goes on, and tries again at the next save"
    )


def test_an_end_that_cannot_be_saved_is_an_error(make_training, tiny_config, monkeypatch):
    training = make_training(tiny_config)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="step 30 could not be saved .*; make space, then go on with `resume`"):
        training.fit()


def test_a_run_that_is_removed_while_it_trains_is_called_removed(make_training, tiny_config, said):
    training = make_training(tiny_config)

    def step(do):
        if training.state.step == 15:
            shutil.rmtree(training.run)
        return do()

    training.around_steps(step)
    with pytest.raises(OSError, match="step 30 could not be saved .*; the run's directory was removed$"):
        training.fit()
    assert any("step 20 could not be saved" in line and "training goes on" in line for line in said)
