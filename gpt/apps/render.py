"""Samples and scores as they are printed: text as it comes, or JSON lines."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.console import Console
from rich.text import Text

from gpt.generation.completion import Completion
from gpt.generation.score import TokenScore
from gpt.terminal import show

Event = tuple[int, str, Completion]
COLOURS = [(1, "green"), (4, ""), (8, "yellow"), (math.inf, "red")]  # of surprisals up to so many bits


def in_order(events: Iterable[Event]) -> Iterator[Event]:
    """The same events, those of each sample together, and each as soon as all samples before it are done."""
    waiting: dict[int, str] = {}
    newest: dict[int, Completion] = {}
    turn = 0
    for number, text, result in events:
        waiting[number] = waiting.get(number, "") + text
        newest[number] = result
        if number != turn:
            continue
        while turn in newest:
            yield turn, waiting[turn], newest[turn]
            waiting[turn] = ""
            if not newest[turn].finish_reason:
                break
            del waiting[turn], newest[turn]
            turn += 1


def print_text(events: Iterable[Event], prompts: int, samples: int, echo: bool) -> None:
    """Each sample as it is made, with a heading where there are several; then its tokens' scores, if it has any."""
    begun = -1
    for number, text, result in in_order(events):
        if number != begun:
            show(heading(number, prompts, samples) + (result.prompt if echo else ""))
            begun = number
        show(text)
        if result.finish_reason:
            print()
            print_scores([*result.prompt_tokens, *result.tokens])


def heading(number: int, prompts: int, samples: int) -> str:
    """What stands above a sample; nothing above the first of a single prompt, which begins at once."""
    prompt, sample = divmod(number, samples)
    parts = [f"prompt {prompt + 1} of {prompts}"] if prompts > 1 else []
    parts += [f"sample {sample + 1} of {samples}"] if samples > 1 else []
    return f"--- {', '.join(parts)} ---\n" if parts and (number or prompts > 1) else ""


def print_json(events: Iterable[Event], scored: bool, echo: bool) -> None:
    """One object per sample and line."""
    left_out = {name for name, wanted in (("tokens", scored), ("prompt_tokens", echo)) if not wanted}
    for _, _, result in in_order(events):
        if result.finish_reason:
            content = dataclasses.asdict(result)
            print(json.dumps({name: value for name, value in content.items() if name not in left_out}), flush=True)


def print_scores(scores: Sequence[TokenScore], unit: Callable[[float], float] = float) -> None:
    """A line for each token: its log-probability, its text, and the likeliest ones with theirs; coloured in a terminal
    by how surprising it is. `unit` turns log-probabilities into what is shown."""
    console = Console(highlight=False, soft_wrap=True)
    for score in scores:
        own = score.logprob
        shown = "-" if own is None else f"{unit(own):.3f}"
        colour = "" if own is None else next(colour for most, colour in COLOURS if bits(own) <= most)
        others = "".join(f"  {other.text!r} {unit(other.logprob):.3f}" for other in score.top_logprobs)
        console.print(Text.assemble((f"{shown:>8}  {score.text!r}", colour), (others, "dim")))


def bits(logprob: float) -> float:
    """The surprisal −log₂ p of a natural logarithm; 0 and not −0 for what is certain."""
    return max(0.0, -logprob / math.log(2))


def score_lines(scores: Sequence[TokenScore], text: str) -> list[str]:
    """The totals of a scored text; a first token that nothing precedes is not part of them."""
    total = totals(scores, text)
    return [
        f"{total['tokens']:,} tokens, {total['bytes']:,} bytes, {total['bits']:,.2f} bits",
        f"{total['bits_per_token']:.4f} bits per token, {total['bits_per_byte']:.4f} per byte",
        f"perplexity {total['perplexity']:,.2f}",
    ]


def print_score_json(scores: Sequence[TokenScore], text: str) -> None:
    print(json.dumps(totals(scores, text) | {"scores": [dataclasses.asdict(score) for score in scores]}))


def totals(scores: Sequence[TokenScore], text: str) -> dict[str, float]:
    found = [bits(score.logprob) for score in scores if score.logprob is not None]
    unscored = "".join(score.text for score in scores if score.logprob is None)
    size, total = len(text.encode(errors="replace")) - len(unscored.encode()), math.fsum(found)
    mean = total / max(1, len(found))
    return {
        "tokens": len(found),
        "bytes": size,
        "bits": total,
        "bits_per_token": mean,
        "bits_per_byte": total / max(1, size),
        "perplexity": 2 ** min(mean, 1023.0),  # the largest power that a float has
    }
