"""What is not finite, or a spike: batches are skipped, weights not saved, and a run that diverges ends."""

import math
import random
from dataclasses import replace
from statistics import fmean, pstdev

import pytest
import torch
from helpers import require_equal, weights

from gpt import InputError
from gpt.choices import IGNORE_INDEX
from gpt.dataset.loader import Loader
from gpt.runs import checkpoint
from gpt.runs.checkpoint import list_checkpoints, load_newest, step_of
from gpt.tracking.jsonl import read_metrics
from gpt.training import guard
from gpt.training.guard import GradientGuard, LossScale, diverged_at, first_not_finite


def filled(skip_spikes=True, norms=128):
    guard = GradientGuard(skip_spikes)
    rng = random.Random(0)
    accepted = [rng.gauss(1.0, 0.1) for _ in range(norms)]
    for norm in accepted:
        assert guard.judge(2.0, norm) is None
    return guard, accepted


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_what_is_not_finite_is_skipped_and_counted(loss, norm):
    guard, accepted = filled(skip_spikes=False)
    assert "not finite" in guard.judge(loss, norm)
    assert "not finite" in guard.judge(loss, norm)
    assert guard.skipped_in_a_row == 2
    assert list(guard.accepted) == accepted
    assert guard.judge(1.0, 1.0) is None
    assert guard.skipped_in_a_row == 0


def test_a_spike_is_more_than_six_deviations_above_the_last_128(accepted_shift=1e-6):
    guard, accepted = filled()
    limit = fmean(accepted) + 6 * pstdev(accepted)
    assert "6.0 standard deviations above the usual" in guard.judge(2.0, limit + accepted_shift)
    assert guard.judge(2.0, limit - accepted_shift) is None
    assert len(guard.accepted) == 128


def test_the_window_must_be_full_and_a_fall_is_no_spike():
    guard, _ = filled(norms=127)
    assert guard.judge(2.0, 1e6) is None
    guard, _ = filled()
    assert guard.judge(2.0, 0.0) is None
    guard, _ = filled(skip_spikes=False)
    assert guard.judge(2.0, 1e6) is None


def test_a_skipped_norm_does_not_widen_the_window():
    guard, _ = filled()
    assert all(guard.judge(2.0, 50.0) for _ in range(5))


def test_the_state_comes_back():
    guard, accepted = filled()
    guard.judge(math.nan, 1.0)
    again = GradientGuard(True)
    again.load_state_dict(guard.state_dict())
    assert (list(again.accepted), again.skipped_in_a_row) == (accepted, 1)
    assert again.judge(2.0, 50.0) == guard.judge(2.0, 50.0)


def test_divergence_names_the_newest_checkpoint_from_before_the_sick_weights(tmp_path):
    """Steps 5, 6 and 7 were skipped: the weights of step 4 gave no finite loss, be they saved or not."""
    assert "nothing was saved yet" in str(diverged_at(7, tmp_path))
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    assert "none of its checkpoints is from before that" in str(diverged_at(7, tmp_path))
    (tmp_path / "checkpoints" / "step-00000003").mkdir()
    said = str(diverged_at(7, tmp_path))
    assert "step-00000003, is from before that: go on from it with `resume` `from_step` 3" in said


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_tensor_that_is_not_finite_is_named(value):
    tensors = {"a": torch.ones(3), "b": torch.tensor([[1.0, value]]), "c": torch.tensor([value])}
    assert first_not_finite(tensors) == "b"
    assert first_not_finite({"a": torch.full((2,), 3e38)}) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_float16_is_scaled(dtype):
    scale = LossScale(dtype)
    assert scale.value == 1
    assert not scale.lower()
    for _ in range(5000):
        scale.accept()
    assert scale.value == 1


def test_the_scale_is_halved_down_to_one_and_doubled_after_2000_steps():
    scale = LossScale(torch.float16)
    halvings = 0
    while scale.lower():
        halvings += 1
    assert (halvings, scale.value) == (16, 1.0)
    for _ in range(1999):
        scale.accept()
    assert scale.value == 1
    scale.accept()
    assert scale.value == 2
    again = LossScale(torch.float16)
    again.load_state_dict(scale.state_dict())
    assert again.state_dict() == scale.state_dict()
    single = LossScale(torch.float32)
    single.load_state_dict(scale.state_dict())  # of a run that is resumed in another precision
    assert single.value == 1
    half = LossScale(torch.float16)
    half.load_state_dict(single.state_dict())
    assert half.value == 2.0**16


