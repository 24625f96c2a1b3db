import re
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import steps_of

from gpt import InputError
from gpt.config import CheckpointConfig, OptimizerConfig
from gpt.runs import checkpoint
from gpt.runs.checkpoint import list_checkpoints, load_best, load_newest, step_of
from gpt.runs.directory import read_config
from gpt.runs.load import load_run
from gpt.tracking.jsonl import read_metrics
from gpt.training import validation
from gpt.training.schedule import Schedule

COSINE = OptimizerConfig(warmup_steps=10, learning_rate=1e-3)
WSD = replace(COSINE, schedule="wsd", decay_ratio=0.4, min_lr_ratio=0.0)
MUON = replace(WSD, name="muon")


@pytest.mark.parametrize(
    ("before", "step", "now", "spoils"),
    [
        (Schedule(100, COSINE), 100, Schedule(200, COSINE), True),  # finished: 0.1 to 0.58 of the peak
        (Schedule(100, replace(COSINE, warmup_steps=100)), 100, Schedule(200, replace(COSINE, warmup_steps=100)), True),
        (Schedule(100, COSINE), 100, Schedule(110, COSINE), False),  # a little longer: 0.10 to 0.12
        (Schedule(100, COSINE), 90, Schedule(100, COSINE), False),  # nothing changed
        (Schedule(100, COSINE), 90, Schedule(90, COSINE), False),  # downwards
        (Schedule(100, COSINE), 90, Schedule(1000, COSINE), True),
        (Schedule(100, COSINE), 8, Schedule(1000, COSINE), False),  # it has not come down yet
        (Schedule(100, WSD), 100, Schedule(200, WSD), True),
        (Schedule(100, WSD), 80, Schedule(200, WSD), True),
        (Schedule(100, WSD), 64, Schedule(200, WSD), True),  # by little, but wsd need not
        (Schedule(100, WSD), 60, Schedule(200, WSD), False),  # the branch point
        (Schedule(100, WSD), 60, Schedule(200, COSINE), False),
        (Schedule(100, COSINE), 100, Schedule(100, COSINE), False),
        (Schedule(100, COSINE), 80, Schedule(100, replace(COSINE, learning_rate=1e-2)), True),
        (Schedule(100, COSINE), 80, Schedule(100, replace(COSINE, learning_rate=1e-4)), False),
        (Schedule(100, MUON), 80, Schedule(100, replace(MUON, muon_learning_rate=1.0)), True),
        (Schedule(100, WSD), 80, Schedule(100, replace(WSD, muon_learning_rate=1.0)), False),  # AdamW has no use for it
        (Schedule(100, WSD), 80, Schedule(100, replace(WSD, decay_ratio=0.1)), True),
        (Schedule(100, COSINE), 95, Schedule(100, replace(COSINE, schedule="wsd", decay_ratio=0.05)), True),
        (Schedule(100, WSD), 50, Schedule(100, replace(WSD, learning_rate=3e-3)), False),  # a neighbor
        (Schedule(100, WSD), 50, Schedule(100, replace(WSD, learning_rate=1e-1)), True),
        (Schedule(100, COSINE), 5, Schedule(100, replace(COSINE, learning_rate=1e-1)), True),  # it warms up to that
        (Schedule(100, WSD), 50, Schedule(100, replace(WSD, learning_rate=1e-5)), False),
        (Schedule(100, MUON), 50, Schedule(100, replace(MUON, muon_learning_rate=1.0)), True),
        (Schedule(100, WSD), 50, Schedule(100, replace(WSD, muon_learning_rate=1.0)), False),
        (Schedule(100, WSD), 50, Schedule(100, replace(WSD, head_lr_scale=10.0)), True),
        (Schedule(100, WSD), 50, Schedule(100, replace(WSD, head_lr_scale=0.1)), False),
        (Schedule(100, WSD), 50, Schedule(100, replace(WSD, ngram_lr_scale=2.0, learning_rate=2e-3)), True),
        (Schedule(100, COSINE), 80, Schedule(100, replace(COSINE, vector_lr_scale=3.0)), True),
    ],
)
def test_a_rate_that_came_down_may_not_jump_up(before, step, now, spoils):
    assert before.spoiled_by(now, step) == spoils


def test_changes_are_named_with_both_values():
    now = Schedule(200, replace(COSINE, beta1=0.8))
    assert Schedule(100, COSINE).changes(now) == ["steps 100 → 200", "optimizer.beta1 0.9 → 0.8"]


