"""Samples and scores as they are printed: text as it comes, or JSON lines."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gpt.generation.completion import Completion, Event
from gpt.generation.score import TokenScore
from gpt.log import log
from gpt.terminal import show

COLORS = [(1, "green"), (4, ""), (8, "yellow"), (math.inf, "red")]  # of surprisals up to so many bits


def print_text(events: Iterable[Event], prompts: int, samples: int, echo: bool) -> None:
    """Print each sample as it is made, with a heading where there are several; then its tokens' scores, if any."""
    begun = -1
    for number, text, result in events:
        if number != begun:
            show(heading(number, prompts, samples) + (result.prompt if echo else ""))
            begun = number
        show(text)
        if result.finish_reason:
            show("\n")
            note_blank(result.text)
            print_scores([*result.prompt_tokens, *result.tokens])


def note_blank(text: str) -> None:
    """Say of a continuation that shows nothing what it is."""
    if not text.strip():
        log.info(f"it has only white space: {text!a}" if text else "it has no text: the model ended at once")


def heading(number: int, prompts: int, samples: int) -> str:
    """Say what stands above a sample; nothing above the first of a single prompt, which begins at once."""
    prompt, sample = divmod(number, samples)
    parts = [f"prompt {prompt + 1} of {prompts}"] if prompts > 1 else []
    parts += [f"sample {sample + 1} of {samples}"] if samples > 1 else []
    return f"--- {', '.join(parts)} ---\n" if parts and (number or prompts > 1) else ""


def print_json(events: Iterable[Event], source: str, scored: bool, echo: bool) -> None:
    """Print one object per sample and line; `source` is the run and step that it was drawn from."""
    for _, _, result in events:
        if result.finish_reason:
            print(json.dumps(as_json(result, source, scored, echo)), flush=True)


def as_json(result: Completion, source: str, scored: bool, echo: bool) -> dict[str, Any]:
    """Make an object of a sample, with all that is needed to draw it again beside the settings of sampling."""
    found = {
        "run": source,
        "prompt": result.prompt,
        "seed": result.request.seed,
        "sample": result.request.sample,
        "text": result.text,
        "ids": result.ids,
        "finish_reason": result.finish_reason,
        "tokens_per_second": result.tokens_per_second,
    }
    if echo:
        found["prompt_tokens"] = [dataclasses.asdict(score) for score in result.prompt_tokens]
    if scored:
        found["tokens"] = [dataclasses.asdict(score) for score in result.tokens]
    return found


def print_scores(scores: Iterable[TokenScore], unit: Callable[[float], float] = float) -> None:
    """Print a line for each token: its log-probability, its text, and the likeliest ones with theirs.

    In a terminal it is colored by how surprising it is. `unit` turns log-probabilities into what is shown.
    """
    from rich.console import Console  # most texts are printed without scores
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for score in scores:
        own = score.logprob
        shown = "-" if own is None else f"{unit(own):.3f}"
        color = "" if own is None else next(color for most, color in COLORS if bits(own) <= most)
        others = "".join(f"  {other.text!r} {unit(other.logprob):.3f}" for other in score.top_logprobs)
        console.print(Text.assemble((f"{shown:>8}  {score.text!r}", color), (others, "dim")))


def bits(logprob: float) -> float:
    """Turn a natural logarithm into the surprisal −log₂ p; 0 and not −0 for what is certain."""
    return max(0.0, -logprob / math.log(2))


@dataclass
class Totals:
    """What scores of a text come to, as they go by; a first token that nothing precedes is no part of it."""

    bytes: int
    """Of the text; those of a token without a score are taken off."""
    tokens: int = 0
    bits: float = 0.0

    def count(self, scores: Iterable[TokenScore]) -> Iterator[TokenScore]:
        """Pass scores on, and count them."""
        for score in scores:
            if score.logprob is None:
                self.bytes -= len(score.text.encode())
            else:
                self.tokens, self.bits = self.tokens + 1, self.bits + bits(score.logprob)
            yield score

    def figures(self) -> dict[str, float]:
        """Give the totals, and the means by token and by byte."""
        mean = self.bits / max(1, self.tokens)
        return {
            "tokens": self.tokens,
            "bytes": self.bytes,
            "bits": self.bits,
            "bits_per_token": mean,
            "bits_per_byte": self.bits / max(1, self.bytes),
            "perplexity": 2 ** min(mean, 1023.0),  # the largest power that a float has
        }

    def lines(self) -> list[str]:
        """Say the same in words."""
        found = self.figures()
        return [
            f"{self.tokens:,} tokens, {self.bytes:,} bytes, {self.bits:,.2f} bits",
            f"{found['bits_per_token']:.4f} bits per token, {found['bits_per_byte']:.4f} per byte",
            f"perplexity {found['perplexity']:,.2f}",
        ]


def print_score_json(scores: Iterable[TokenScore], totals: Totals, source: str) -> None:
    """Print one object, in pieces: the scores as they come, then their totals."""
    print(f'{{"run": {json.dumps(source)}, "scores": [', end="")
    for number, score in enumerate(totals.count(scores)):
        print(", " if number else "", json.dumps(dataclasses.asdict(score)), sep="", end="")
    print("], " + json.dumps(totals.figures()).removeprefix("{"))
