import json
import math
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from helpers import Training, needs_compiler
from torch.nn import functional as F

from gpt import GPT, InputError
from gpt.choices import IGNORE_INDEX
from gpt.config import CheckpointConfig, EvaluationConfig
from gpt.dataset.loader import Loader
from gpt.distributed.world import World
from gpt.runs import checkpoint
from gpt.runs.checkpoint import list_checkpoints, load_best, load_newest, step_of
from gpt.tracking.jsonl import read_metrics
from gpt.tracking.progress import printable
from gpt.training import trainer as trainer_module
from gpt.training import validation

CLOCKED = ("elapsed_s", "tokens_per_s", "mfu")


def weights(training):
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


def require_equal(one, two):
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def plain(records):
    """Records without what depends on the clock."""
    return [{key: value for key, value in r.items() if key not in CLOCKED} for r in records]


def test_the_loss_goes_down(make_training, tiny_config):
    training = make_training(replace(tiny_config, steps=120, evaluation=replace(tiny_config.evaluation, every=0)))
    assert training.fit()
    records = read_metrics(training.run)
    assert records[0]["train_loss"] == pytest.approx(math.log(257), abs=0.1)
    assert records[-1]["val_loss"] < 4.0


@pytest.fixture(params=["gpt2", "modern", "recomputed"])
def any_config(request, tiny_shape, modern_shape):
    """The exact GPT-2 with AdamW, and the modern recipe, all of it."""
    configs = {"gpt2": tiny_shape, "modern": modern_shape, "recomputed": replace(modern_shape, recompute="blocks")}
    return configs[request.param]


def test_a_resumed_run_repeats_an_undisturbed_one_bit_for_bit(make_training, any_config):
    """30 steps at once, and 11 + 19 with everything rebuilt from disk between, dropout on."""
    tiny_config = any_config
    whole = make_training(tiny_config, "whole")
    assert whole.fit()
    first = make_training(replace(tiny_config, stop_at=11), "parts")
    assert not first.fit()
    torch.manual_seed(99)  # whatever else happened in between
    second = make_training(tiny_config, "parts", resume=True)
    assert second.state.step == 11
    assert second.fit()
    require_equal(weights(whole), weights(second))
    one, two = (load_newest(t.run) for t in (whole, second))
    require_equal(one.model, two.model)
    require_equal(one.optimizer, two.optimizer)
    assert plain(read_metrics(whole.run)) == plain(read_metrics(second.run))
    clocked = ("elapsed_s", "record")
    states = [{key: value for key, value in saved.state.items() if key not in clocked} for saved in (one, two)]
    assert states[0] == states[1]
    assert whole.state.gain == second.state.gain
    assert whole.state.gain is not None  # the last table's row "change"


def test_a_resumed_run_warns_of_learning_by_heart_when_an_undisturbed_one_does(
    make_training, tiny_config, monkeypatch, said
):
    """The warning compares with losses from before the stop, and comes once; also where not every step is logged."""
    honest_summary = validation.summarize
    config = replace(tiny_config, steps=40, log_every=7)

    def lines(name, stops):
        losses, before = iter([4.0, 3.0, 6.0, 7.0]), len(said)
        monkeypatch.setattr(validation, "summarize", lambda *sums: replace(honest_summary(*sums), loss=next(losses)))
        for number, stop_at in enumerate(stops):
            training = make_training(replace(config, stop_at=stop_at), name, resume=number > 0)
            training.around_steps(lambda do, state=training.state: do() | {"train_loss": 5 - state.step / 10})
            training.fit()
        return [line for line in said[before:] if "by heart" in line]

    whole = lines("whole", [None])
    assert len(whole) == 1
    assert whole[0].startswith("step 30: it has begun to learn the text by heart: validation is 6.0000")
    assert lines("parts", [15, 24, 33, None]) == whole