@pytest.fixture
def wsd(tiny_config):
    """20 steps, of which the last 8 come down; some with dropout, so that a step's number counts."""
    return replace(tiny_config, steps=20, optimizer=replace(WSD, warmup_steps=5))


def require_equal(one, two):
    one, two = load_newest(one), load_newest(two)
    assert one.state["step"] == two.state["step"]
    for mine, others in ((one.model, two.model), (one.optimizer, two.optimizer)):
        assert mine.keys() == others.keys()
        assert all(torch.equal(tensor, others[name]) for name, tensor in mine.items())


def test_the_branch_point_is_saved_and_kept(make_training, wsd):
    config = replace(wsd, checkpoint=replace(wsd.checkpoint, every=3, keep=1))
    training = make_training(replace(config, evaluation=replace(config.evaluation, every=0)))
    assert training.fit()
    assert steps_of(training.run) == [12, 20]


@pytest.mark.parametrize("stopped_at", [10, 9, 7])
def test_a_run_with_wsd_that_gets_more_steps_becomes_the_longer_run(undisturbed, make_training, wsd, said, stopped_at):
    """Bit for bit, from the branch point; and what the shorter one reached is kept, whole and usable."""
    evaluation, saving = replace(wsd.evaluation, every=5), replace(wsd.checkpoint, every=5)
    optimizer = replace(wsd.optimizer, warmup_steps=2)
    wsd = replace(wsd, steps=10, optimizer=optimizer, evaluation=evaluation, checkpoint=saving)
    whole = undisturbed(replace(wsd, steps=20))
    first = make_training(replace(wsd, stop_at=stopped_at))
    first.fit()
    before = {step_of(path): checkpoint.load(path, optimizer=True) for path in list_checkpoints(first.run)}
    records = read_metrics(first.run)
    second = make_training(replace(wsd, steps=20), resume=True)
    said = "\n".join(said)
    assert second.state.step == 6
    assert "steps 10 → 20" in said and "it goes on from step 6 instead" in said
    assert f"the learning rate of step {stopped_at + 1} is 1.00e-03 and not" in said
    assert second.fit()
    require_equal(whole.run, second.run)
    losses = [[record["train_loss"] for record in read_metrics(t.run)] for t in (whole, second)]
    assert losses[0] == losses[1]
    aside = first.run / f"until-step-{stopped_at}"
    assert str(aside) in said
    evaluated = {step: saved.state["evaluation"] for step, saved in before.items()}
    best = min((found["loss"], step) for step, found in evaluated.items() if found)
    with_best = f"is a run of its own now, with the best so far (step {best[1]}, validation loss {best[0]:.4f}): "
    assert (with_best in said) == (best[1] > 6)
    assert read_metrics(aside) == records
    assert read_config(aside).steps == 10
    assert steps_of(aside) == [step for step in before if step > 6]
    newest = load_newest(aside)
    assert newest.state == before[stopped_at].state
    assert load_run(aside).state["step"] in steps_of(aside)


def test_a_jump_without_a_branch_point_is_refused_and_changes_nothing(finished, make_training, tiny_config):
    run = finished(tiny_config)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in run.rglob("[!.]*"))
    with pytest.raises(
        InputError,
        match=r"with steps 30 → 60, the learning rate of step 31 is 1\.\d+e-03 and not 3.00e-04, a jump .*"
        r"`init_from` .*`allow_rate_jump`",
    ):
        make_training(replace(tiny_config, steps=60), resume=True)
    assert before == sorted((str(path), path.stat().st_mtime_ns) for path in run.rglob("[!.]*"))


@pytest.mark.parametrize("stopped_at", [5, 12, 15, 20])
@pytest.mark.parametrize("rate", ["learning_rate", "muon_learning_rate"])
def test_a_rate_that_is_much_higher_is_refused_wherever_the_run_stands(make_training, wsd, said, rate, stopped_at):
    """Also where there is a branch point to go back to: from there, too, the rate would be too high."""
    name = "muon" if rate == "muon_learning_rate" else "adamw"
    wsd = replace(wsd, optimizer=replace(wsd.optimizer, name=name))
    make_training(replace(wsd, stop_at=stopped_at)).fit()
    peak = getattr(wsd.optimizer, rate)
    other = replace(wsd, steps=40, optimizer=replace(wsd.optimizer, **{rate: 100 * peak}))
    words = f"the {rate.replace('_', ' ')} of step {stopped_at + 1} is {100 * peak:.2e} and not"
    with pytest.raises(InputError, match=rf"optimizer\.{rate} .*{re.escape(words)}.*`init_from` .*`allow_rate_jump`"):
        make_training(other, resume=True)
    assert make_training(other, resume=True, allow_rate_jump=True).state.step == stopped_at
    assert words in "\n".join(said)


