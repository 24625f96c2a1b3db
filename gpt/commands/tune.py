"""Find the rates, batch, width and vocabulary that suit this machine and a text.

1. Candidates are the preset, and settings drawn around it.
2. They train for the same time; the better half goes on for longer, again and again (gpt.tuning.halving).
3. The best is held against the preset with three seeds, on text by which it was not chosen, and written as a preset.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, arg

from gpt.choices import Device
from gpt.commands import json_text
from gpt.commands.train import prepare_default
from gpt.commands.train_options import parse_train
from gpt.config import DEFAULT_DATA, TrainConfig
from gpt.config_io import later, parse
from gpt.dataset.dataset import Dataset, open_dataset
from gpt.device import choose_device
from gpt.distributed.world import World
from gpt.errors import InputError, require
from gpt.log import log
from gpt.presets import FINETUNE, PRESETS
from gpt.training.budget import suited
from gpt.training.exact import exact_arithmetic
from gpt.training.start import fit_to_dataset
from gpt.tuning.candidates import Axis, Candidate, around, drawn, possible
from gpt.tuning.halving import Finding, Search
from gpt.tuning.judging import Judge
from gpt.tuning.plan import TRIAL_S, TRIAL_SHARE, planned, tokens_to_judge
from gpt.tuning.report import (
    Subject,
    comment_lines,
    finding_entry,
    next_line,
    plan_entry,
    plan_lines,
    result_line,
    training_entry,
)
from gpt.tuning.settings_file import Journal, journal_of, require_place, write_settings
from gpt.tuning.trial import Trials, measured_evaluation, require_tunable, with_steps

_PRESET_HELP = f"What to begin with, and to hold the best against: one of {', '.join(PRESETS)}; by default what fits."


def main(arguments: Sequence[str] | None = None) -> None:
    parse(tyro.cli, later(tune), arguments, config=(DisallowNone,))()


def tune(
    preset: Annotated[str, Positional, arg(metavar="[PRESET]", help=_PRESET_HELP, help_behavior_hint="")] = "",
    data: Annotated[tuple[Path, ...], arg(help_behavior_hint="")] = (),
    minutes: float = 20.0,
    out: Path = Path("tuned.toml"),
    config: Path | None = None,
    vary: Annotated[tuple[Axis, ...], arg(help_behavior_hint="")] = (),
    candidates: int | None = None,
    seed: int = 1337,
    device: Device = "auto",
    replace: FlagCreatePairsOff[bool] = False,
) -> None:
    """Find the rates, batch, width and vocabulary that suit this machine and a text.

    Candidates train for equal times, and the better half again, for longer. The best is written as a preset. If none is
    surely better than what it began with, that is, with a comment.

    Args:
        data: Dataset to train on. Of several, the same text in other vocabularies, the best one is found, too.
        minutes: How long all of it may take.
        out: Preset to write, a TOML file; a journal of all trainings goes beside it, as .jsonl.
        config: File of settings to begin with, laid over the preset. Its steps do not count: time does.
        vary: What may be changed; by default all of it.
        candidates: How many are tried, the preset among them; by default as many as the minutes allow.
        seed: Seed of the candidates and of their trainings.
        device: Where to compute; auto takes CUDA, else MPS, else the CPU.
        replace: Write in place of a preset and a journal that are there.
    """
    start = time.perf_counter()
    require(0 < minutes < math.inf, "`minutes`", minutes, "above 0")
    require(candidates is None or candidates >= 2, "`candidates`", candidates, "at least 2")
    require(0 <= seed < 2**62, "`seed`", seed, "from 0 to 2^62 - 1")
    require_place(out, replace)
    base, datasets = begun(preset, data, config, device)
    if "vocabulary" in vary and len(datasets) == 1:
        raise InputError("`vary` vocabulary: needs several `data`: the same text, prepared with other tokenizers")
    place = choose_device(device)
    fingerprints = {path: dataset.fingerprint for path, dataset in datasets.items()}
    began = base.preset + (f" with {config}" if config else "" if preset else " as it suits the text")
    subject = Subject(began, fingerprints, place, minutes, journal_of(out))
    with exact_arithmetic(base.exact, place):
        search(base, datasets, subject, vary or get_args(Axis), candidates, seed, start, out)


def begun(
    name: str, data: Sequence[Path], file: Path | None, device: Device
) -> tuple[TrainConfig, dict[Path, Dataset]]:
    """Find the settings that train.py would begin with, and open the datasets. Raises InputError if that cannot be."""
    if name == FINETUNE:
        raise InputError(f"{name}: what suits trained weights, and how long, is planned by gpt train finetune itself")
    for path in data:
        if str(path) in PRESETS and not path.exists():
            raise InputError(f"`data` {path}: is a preset, and no dataset; name it first, before all options")
    named = ["--data", str(data[0])] if data else []
    named += [] if file is None else ["--config", str(file)]
    command = parse_train([*([name] if name else []), *named, "--device", device])
    require_tunable(command.config)
    paths = list(dict.fromkeys(data)) or [*command.config.datasets]
    if DEFAULT_DATA in paths and not DEFAULT_DATA.exists():
        prepare_default(DEFAULT_DATA)
    datasets = {path: open_dataset(path) for path in paths}
    first = datasets[paths[0]]
    config = fit_to_dataset(suited(command.config, command.asked, first, choose_device(device)), first)
    for dataset in datasets.values():
        dataset.require_window(config.model.context_length)
    return config, datasets


def search(
    base: TrainConfig,
    datasets: dict[Path, Dataset],
    subject: Subject,
    vary: Sequence[Axis],
    asked: int | None,
    seed: int,
    start: float,
    out: Path,
) -> None:
    """Plan, search, and write what was found, also where Ctrl-C ends it. `start` is when it began."""
    whole, world, first = 60 * subject.minutes, World(subject.device), next(iter(datasets.values()))
    axes = around(base, {path: dataset.tokenizer.vocab_size for path, dataset in datasets.items()}, vary)
    trial_s = min(TRIAL_S, TRIAL_SHARE * whole)
    per_token = measured_evaluation(base, first, world, trial_s)
    most = min(base.evaluation.tokens, first.validation.tokens)
    tokens = tokens_to_judge(whole, per_token, asked, base.model.context_length, most)
    judge = Judge([*datasets.values()], base, tokens)
    trials = Trials([Candidate(base)], datasets, judge, world, trial_s)
    costs = trials.costs(judge.tokens * per_token)
    gone = time.perf_counter() - start
    plan = planned(whole - gone, gone, costs, asked, possible(axes))
    trials.candidates = candidates = drawn(base, axes, plan.count, seed)
    log.info("\n".join(plan_lines(subject, plan, costs, judge.tokens)))
    if subject.device == "cuda" and base.compile == "auto":
        log.info("trainings go without torch.compile, which would take most of their time; `compile` on keeps it")
    with Journal(subject.journal) as journal:
        journal.write(json_text(plan_entry(subject, plan, costs, candidates, seed)))
        done = Search(
            [candidate.words for candidate in candidates],
            trials,
            judge,
            seed,
            start + whole,
            whole,
            costs,
            lambda *trained: journal.write(json_text(training_entry(*trained, candidates, judge))),
        )
        try:
            finding = done.run()
        except KeyboardInterrupt:
            finding = done.best_so_far()
            journal.write(json_text(finding_entry(finding, done)))
            raise KeyboardInterrupt(_stopped(finding, candidates, subject, out, done)) from None
        journal.write(json_text(finding_entry(finding, done)))
    _write(finding, candidates, subject, out, done)
    print(result_line(finding, candidates, subject))
    print(f"written: {out}; all {done.count} trainings: {subject.journal}", flush=True)
    log.info(next_line(out))


def _write(finding: Finding, candidates: Sequence[Candidate], subject: Subject, out: Path, done: Search) -> None:
    """Write the preset."""
    config = with_steps(candidates[finding.candidate].config, finding.steps)
    write_settings(out, config, comment_lines(finding, candidates, subject, done.count, out))


def _stopped(finding: Finding, candidates: Sequence[Candidate], subject: Subject, out: Path, done: Search) -> str:
    """Write the best so far, if anything is known; say what became of the search."""
    if not finding.steps:
        return f"nothing is known yet, and {out} is not written"
    _write(finding, candidates, subject, out, done)
    return f"{out} is written: {result_line(finding, candidates, subject)}"