def test_divergence_stops_before_the_weights_are_touched(make_training, tiny_config):
    training = make_training(tiny_config)
    training.step()
    before = weights(training)
    training.model.final_norm.bias.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(InputError, match=r"diverged at step 4: 3 batches in a row .*learning_rate"):
        training.fit()
    require_equal(before, weights(training))


def poison(training, steps, value=math.nan, rank=0):
    """Make the loss of these steps not finite, or as large as `value` times itself."""
    honest = training.trainer.loss

    def forward(x, y):
        return honest(x, y) * (value if training.state.step in steps else 1.0)

    training.trainer.loss = forward


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_without_a_finite_loss_is_skipped_and_logged(make_training, tiny_config, value):
    training = make_training(tiny_config)
    poison(training, {7, 8}, value)
    before = {}
    adamw = training.trainer.optimizer.adamw
    original = adamw.step

    def noted():
        original()
        before.update(step=training.state.step + 1, weights=weights(training))

    adamw.step = noted
    originals = []

    def step(do):
        record = do()
        if "skipped" in record:
            originals.append(before["step"])
            require_equal(before["weights"], weights(training))
        return record

    training.around_steps(step)
    assert training.fit()
    assert originals == [7, 7]
    records = {record["step"]: record for record in read_metrics(training.run)}
    assert list(records) == list(range(1, 31))
    for step in (8, 9):
        assert records[step]["train_loss"] is None
        assert records[step]["samples"] == list(range((step - 1) * 6, step * 6))
        assert "not finite" in records[step]["skipped"]
    assert "skipped" not in records[10]


def test_a_skipped_batch_is_told_with_its_samples(make_training, tiny_config, said):
    training = make_training(tiny_config)
    poison(training, {0})
    training.step()
    assert "\n".join(said).startswith("step 1: batch skipped (samples 0 to 5): not finite: loss nan")


def test_a_gradient_alone_that_is_not_finite_is_found(make_training, tiny_config):
    training = make_training(tiny_config)
    training.step()
    before, moments = weights(training), training.trainer.optimizer.state_dict()
    moments = {name: tensor.clone() for name, tensor in moments.items()}
    handle = training.model.final_norm.bias.register_hook(lambda gradient: gradient * math.inf)
    record = training.step()
    handle.remove()
    assert math.isfinite(record["train_loss"])
    assert record["gradient_norm"] is None
    require_equal(before, weights(training))
    require_equal(moments, training.trainer.optimizer.state_dict())
    assert "skipped" not in training.step()


def test_three_skipped_in_a_row_stop_the_run_with_the_last_good_checkpoint(make_training, tiny_config):
    training = make_training(tiny_config)
    poison(training, {13, 15, 16, 17})
    with pytest.raises(InputError, match=r"diverged at step 18: 3 batches .* step-00000010, is from before that"):
        training.fit()
    assert [step_of(path) for path in list_checkpoints(training.run)] == [10]
    assert [r["step"] for r in read_metrics(training.run) if "skipped" in r] == [14, 16, 17, 18]


def sicken(training, at, value, healthy_again=None):
    """Put a number into a weight after the step `at`, before anything of it is saved."""

    def step(do):
        record = do()
        with torch.no_grad():
            if training.state.step == at:
                training.model.final_norm.weight[0] = value
            if training.state.step == healthy_again:
                training.model.final_norm.weight[0] = 1.0
        return record

    training.around_steps(step)


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_saved_and_push_out_none(make_training, tiny_config, keep, value, said):
    config = replace(tiny_config, evaluation=replace(tiny_config.evaluation, every=0))
    training = make_training(replace(config, checkpoint=replace(config.checkpoint, every=1, keep=keep)))
    sicken(training, 6, value)
    with pytest.raises(InputError, match=r"diverged at step 9: .* step-00000005, is from before that"):
        training.fit()
    assert [step_of(path) for path in list_checkpoints(training.run)] == [5, 4][:keep][::-1]
    assert "step 6 is not saved, as final_norm.weight has numbers that are not finite" in " ".join(said)


def test_finite_weights_that_give_no_finite_loss_leave_the_healthy_ones(make_training, tiny_config):
    """They are saved before anybody can know; the next steps save nothing, and the message names the one before."""
    config = replace(tiny_config, evaluation=replace(tiny_config.evaluation, every=0))
    training = make_training(replace(config, checkpoint=replace(config.checkpoint, every=1, keep=2)))
    poison(training, {6, 7, 8}, math.inf)
    with pytest.raises(InputError, match=r"diverged at step 9: .* step-00000005, is .* `from_step` 5"):
        training.fit()
    assert [step_of(path) for path in list_checkpoints(training.run)] == [5, 6]


