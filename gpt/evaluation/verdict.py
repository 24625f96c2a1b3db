"""What was found of memorization, in words and for other programs: both are made of one `Memorization`."""

import math
from dataclasses import asdict
from typing import Any

from gpt.evaluation.compare import Difference
from gpt.evaluation.memorization import (
    Memorization,
    Point,
    Sides,
    draws_needed,
    is_gain,
    mean_probability,
    share_of,
)
from gpt.evaluation.passages import LEAST_LEARNED, LENGTH, PassageScores
from gpt.evaluation.statistics import Share
from gpt.evaluation.words import Row

SHOWN = 12  # points of the course
SURE_ENOUGH = 0.25  # standard error of the excess share, above which it says nothing
ROUNDING = 1e-6  # a smaller error is none, as of what has the same probability in all passages
SPLIT = "`validation_share`"
MORE_PASSAGES = "more passages (`gpt memorized --passages`)"
LESS = "train for fewer epochs, on more text, or change fewer weights (LoRA, or a smaller model)"


def sentence(m: Memorization) -> str:
    """Say in a sentence or two whether it has learned or memorized, and what to change."""
    return f"{m.verdict.capitalize()}{_SENTENCES[m.verdict](m)}{_after(m)}"


def _memorized(m: Memorization) -> str:
    reasons = [_extracted_words(m)] if m.evidence.verbatim else []
    reasons += [_excess_words(m)] if m.evidence.own else []
    return f": {', and '.join(reasons)}. What helps: {_better_step(m) or LESS}."


def _both(m: Memorization) -> str:
    return f": {_new_text_words(m)}, but {_extracted_words(m)}. What helps: {LESS}; or leave repeated passages out."


def _learned(m: Memorization) -> str:
    little = ", but most of the gain holds for its own text alone" if m.evidence.own else ""
    known = "" if m.excess_share is None else f"; {_excess_words(m)}"
    return f"{little}: {_new_text_words(m)}{known}; {_extracted_words(m)}. {_change(m)}"


def _change(m: Memorization) -> str:
    """Say what would help a model that has learned."""
    if m.evidence.overfitted:
        return f"What helps: {_better_step(m) or LESS}."
    if m.evidence.own is False:
        return "Nothing needs to be changed."
    if m.evidence.own is None and m.has_more_passages:
        return f"What helps: {MORE_PASSAGES}, to tell how much of the gain is excess."
    if _knows_excess(m):
        return "What helps: more text."
    return f"What helps: more text, or more of it for validation ({SPLIT}), to tell how much of the gain is excess."


def _nothing(m: Memorization) -> str:
    gain, new = m.train.gain, m.validation.gain
    if m.evidence.on_training is False:
        if gain.standard_error is not None and gain.value < -2 * gain.standard_error:
            return f": on its training text it is worse than {m.base}, by {_of(gain, -1)}. What helps: a lower rate."
        return (
            f": on its training text it gained {_of(gain)} over {m.base}. If there is something new in the text, train "
            "for more epochs, or at a higher rate."
        )
    reason = f"on new text it gained {_of(new)} over {m.base}"
    if is_gain(m.over_frequency) is False:
        better = f"{_better_by(m.over_frequency)} nats per token"
        reason = f"new text is predicted no better than by how often each token occurs ({better})"
    advice = _better_step(m) or "train for more epochs, at a higher rate or on more text, or begin with trained weights"
    return f": {reason}. What helps: {advice}."


def _too_little(m: Memorization) -> str:
    if m.evidence.alike:
        return (
            f" to tell: {_percent(m.train.extracted)} of its training passages come out word for word, but "
            f"{_percent(m.validation.extracted)} of validation text as well: that is no new text. Take what is like "
            "the training text out of validation; `gpt prepare` keeps copies together."
        )
    found = f" to tell: {_counts(m)}, of {m.prompt + m.suffix} tokens, say nothing certain."
    if m.has_more_passages:
        return f"{found} What helps: {MORE_PASSAGES}."
    return f"{found} Give more text, or more of it to validation ({SPLIT})."


def _counts(m: Memorization) -> str:
    train, validation = (len(sides.tuned.measured.windows) for sides in (m.train, m.validation))
    return f"{train:,} passages of training text and {validation:,} of validation text"


_SENTENCES = {
    "learned": _learned,
    "memorized": _memorized,
    "learned and memorized": _both,
    "nothing learned": _nothing,
    "too little text": _too_little,
}


