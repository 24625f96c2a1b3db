"""Where a run goes on from when it is given other steps or another optimizer, and what that does to its learning rate.

A schedule spans all steps of a run. Who asks a run for more of them when its rate has come down already would have it
jump up again, which undoes what the low rate has learned. With wsd (warm-up, stable, decay) there is a way: the
checkpoint from before the decay, the branch point, is that of a longer run as well (Hägele et al. 2024).
"""

import os
import shutil
from pathlib import Path
from typing import Any

from gpt.config import OptimizerConfig, TrainConfig
from gpt.config_io import overlay
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.log import log
from gpt.runs import checkpoint
from gpt.runs.checkpoint import Checkpoint, list_checkpoints, step_of
from gpt.runs.directory import CONFIG, METRICS, PICTURE, TOKENIZER, WANDB_ID, quoted, read_config
from gpt.runs.integrity import CorruptCheckpoint
from gpt.terminal import command
from gpt.training.schedule import Schedule, branch_point, decay_start


def saved_schedule(state: dict[str, Any], run: Path) -> Schedule:
    """Read the schedule that a checkpoint's step was made with."""
    saved = state["schedule"]
    return Schedule(saved["steps"], overlay(OptimizerConfig(), saved["optimizer"], f"{run}: a checkpoint's schedule"))


def starting_point(run: Path, from_step: int | None) -> Checkpoint | None:
    """Load the run's newest whole checkpoint, or that of the step asked for; None where it has none at all.

    Raise InputError if there is no such step, or what `gpt.runs.checkpoint.load` raises.
    """
    if from_step is None or _was_restarted():
        return checkpoint.load_newest(run)
    saved = {step_of(path): path for path in list_checkpoints(run)}
    if from_step not in saved:
        raise InputError(
            f"`from_step` {from_step}: {run} has no checkpoint of that step; "
            f"it has those of {', '.join(map(str, saved)) or 'none'}"
        )
    try:
        return checkpoint.load(saved[from_step], optimizer=True)
    except CorruptCheckpoint as error:
        others = ", ".join(str(step) for step in saved if step != from_step) or "none"
        raise InputError(f"`from_step` {from_step}: {error}; other checkpoints of {run}: {others}") from None


def _was_restarted() -> bool:
    """Tell whether torchrun or SLURM restarted this program: what it has done since it went back is to be kept."""
    return any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def judge(
    saved: Checkpoint | None, state: dict[str, Any], config: TrainConfig, run: Path, world: World, allow_jump: bool
) -> tuple[Checkpoint | None, dict[str, Any]]:
    """Choose the checkpoint to go on from: the one given, or the branch point before it.

    Return it on rank 0, and its state on all. Log what has changed since, with the learning rates. Raise InputError
    where the rate would jump up and no checkpoint from before the decay is left, unless `allow_jump`.
    """
    before = world.from_main(lambda: saved_schedule(state, run))
    now, step = Schedule.of(config), state["step"]
    changes, rates = ", ".join(before.changes(now)), before.rates(now, step)
    if allow_jump or not before.spoiled_by(now, step):
        if changes:
            log.info(f"changed since step {step:,}: {changes}; {rates}")
        return saved, state
    branch = branch_point(before.steps, before.optimizer)
    chosen: list[Checkpoint | None] = []  # rank 0's alone

    def read() -> dict[str, Any] | None:
        useful = branch < step and not before.spoiled_by(now, branch)
        chosen.append(checkpoint.load_newest(run, branch) if useful else None)
        return chosen[0].state if chosen[0] else None

    earlier = world.from_main(read)
    if earlier is None:
        undone = "while the rate came down" if step > decay_start(before.steps, before.optimizer) else "so far"
        raise InputError(
            f"`resume`: with {changes}, {rates}, a jump that undoes what was learned {undone}: "
            f"begin a new run from these weights (`init_from` {quoted(run)}), which warms up again, or allow it with "
            "`allow_rate_jump`"
        )
    there = earlier["step"]
    log.info(
        f"changed: {changes}; with that, {rates}: it goes on from step {there:,} instead, from before the rate "
        f"came down, where it is {now.rate(there):.2e} (`allow_rate_jump` goes on from step {step:,})"
    )
    return chosen[0] if chosen else None, earlier


def steps_with(more: int, done: int, config: TrainConfig, world: World, allow_jump: bool) -> int:
    """Compute the last step of a finished run that trains `more` steps from where it really goes on (see `judge`).

    Raise InputError where that, from the branch point, is hardly more than it has done from there.
    """
    assert config.run_dir
    run, longer = config.run_dir, Schedule(done + more, config.optimizer)
    before, branch = world.from_main(lambda: _finished(run))
    if allow_jump or branch is None or not before.spoiled_by(longer, done):
        return done + more
    if before.spoiled_by(Schedule(branch + more, config.optimizer), done) and branch + more > done:
        return branch + more
    raise InputError(
        f"`minutes`: the run goes on from step {branch:,}, before its learning rate came down, and has done "
        f"{done - branch:,} steps from there already; in this time it would do {more:,}: give it more, or "
        f"`allow_rate_jump` to go on from step {done:,}"
    )


def _finished(run: Path) -> tuple[Schedule, int | None]:
    """Return the schedule of a run's newest checkpoint, and the step of the one to branch off from or None.

    A damaged checkpoint will be passed over later; here, and where there is none, the run's config.json tells it.
    """
    paths = list_checkpoints(run)
    try:
        before = saved_schedule(checkpoint.read_state(paths[-1]), run) if paths else None
    except CorruptCheckpoint:
        before = None
    before = before or Schedule.of(read_config(run))
    branch = branch_point(before.steps, before.optimizer)
    return before, next((step_of(path) for path in reversed(paths) if step_of(path) <= branch), None)


def set_later_aside(run: Path, step: int) -> bool:
    """Move the checkpoints of steps after `step` into a run of their own within this one, with its metrics until now.

    Nothing is lost, and cut short it can be done again: the newest goes last. False where there is none.
    """
    later = [path for path in list_checkpoints(run) if step_of(path) > step]
    if not later:
        return False
    aside, best = _room_for(run / f"until-step-{step_of(later[-1])}", later), checkpoint.best_state(run)
    (aside / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, TOKENIZER, METRICS):
        if (run / name).exists() and not (aside / name).exists():
            shutil.copyfile(run / name, aside / name)
    for name in (PICTURE, WANDB_ID):  # the way on gets others
        if (run / name).exists():
            (run / name).replace(aside / name)
    for path in later:
        path.rename(aside / "checkpoints" / path.name)
    found, with_best = best and best.get("evaluation"), ""
    if best and found and best["step"] > step:
        with_best = f", with the best so far (step {best['step']:,}, validation loss {found['loss']:.4f})"
    log.info(
        f"what came after step {step:,} is a run of its own now{with_best}: {command('sample')} --run {quoted(aside)}"
    )
    return True


def _room_for(aside: Path, later: list[Path]) -> Path:
    """Find the directory, or a numbered one, that has none of these checkpoints yet."""
    numbered, number = aside, 1
    while any((numbered / "checkpoints" / path.name).exists() for path in later):
        number += 1
        numbered = aside.with_name(f"{aside.name}-{number}")
    return numbered