def test_a_save_that_falls_on_a_skipped_batch_is_made_up_for(make_training, tiny_config):
    config = replace(tiny_config, evaluation=replace(tiny_config.evaluation, every=0))
    training = make_training(replace(config, checkpoint=replace(config.checkpoint, every=10, keep=9)))
    poison(training, {8, 9}, math.nan)
    assert training.fit()
    assert [step_of(path) for path in list_checkpoints(training.run)] == [11, 20, 30]


def test_an_end_with_weights_that_are_not_finite_is_an_error_and_nothing_saved(make_training, tiny_config):
    training = make_training(tiny_config)
    sicken(training, 30, math.nan)
    with pytest.raises(
        InputError, match=r"step 30 is not saved, as final_norm.weight .* step-00000020, is from before"
    ):
        training.fit()
    assert [step_of(path) for path in list_checkpoints(training.run)] == [10, 20]


def test_a_checkpoint_with_weights_that_are_not_finite_is_refused(make_training, tiny_config, trained_run):
    sick = load_newest(trained_run)
    sick.model["final_norm.bias"][3] = math.nan
    checkpoint.save(trained_run, sick.model, sick.optimizer, sick.state)
    with pytest.raises(InputError, match=r"final_norm\.bias of step 30 .* `from_step` 20"):
        make_training(tiny_config, resume=True)


@pytest.mark.parametrize("only", [{3}, {3, 4, 5, 6}])
def test_a_step_without_any_target_changes_nothing_and_is_no_divergence(
    make_training, tiny_config, only, said, monkeypatch
):
    training = make_training(replace(tiny_config, steps=8))
    honest, seen = Loader.batch, {}

    def batch(step, *rows):
        read = honest(training.loader, step, *rows)
        return replace(read, targets=torch.full_like(read.targets, IGNORE_INDEX)) if step in only else read

    def step(do):
        moments = {name: tensor.clone() for name, tensor in training.trainer.optimizer.state_dict().items()}
        seen[training.state.step] = weights(training), moments
        return do()

    monkeypatch.setattr(Loader, "batch", lambda loader, *given: batch(*given))
    training.around_steps(step)
    assert training.fit()
    for step in only:
        for before, after in zip(seen[step], seen[step + 1], strict=True):
            require_equal(before, after)
        (record,) = (r for r in read_metrics(training.run) if r["step"] == step + 1)
        assert (record["train_loss"], record["gradient_norm"]) == (0.0, 0.0)
        assert record["skipped"] == "none of its targets counts"
    assert len([line for line in said if "batch skipped" in line and "none of its targets counts" in line]) == len(only)
    assert training.trainer.guard.skipped_in_a_row == 0


def test_a_spike_is_skipped_on_request_and_the_window_resumes(make_training, tiny_config, monkeypatch):
    """A loss a hundred times too large, at step 11; the resumed run skips it like the undisturbed one."""
    monkeypatch.setattr(guard, "WINDOW", 8)
    config = replace(tiny_config, steps=12, optimizer=replace(tiny_config.optimizer, skip_spikes=True))
    config = replace(config, evaluation=replace(config.evaluation, every=0))
    whole, first = make_training(config, "whole"), make_training(replace(config, stop_at=9), "parts")
    for training in (whole, first):
        poison(training, {10}, 100.0)
        training.fit()
    second = make_training(config, "parts", resume=True)
    poison(second, {10}, 100.0)
    assert second.fit()
    for training in (whole, second):
        (skipped,) = (record for record in read_metrics(training.run) if "skipped" in record)
        assert skipped["step"] == 11
        assert "standard deviations above the usual" in skipped["skipped"]
    require_equal(weights(whole), weights(second))
    unguarded = make_training(replace(config, optimizer=replace(config.optimizer, skip_spikes=False)), "unguarded")
    poison(unguarded, {10}, 100.0)
    assert unguarded.fit()
    assert not any("skipped" in record for record in read_metrics(unguarded.run))


def test_float16_lowers_its_scale_when_gradients_overflow_and_learns_from_every_batch(make_training, tiny_config):
    config = replace(tiny_config, dtype="float16", model=replace(tiny_config.model, dropout=0.0))
    training, reference = make_training(config, "half"), make_training(replace(config, dtype="float32"), "single")
    training.trainer.scale.value = 2.0**40
    records = [training.step() for _ in range(10)]
    assert not any("skipped" in record for record in records)
    assert 1 < training.trainer.scale.value < 2.0**40
    losses = [reference.step()["train_loss"] for _ in range(10)]
    assert [record["train_loss"] for record in records] == pytest.approx(losses, rel=0.01)