def test_how_often_one_evaluates_or_saves_does_not_change_the_training(make_training, tiny_config):
    often = replace(
        tiny_config,
        evaluation=replace(tiny_config.evaluation, every=3),
        checkpoint=replace(tiny_config.checkpoint, every=4),
    )
    seldom = replace(tiny_config, evaluation=replace(tiny_config.evaluation, every=0))
    runs = [make_training(config, name) for config, name in ((often, "often"), (seldom, "seldom"))]
    for training in runs:
        training.fit()
    require_equal(weights(runs[0]), weights(runs[1]))


def test_recomputing_changes_nothing_that_is_learned(make_training, modern_shape):
    """Bit for bit: dropout is drawn again alike."""
    losses = []
    for recompute in ("none", "activations", "blocks"):
        training = make_training(replace(modern_shape, recompute=recompute), recompute)
        losses.append([training.step()["train_loss"] for _ in range(5)])
    assert losses[0] == losses[1] == losses[2]


def test_freed_memory_is_kept_unless_something_is_recomputed(make_training, tiny_config, monkeypatch):
    kept = []
    monkeypatch.setattr(trainer_module, "retain_freed_memory", lambda device, keep: kept.append(keep))
    for recompute in ("none", "activations", "blocks"):
        make_training(replace(tiny_config, recompute=recompute), recompute)
    assert kept == [True, False, False]


def test_early_stopping_ends_a_run_that_no_longer_improves(make_training, tiny_config, monkeypatch, said):
    """Evaluations at 3, 6, …: the best is the second, so the run ends with the fifth; a resumed run counts on."""
    losses = {3: 3.0, 6: 2.0, 9: 2.5, 12: 2.0, 15: 2.1, 18: 1.0}
    config = replace(tiny_config, early_stopping_patience=3, evaluation=replace(tiny_config.evaluation, every=3))
    config = replace(config, checkpoint=replace(config.checkpoint, every=0, keep=1))
    original = validation.summarize
    training = make_training(replace(config, stop_at=10))
    monkeypatch.setattr(
        validation, "summarize", lambda *sums: replace(original(*sums), loss=losses[training.state.step])
    )
    assert not training.fit()
    training = make_training(config, resume=True)
    assert training.fit()
    assert training.state.step == 15
    assert load_best(training.run).state["step"] == 6
    assert [step_of(path) for path in list_checkpoints(training.run)] == [6, 15]
    training.report()
    assert "stopped early: 3 evaluations in a row without a new best validation loss" in said
    finished = make_training(config, resume=True)
    assert finished.fit()
    assert finished.state.step == 15


def test_a_sample_is_made_at_each_evaluation_from_the_same_prompt(make_training, modern_shape, capsys):
    config = replace(modern_shape, evaluation=replace(modern_shape.evaluation, every=10, sample_tokens=9))
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


def test_a_cut_evaluation_is_made_up_for_though_evaluations_come_at_other_steps_now(
    make_training, tiny_config, monkeypatch
):
    original, training = validation.loss_per_window, make_training(tiny_config)

    def interrupted(*arguments, stop):
        signal.raise_signal(signal.SIGUSR1)
        return original(*arguments, stop=stop)

    monkeypatch.setattr(validation, "loss_per_window", interrupted)
    assert not training.fit()
    monkeypatch.setattr(validation, "loss_per_window", original)
    resumed = make_training(replace(tiny_config, evaluation=replace(tiny_config.evaluation, every=7)), resume=True)
    assert resumed.fit()
    evaluated = [record["step"] for record in read_metrics(training.run) if "val_loss" in record]
    assert evaluated == [10, 14, 21, 28, 30]


def test_a_trace_that_cannot_be_written_ends_no_training(make_training, tiny_config, said):
    training = make_training(replace(tiny_config, steps=8))
    (training.run / "trace.json" / "in the way").mkdir(parents=True)
    assert training.fit(profile=True)
    assert any("trace.json: cannot be written" in line for line in said)


