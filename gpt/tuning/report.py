"""A tuning in words: what is planned, what was found, and what the preset's file and the journal say of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt.evaluation.compare import Difference
from gpt.evaluation.words import difference_words
from gpt.runs.directory import quoted
from gpt.terminal import command
from gpt.tuning.candidates import Candidate
from gpt.tuning.halving import SEEDS, Finding, Search, sizes, time_words
from gpt.tuning.judging import Judge
from gpt.tuning.plan import Plan
from gpt.tuning.trial import Costs, Result


@dataclass(frozen=True)
class Subject:
    """What a tuning is of."""

    preset: str
    """What it begins with, in words."""
    data: dict[Path, str]
    """Datasets, and their fingerprints."""
    device: str
    minutes: float
    journal: Path


def plan_lines(subject: Subject, plan: Plan, costs: Costs, tokens: int) -> list[str]:
    """Say how the minutes are divided, before any of them is spent."""
    rungs, seconds = sizes(plan.count), [min(each, costs.longest) for each in plan.seconds]
    parts = [f"{count} for {time_words(each)} each" for count, each in zip(rungs, seconds, strict=True)]
    last = f"{rungs[-1]} finalists with {SEEDS} seeds for {time_words(seconds[-1])} each"
    lines = [
        f"{plan.count} candidates, the preset {subject.preset} and others drawn around it, in {subject.minutes:g} "
        f"minutes on {subject.device}: {', the better '.join([*parts[:-1], last])}",
        f"each predicts {tokens:,} tokens of the validation text: by the first half it is chosen, by the second the "
        "best is reported",
    ]
    if plan.seconds[-1] > costs.longest:
        lines.append(
            f"no training takes more than {time_words(costs.longest)}: longer, this text would be learned by heart"
        )
    return lines


def result_line(finding: Finding, candidates: Sequence[Candidate], subject: Subject) -> str:
    """Say what was found, in a sentence."""
    if finding.difference is None:
        return f"nothing is known that is better than the preset {subject.preset}"
    best, seeds = candidates[finding.best].words, f"{finding.seeds} {'seed' if finding.seeds == 1 else 'seeds'}"
    words = f"{difference_words(finding.difference, 'bits_per_byte')}, {seeds}"
    words += f", trainings of {time_words(finding.training_s)}"
    if not finding.confirmed:
        is_best = "the best so far" if finding.candidate else "no better than the preset so far"
        return f"{best}: {is_best}, not confirmed: {words} beside the preset {subject.preset}"
    if finding.candidate:
        return f"{best}: better than the preset {subject.preset}: {words}"
    return f"nothing that was found is surely better than the preset {subject.preset}; the best, {best}: {words}"


def comment_lines(
    finding: Finding, candidates: Sequence[Candidate], subject: Subject, count: int, out: Path
) -> list[str]:
    """Say at the head of a preset's file where it comes from, and how sure it is."""
    lines = [
        f"Written by gpt tune: {len(candidates)} candidates, {count} trainings within {subject.minutes:g} minutes on "
        f"{subject.device}; {subject.journal.name} has them all.",
        f"{result_line(finding, candidates, subject)}.",
    ]
    if not finding.candidate:
        lines.append(f"So these are the settings of the preset {subject.preset}.")
    if finding.difference and finding.confirmed:
        lines.append("The difference is that on the half of the validation text by which it was not chosen.")
    lines.append(f"Train with it: gpt train --config {quoted(out)}; for longer than was tried, with --minutes, too.")
    return lines


def next_line(out: Path) -> str:
    """Say how to go on."""
    return f"next: {command('train')} --config {quoted(out)}; for longer than was tried, add --minutes"


# ---- the journal ----


def plan_entry(
    subject: Subject, plan: Plan, costs: Costs, candidates: Sequence[Candidate], seed: int
) -> dict[str, Any]:
    """Make the journal's first line."""
    return {
        "kind": "plan",
        "preset": subject.preset,
        "data": {str(path): fingerprint for path, fingerprint in subject.data.items()},
        "device": subject.device,
        "minutes": subject.minutes,
        "seed": seed,
        "rungs": sizes(plan.count),
        "seconds": plan.seconds,
        "costs": asdict(costs),
        "candidates": [_plain(candidate) for candidate in candidates],
    }


def training_entry(rung: int, result: Result, candidates: Sequence[Candidate], judge: Judge) -> dict[str, Any]:
    """Make the line of a training; its figures are those of both halves."""
    entry: dict[str, Any] = {"kind": "training", "rung": rung, "candidate": result.candidate}
    entry |= {"changes": _plain(candidates[result.candidate]), "seed": result.seed, "steps": result.steps}
    entry |= {"training_s": result.training_s, "whole_s": result.whole_s, "fault": result.fault or None}
    if result.measured:
        entry["bits_per_byte"] = {half: judge.bits([result.measured], half) for half in ("chooses", "reports")}
        entry["loss"] = float(result.measured.sums[:, 0].sum() / result.measured.sums[:, 1].sum())
    return entry


def finding_entry(finding: Finding, search: Search) -> dict[str, Any]:
    """Make the last line."""
    return {
        "kind": "finding",
        "candidate": finding.candidate,
        "best": finding.best,
        "confirmed": finding.confirmed,
        "seeds": finding.seeds,
        "minus_the_preset": _difference(finding.difference),
        "seconds_left": search.left,
    }


def _difference(found: Difference | None) -> dict[str, float | None] | None:
    return None if found is None else {"value": found.value, "se": found.standard_error, "ci95": found.half_width}


def _plain(candidate: Candidate) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in candidate.changes.items()}