def _better_step(m: Memorization) -> str:
    if m.rise is None or not m.evidence.overfitted:
        return ""
    first = (
        f"use the best checkpoint, of step {m.rise.best_step:,}; or " if m.rise.best_step else ""
    )  # or the base is it
    return f"{first}{LESS}"


def _after(m: Memorization) -> str:
    """Say how the run went on, or how much worse than the best checkpoint this one is."""
    if m.rise is None or not m.rise.is_sure:
        return ""
    rise = _plus_minus(m.rise.difference.value, m.rise.difference.standard_error)
    if m.evidence.overfitted:
        return f" Overfitted: the validation loss is {rise} above that of step {m.rise.best_step:,}."
    later = f"by step {m.rise.later_step:,} the validation loss rose by {rise}"
    return f" After it the run was overfitted: {later}; this one, step {m.step:,}, is the best and is kept."


def _new_text_words(m: Memorization) -> str:
    return f"it gained {_of(m.validation.gain)} on new text"


def _knows_excess(m: Memorization) -> bool:
    error = m.excess_share_error
    return error is not None and (error <= SURE_ENOUGH or m.evidence.own is not None)


def _excess_words(m: Memorization) -> str:
    assert m.excess_share is not None
    share, error = m.excess_share, m.excess_share_error
    if error is None or not _knows_excess(m):
        known = "" if error is None else f", and its error is {error:.0%}"
        return f"there is too little text to tell how much of the gain is excess (it is {share:.0%}{known})"
    if share < 2 * error and m.evidence.own is False:
        return f"what it gained on its training text holds for new text as well (excess {share:.0%} ± {error:.0%})"
    return f"{share:.0%} ± {error:.0%} of what it gained on its training text holds for no other text"


def _extracted_words(m: Memorization) -> str:
    if not m.train.extracted.of:
        return f"no second half has {LEAST_LEARNED} tokens that are learned, so that none can come out word for word"
    base, validation = share_of(m.train.base.verbatim), m.validation.extracted
    if not m.train.extracted.hits:
        return "none of its training passages comes out word for word"
    return (
        f"{_percent(m.train.extracted)} of its training passages come out word for word ({_percent(base)} before, "
        f"{_percent(validation)} of validation text)"
    )


# ---- the table ----


def verdict_rows(m: Memorization) -> list[Row]:
    """Format the figures, one row each."""
    shorter = "; shorter than usual, as the text or the context is" if m.prompt + m.suffix < LENGTH else ""
    unknown = m.excess_share is None
    rows = [
        ("base", m.base),
        ("passages", f"{_counts(m)}, of {m.prompt} + {m.suffix} tokens, spread evenly{shorter}"),
        ("training loss", _losses(m.train)),
        ("validation loss", _losses(m.validation)),
        ("by frequency", f"validation {_frequency(m)}"),
        ("excess", "none: it gained nothing certain on its training text" if unknown else _excess_words(m)),
        ("verbatim", _verbatim(m)),
        ("when drawn", _drawn(m)),
    ]
    if m.rise is not None:
        rise, judged = m.rise.difference, "overfitted" if m.rise.is_sure else "not overfitted by more than two errors"
        words = f"{_plus_minus(rise.value, rise.standard_error, '+')} nats from step {m.rise.best_step:,}, the best"
        rows.append((f"step {m.rise.later_step:,}", f"validation {words}: {judged}"))
    if m.course:
        source = "measured on the same passages" if m.course_source == "passages" else "as the training recorded them"
        if m.course_source == "training":
            source = f"measured alike as it was trained, on at most {m.course_windows:,} windows of each split"
        rows.append(("course", f"losses {source}"))
        chosen = sorted({round(i * (len(m.course) - 1) / (SHOWN - 1)) for i in range(SHOWN)})
        rows += [("", _point(m.course[number])) for number in chosen]
    return rows


def _losses(sides: Sides) -> str:
    gain = _plus_minus(sides.gain.value, sides.gain.standard_error, "+")
    return f"{sides.tuned.loss:.4f} nats per token, the base {sides.base.loss:.4f}: gained {gain}"


def _frequency(m: Memorization) -> str:
    nats, tokens, _ = m.by_frequency.sums.sum(axis=0)
    better = _better_by(m.over_frequency)
    return f"{nats / tokens:.4f}, by how often each token occurs and nothing else: the model is {better}"