def damage(run, step):
    file = run / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_branch_point_gives_way_to_the_checkpoint_before_it(make_training, wsd, said):
    config = replace(wsd, checkpoint=replace(wsd.checkpoint, every=4, keep=9))
    training = make_training(config)
    training.fit()
    damage(training.run, 12)
    longer = replace(config, steps=40)
    assert make_training(longer, resume=True).state.step == 10
    said = "\n".join(said)
    assert "damaged checkpoint" in said and "set aside as step-00000012.damaged-1" in said
    assert "it goes on from step 10 instead" in said


def test_where_all_branch_points_are_damaged_the_jump_is_refused_and_the_newest_is_left(make_training, wsd):
    training = make_training(replace(wsd, evaluation=replace(wsd.evaluation, every=0), checkpoint=CheckpointConfig(99)))
    training.fit()
    assert steps_of(training.run) == [12, 20]
    damage(training.run, 12)
    with pytest.raises(InputError, match="`allow_rate_jump`"):
        make_training(replace(wsd, steps=40), resume=True)
    assert load_newest(training.run).state["step"] == 20


def test_a_damaged_step_that_was_asked_for_is_not_replaced_by_another(finished, make_training, tiny_config):
    damage(finished(replace(tiny_config, checkpoint=replace(tiny_config.checkpoint, keep=9))), 20)
    with pytest.raises(InputError, match=r"`from_step` 20: .*SHA-256.*; other checkpoints of .*: 10, 30"):
        make_training(tiny_config, resume=True, from_step=20)


def test_a_jump_that_is_allowed_is_said_with_its_numbers(finished, make_training, tiny_config, said):
    finished(tiny_config)
    training = make_training(replace(tiny_config, steps=60), resume=True, allow_rate_jump=True)
    said = "\n".join(said)
    assert "changed since step 30: steps 30 → 60; the learning rate of step 31 is 1." in said
    assert "and not 3.00e-04" in said
    assert training.state.step == 30
    training.fit()
    make_training(replace(tiny_config, steps=60), resume=True)
    assert "changed" not in "\n".join(said)  # the newest checkpoint knows


def test_a_jump_is_told_by_the_checkpoint_and_not_by_a_start_that_came_to_nothing(finished, make_training, tiny_config):
    """The allowed start was killed before it saved anything, but after it had written config.json."""
    finished(tiny_config)
    training = make_training(replace(tiny_config, steps=60), resume=True, allow_rate_jump=True)
    assert read_config(training.run).steps == 60
    with pytest.raises(InputError, match="steps 30 → 60"):
        make_training(replace(tiny_config, steps=60), resume=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 2e-3}, "optimizer.learning_rate 0.003 → 0.002; the learning rate of step 6 is 1.99e-03"),
        (
            {"warmup_steps": 10},
            "optimizer.warmup_steps 5 → 10; the learning rate of step 6 is 1.80e-03 and not 2.99e-03",
        ),
        ({"schedule": "wsd"}, "optimizer.schedule cosine → wsd; the learning rate of step 6"),
        ({"weight_decay": 0.3}, "optimizer.weight_decay 0.1 → 0.3; the learning rate of step 6 stays 2.99e-03"),
        ({"beta2": 0.9, "gradient_clip": 2.0}, "optimizer.beta2 0.95 → 0.9, optimizer.gradient_clip 1.0 → 2.0"),
    ],
)
def test_another_optimizer_is_said(make_training, tiny_config, change, words, said):
    make_training(replace(tiny_config, stop_at=5)).fit()
    make_training(replace(tiny_config, optimizer=replace(tiny_config.optimizer, **change)), resume=True)
    assert f"changed since step 5: {words}" in "\n".join(said)


def test_what_stays_the_same_is_not_mentioned(make_training, tiny_config, said):
    make_training(replace(tiny_config, stop_at=5)).fit()
    make_training(replace(tiny_config, stop_at=9, log_every=3), resume=True)
    assert said == []