def test_a_profile_traces_a_few_steps_and_names_the_costliest_operations(make_training, tiny_config, said):
    training = make_training(replace(tiny_config, steps=8))
    assert training.fit(profile=True)
    trace = json.loads((training.run / "trace.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert {"ProfilerStep#3", "ProfilerStep#4", "ProfilerStep#5"} <= names
    assert "ProfilerStep#2" not in names and "ProfilerStep#6" not in names
    assert any("10 costliest operations of 3 steps" in line for line in said)
    (table,) = (line for line in said if "Self CPU" in line)
    assert "aten::mm" in table or "aten::addmm" in table
    plain_run = make_training(replace(tiny_config, steps=8), "plain")
    plain_run.fit()
    assert not (plain_run.run / "trace.json").exists()
    require_equal(weights(training), weights(plain_run))


def test_the_micro_batch_does_not_change_what_is_learned(make_training, tiny_config):
    """Loss and gradient are means over all targets of the batch, those of padded windows not counted."""
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    results = []
    for micro_batch_size in (1, 4, 6):
        training = make_training(replace(config, micro_batch_size=micro_batch_size), f"micro-{micro_batch_size}")
        records = [training.step() for _ in range(40)]
        results.append(([r["train_loss"] for r in records], [r["gradient_norm"] for r in records]))
    assert results[0][0] == pytest.approx(results[2][0], rel=1e-4)
    assert results[1][1] == pytest.approx(results[2][1], rel=1e-2)


def test_a_step_is_what_its_definition_says(make_training, tiny_config):
    """Loss and gradient by hand, on the batch that has a padded window."""
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    training = make_training(config)
    while not (training.loader.batch(training.state.step).targets == IGNORE_INDEX).any():
        training.step()
    twin = GPT(config.model)
    twin.load_state_dict(training.model.state_dict())
    batch = training.loader.batch(training.state.step)
    loss = F.cross_entropy(twin(batch.inputs).flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX)
    loss.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in twin.parameters()))
    record = training.step()
    assert record["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert record["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_gradients_are_clipped_to_the_limit(make_training, tiny_config, monkeypatch):
    seen = []
    training = make_training(replace(tiny_config, optimizer=replace(tiny_config.optimizer, gradient_clip=0.05)))

    def look(*_, **__):
        seen.append(torch.sqrt(sum((p.grad**2).sum() for p in training.model.parameters())).item())

    training.trainer.optimizer.optimizers[0].register_step_pre_hook(look)
    assert training.step()["gradient_norm"] > 0.1
    assert seen == [pytest.approx(0.05, rel=1e-3)]


def test_metrics_have_the_documented_keys(trained_run, dataset):
    records, windows = read_metrics(trained_run), -(-(dataset.train.tokens - 1) // 32)
    assert [record["step"] for record in records] == list(range(1, 31))
    keys = {"step", "tokens", "elapsed_s", "train_loss", "learning_rate", "gradient_norm", "tokens_per_s"}
    keys |= {"batch_hash", "epoch", "mfu", "compiled", "exact"}
    evaluated = {"val_loss", "val_loss_se", "val_loss_ci95", "val_bits_per_byte", "sample"}
    for record in records:
        assert set(record) == (keys | evaluated if record["step"] % 10 == 0 else keys)
        assert record["tokens"] == record["step"] * 192
        share = record["mfu"]
        assert share is None or 0 < share < 1
        assert record["epoch"] == record["step"] * 6 / windows
    times = [record["elapsed_s"] for record in records]
    assert times == sorted(times)


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_finishes_the_step_saves_and_can_be_resumed(make_training, tiny_config, monkeypatch, number):
    training = make_training(tiny_config)

    def step(do):
        if training.state.step == 13:
            signal.raise_signal(number)
        return do()

    training.around_steps(step)
    assert not training.fit()
    assert step_of(list_checkpoints(training.run)[-1]) == 14
    resumed = make_training(tiny_config, resume=True)
    assert resumed.state.step == 14
    assert resumed.fit()


def test_a_second_ctrl_c_interrupts_at_once(make_training, tiny_config, monkeypatch):
    training = make_training(tiny_config)

    def step(do):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    training.around_steps(step)
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
    adamw = training.trainer.optimizer.optimizers[0]
    adamw.register_step_post_hook(lambda *_: before.update(step=training.state.step + 1, weights=weights(training)))
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


def test_a_spike_is_skipped_on_request_and_the_window_resumes(make_training, tiny_config):
    """A loss a hundred times too large, at step 141; the resumed run skips it like the undisturbed one."""
    config = replace(tiny_config, steps=150, optimizer=replace(tiny_config.optimizer, skip_spikes=True))
    config = replace(config, evaluation=replace(config.evaluation, every=0))
    whole, first = make_training(config, "whole"), make_training(replace(config, stop_at=137), "parts")
    for training in (whole, first):
        poison(training, {140}, 100.0)
        training.fit()
    second = make_training(config, "parts", resume=True)
    poison(second, {140}, 100.0)
    assert second.fit()
    for training in (whole, second):
        (skipped,) = (record for record in read_metrics(training.run) if "skipped" in record)
        assert skipped["step"] == 141
        assert "standard deviations above the usual" in skipped["skipped"]
    require_equal(weights(whole), weights(second))
    unguarded = make_training(replace(config, optimizer=replace(config.optimizer, skip_spikes=False)), "unguarded")
    poison(unguarded, {140}, 100.0)
    assert unguarded.fit()
    assert not any("skipped" in record for record in read_metrics(unguarded.run))


def exhaust(training, most):
    """Run out of memory whenever more than `most` sequences go through the model at a time; returns the sizes tried."""
    honest, tried = training.trainer.loss, []

    def forward(x, y):
        tried.append(len(x))
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(x, y)

    training.trainer.loss = forward
    return tried


def test_out_of_memory_halves_the_micro_batch_and_does_the_step_again(make_training, tiny_config, said):
    config = replace(tiny_config, batch_tokens=16 * 32, model=replace(tiny_config.model, dropout=0.0))
    small, large = (make_training(replace(config, micro_batch_size=size), str(size)) for size in (2, 512))
    tried = exhaust(large, 3)
    for _ in range(5):
        one, two = small.step(), large.step()
        assert (one["train_loss"], one["batch_hash"]) == (two["train_loss"], two["batch_hash"])
    require_equal(weights(small), weights(large))
    assert tried == [16, 8, 4] + [2] * 40
    said = "\n".join(said)
    assert "step 1: out of memory with 16 sequences at a time; it is done again with 8" in said
    assert said.count("out of memory") == 3


def test_memory_that_runs_out_midway_costs_nothing(make_training, tiny_config):
    """In the backward pass of the third micro-batch of the fifth step, and once only; a resumed run keeps the size."""
    config = replace(tiny_config, steps=12, batch_tokens=12 * 32, micro_batch_size=4)
    config = replace(config, model=replace(config.model, dropout=0.0))
    training, reference = make_training(replace(config, stop_at=8), "oom"), make_training(config, "reference")
    calls = []

    def fail_once(gradient):
        calls.append(training.state.step)
        if len(calls) == 4 * 3 + 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    training.model.final_norm.bias.register_hook(fail_once)
    training.fit()
    resumed = make_training(config, "oom", resume=True)
    assert resumed.trainer.micro_batch.size == 2
    resumed.fit()
    reference.fit()
    losses = [[record["train_loss"] for record in read_metrics(t.run)] for t in (resumed, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_out_of_memory_with_one_sequence_is_the_users_to_solve(make_training, tiny_config):
    training = make_training(tiny_config)
    exhaust(training, 0)
    with pytest.raises(InputError, match="out of memory with a single sequence at a time"):
        training.step()


def test_other_errors_are_not_taken_for_a_lack_of_memory(make_training, tiny_config):
    training = make_training(tiny_config)
    training.trainer.loss = lambda x, y: torch.ones(2) @ torch.ones(3)
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        training.step()


@pytest.mark.parametrize("micro_batch_size", [8, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_resuming_is_exact_in_every_precision_and_accumulation(make_training, tiny_config, dtype, micro_batch_size):
    config = replace(tiny_config, dtype=dtype, batch_tokens=8 * 32, micro_batch_size=micro_batch_size, steps=14)
    whole = make_training(config, "whole")
    whole.fit()
    make_training(replace(config, stop_at=6), "parts").fit()
    parts = make_training(config, "parts", resume=True)
    parts.fit()
    one, two = (load_newest(training.run) for training in (whole, parts))
    require_equal(one.model, two.model)
    require_equal(one.optimizer, two.optimizer)
    assert plain(read_metrics(whole.run)) == plain(read_metrics(parts.run))
    timeless = [{key: value for key, value in c.state.items() if key not in CLOCKED} for c in (one, two)]
    records = [plain([state.pop("record")]) for state in timeless]
    assert timeless[0] == timeless[1]
    assert records[0] == records[1]


def test_float16_lowers_its_scale_when_gradients_overflow_and_learns_from_every_batch(make_training, tiny_config):
    config = replace(tiny_config, dtype="float16", model=replace(tiny_config.model, dropout=0.0))
    training, reference = make_training(config, "half"), make_training(replace(config, dtype="float32"), "single")
    training.trainer.scale.value = 2.0**40
    records = [training.step() for _ in range(10)]
    assert not any("skipped" in record for record in records)
    assert 1 < training.trainer.scale.value < 2.0**40
    losses = [reference.step()["train_loss"] for _ in range(10)]
    assert [record["train_loss"] for record in records] == pytest.approx(losses, rel=0.01)


def test_a_signal_in_an_evaluation_ends_it_and_the_resumed_run_makes_up_for_it(make_training, tiny_config, monkeypatch):
    whole, parts = make_training(tiny_config, "whole"), make_training(tiny_config, "parts")
    whole.fit()
    original, calls = validation.loss_per_window, []

    def interrupted(*arguments, stop):
        calls.append(1)
        if len(calls) == 2:  # of step 20
            signal.raise_signal(signal.SIGUSR1)
        return original(*arguments, stop=stop)

    monkeypatch.setattr(validation, "loss_per_window", interrupted)
    assert not parts.fit()
    assert step_of(list_checkpoints(parts.run)[-1]) == 20
    assert [record["step"] for record in read_metrics(parts.run)] == list(range(1, 20))
    resumed = make_training(tiny_config, "parts", resume=True)
    assert resumed.state.step == 20
    assert resumed.fit()
    assert plain(read_metrics(whole.run)) == plain(read_metrics(resumed.run))
    assert load_best(whole.run).state["step"] == load_best(resumed.run).state["step"]
    require_equal(weights(whole), weights(resumed))


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


def test_other_data_can_be_allowed(make_training, tiny_config, said):
    training = make_training(replace(tiny_config, stop_at=5))
    training.fit()
    other = replace(training.dataset, fingerprint="other")
    with pytest.raises(InputError, match="or go on with `allow_other_data`"):
        Training(training.config, other, training.run, resumes=True)
    before = len(said)
    assert Training(training.config, other, training.run, resumes=True, allow_other_data=True).state.step == 5
    assert "it goes on with it" in said[before]


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


def test_fewer_steps_than_were_done_are_refused_and_change_nothing(make_training, tiny_config, trained_run):
    before = (trained_run / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"`steps` 20: .* has done 30 steps already"):
        make_training(replace(tiny_config, steps=20), resume=True)
    assert (trained_run / "config.json").read_bytes() == before


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


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_single_step_learns_something(make_training, tiny_config, schedule):
    optimizer = replace(tiny_config.optimizer, schedule=schedule, min_lr_ratio=0.0)
    training = make_training(replace(tiny_config, steps=1, optimizer=optimizer))
    before = weights(training)
    assert training.fit()
    assert not torch.equal(before["token_embedding.weight"], weights(training)["token_embedding.weight"])


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


@pytest.mark.slow
@needs_compiler
def test_compiled_training_has_the_same_losses(make_training, tiny_config):
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    losses = []
    for setting in ("off", "on"):
        training = make_training(replace(config, compile=setting), setting)
        losses.append([training.step()["train_loss"] for _ in range(5)])
    assert training.trainer.compiled.works
    assert training.trainer.compiled.graphs == 2  # of 4 sequences, and of the other 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_training_on_cuda_learns_like_the_cpu(dataset, tiny_config, tmp_path):
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        training = Training(config, dataset, tmp_path / device, World(device))
        losses.append([training.step()["train_loss"] for _ in range(20)])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # bfloat16 has 8 bits