def _verbatim(m: Memorization) -> str:
    parts = [("training", m.train.extracted), ("the base", share_of(m.train.base.verbatim))]
    parts.append(("validation text", m.validation.extracted))
    shares = ", ".join(f"{name} {_percent(share)} (95 %: {_interval(share)})" for name, share in parts)
    first = "is likeliest after the first"
    if m.train.tuned.measured.windows.answers_only:
        counts = f"{m.train.extracted.of:,} and {m.validation.extracted.of:,} have {LEAST_LEARNED} such tokens or more"
        first = f"is likeliest after the first as far as it is learned ({counts})"
    return f"passages whose second half {first}: {shares}"


def _drawn(m: Memorization) -> str:
    def chance(scores: PassageScores) -> str:
        mean, error = mean_probability(scores.logprobs)
        return "unknown" if math.isnan(mean) else f"{mean:.2g}{f' ± {error:.1g}' if error > ROUNDING * mean else ''}"

    draws = draws_needed(m.train.tuned.logprobs)
    often = f"the likeliest comes out within {draws:,.0f} with 90 %" if draws < 1e9 else "practically none comes out"
    return (
        f"probability of a second half as sample draws it: {chance(m.train.tuned)}, the base {chance(m.train.base)}, "
        f"validation text {chance(m.validation.tuned)}; of draws, {often}"
    )


def _point(point: Point) -> str:
    epoch = "" if point.epoch is None else f", epoch {point.epoch:.2f}"
    training = "" if point.train_loss is None else f"training {point.train_loss:.4f}, "
    return f"step {point.step:,}{epoch}: {training}validation {point.validation_loss:.4f}"


def _percent(share: Share) -> str:
    return "unknown" if not share.of else f"{share.value:.1%}" if 0 < share.value < 0.1 else f"{share.value:.0%}"


def _interval(share: Share) -> str:
    low, high = share.interval
    return f"{low:.1%} to {high:.1%}"


def _plus_minus(value: float, error: float | None, sign: str = "") -> str:
    return f"{value:{sign}.3f}" + ("" if error is None else f" ± {error:.3f}")


def _better_by(gain: Difference) -> str:
    return f"{'worse' if gain.value < 0 else 'better'} by {_plus_minus(abs(gain.value), gain.standard_error)}"


def _of(gain: Difference, sign: int = 1) -> str:
    return f"{_plus_minus(sign * gain.value, gain.standard_error)} nats per token"


# ---- for other programs ----


def verdict_json(m: Memorization) -> dict[str, Any]:
    """Give the same as values for JSON; None for what is not known."""
    return {
        "verdict": m.verdict,
        "evidence": m.evidence._asdict(),
        "sentence": sentence(m),
        "step": m.step,
        "base": m.base,
        "prompt_tokens": m.prompt,
        "suffix_tokens": m.suffix,
        "train": _side_json(m.train),
        "validation": _side_json(m.validation),
        "over_frequency": _difference_json(m.over_frequency),
        "excess_share": m.excess_share,
        "excess_share_se": m.excess_share_error,
        "verbatim_over_base": asdict(m.over_base),
        "verbatim_over_validation": asdict(m.over_validation),
        "verbatim_of_validation_over_base": asdict(m.validation_over_base),
        "rise": m.rise
        and {"best_step": m.rise.best_step, "later_step": m.rise.later_step, **_difference_json(m.rise.difference)},
        "course": [asdict(point) for point in m.course],
        "course_source": m.course_source,
        "course_windows": m.course_windows,
    }


def _side_json(sides: Sides) -> dict[str, Any]:
    def of(scores: PassageScores) -> dict[str, Any]:
        share, draws = share_of(scores.verbatim), draws_needed(scores.logprobs)
        mean, error = mean_probability(scores.logprobs)
        return {
            "loss": scores.loss,
            "passages": share.of,
            "verbatim": share.hits,
            "verbatim_ci95": list(share.interval),
            "drawn_probability": None if math.isnan(mean) else mean,
            "drawn_probability_se": None if math.isnan(error) else error,
            "draws_for_90_percent": None if math.isinf(draws) else draws,
        }

    return {"model": of(sides.tuned), "base": of(sides.base), "gain": _difference_json(sides.gain)}


def _difference_json(difference: Difference) -> dict[str, float | None]:
    return {"value": difference.value, "se": difference.standard_error}