def test_a_run_goes_on_from_the_step_asked_for(make_training, tiny_config, said):
    """Twice: what came later is set aside each time, and the whole is what it was undisturbed."""
    training = make_training(replace(tiny_config, checkpoint=replace(tiny_config.checkpoint, keep=3)))
    training.fit()
    (training.run / "wandb-id.txt").write_text("abc")
    shutil.copytree(training.run, training.run.with_name("copy"))
    for aside in ("until-step-30", "until-step-30-2"):
        again = make_training(tiny_config, resume=True, from_step=20)
        assert (again.state.step, again.state.best_validation_loss) == (
            20,
            load_newest(again.run).state["evaluation"]["loss"],
        )
        assert f"--run {again.run / aside}" in " ".join(said)
        assert steps_of(again.run / aside) == [30]
        again.fit()
        require_equal(again.run, training.run.with_name("copy"))
    assert (training.run / "until-step-30" / "wandb-id.txt").read_text() == "abc"
    assert [record["step"] for record in read_metrics(training.run)] == list(range(1, 31))
    with pytest.raises(InputError, match=r"`from_step` 7: .* has no checkpoint of that step; it has those of 20, 30"):
        make_training(tiny_config, resume=True, from_step=7)


def with_losses(monkeypatch, losses):
    """Evaluations of so many steps with these losses, whatever the weights."""
    honest, trainers = validation.summarize, []
    monkeypatch.setattr(
        validation, "summarize", lambda *arguments: replace(honest(*arguments), loss=losses[trainers[-1].state.step])
    )
    return trainers


@pytest.mark.parametrize(
    ("losses", "keep", "best", "fruitless"),
    [
        ({4: 3.0, 8: 4.0, 12: 5.0, 16: 2.0, 20: 2.5}, 9, 3.0, 2),  # the best is from before the step
        ({4: 5.0, 8: 4.0, 12: 3.0, 16: 2.0, 20: 2.5}, 9, 3.0, 0),  # of the step itself
        ({4: 4.0, 8: 3.0, 12: 5.0, 16: 2.0, 20: 2.5}, 2, 5.0, 0),  # it was removed for a better one that goes aside
    ],
)
def test_the_best_is_that_of_the_best_checkpoint_that_is_left(
    make_training, tiny_config, monkeypatch, losses, keep, best, fruitless
):
    trainers = with_losses(monkeypatch, losses | {14: 3.5})
    evaluation = replace(tiny_config.evaluation, every=4)
    optimizer = replace(WSD, warmup_steps=5)  # the checkpoint of step 12 is kept
    config = replace(tiny_config, steps=20, optimizer=optimizer, evaluation=evaluation)
    config = replace(config, checkpoint=CheckpointConfig(every=4, keep=keep))
    trainers.append(make_training(config))
    trainers[-1].fit()
    again = make_training(config, resume=True, from_step=12)
    left = load_best(again.run).state["evaluation"]["loss"]
    assert (
        (again.state.best_validation_loss, again.state.evaluations_since_best) == (left, fruitless) == (best, fruitless)
    )
    assert again.state.best_sums is not None or keep == 2
    trainers.append(again)
    again.trainer.config = replace(config, stop_at=14, evaluation=replace(evaluation, every=14))
    again.fit()
    assert load_best(again.run).state["evaluation"]["loss"] == again.state.best_validation_loss == min(best, 3.5)


def test_a_damaged_best_is_not_what_early_stop_compares_with(make_training, tiny_config, monkeypatch):
    trainers = with_losses(monkeypatch, {10: 3.0, 20: 2.0})
    trainers.append(make_training(replace(tiny_config, stop_at=20)))
    trainers[-1].fit()
    damage(trainers[-1].run, 20)
    again = make_training(tiny_config, resume=True)
    assert (again.state.step, again.state.best_validation_loss, again.state.evaluations_since_best) == (10, 3.0, 0)


def test_setting_aside_that_was_cut_short_is_done_again(make_training, tiny_config, monkeypatch):
    training = make_training(replace(tiny_config, checkpoint=replace(tiny_config.checkpoint, every=5, keep=9)))
    training.fit()
    original = type(training.run).rename

    def rename(path, target):
        if path.name == "step-00000025":
            raise KeyboardInterrupt
        return original(path, target)

    monkeypatch.setattr(type(training.run), "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        make_training(tiny_config, resume=True, from_step=10)
    monkeypatch.undo()
    assert make_training(tiny_config, resume=True, from_step=10).state.step == 10
    assert steps_of(training.run) == [5, 10]
    assert steps_of(training.run / "until-step-30") == [15, 20, 25, 30]


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_program_that_is_started_again_does_not_go_back_again(
    finished, make_training, tiny_config, monkeypatch, variable
):
    config = replace(tiny_config, checkpoint=replace(tiny_config.checkpoint, keep=9))
    finished(config)
    monkeypatch.setenv(variable, "0")
    again = make_training(replace(config, stop_at=20), resume=True, from_step=10)
    assert again.state.step == 10
    again.fit()
    monkeypatch.setenv(variable, "1")
    assert make_training(config, resume=True, from_step=10).state.step == 20
