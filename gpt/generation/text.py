"""From a prompt to printable text: what the terminal, JSON and the interactive session all consume."""

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gpt.config import SamplingConfig
from gpt.errors import InputError
from gpt.generation.engine import Notify, generate_batch
from gpt.model.transformer import GPT
from gpt.tokens.tokenizer import StreamDecoder, Tokenizer


@dataclass
class Continuation:
    """One sample so far: `text` ends before a stop text, `ids` are the new tokens it was decoded from."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish_reason: str = ""
    """'' while it goes on, then 'stop' (end-of-text or a stop text) or 'length' (max_tokens)."""
    tokens_per_second: float = 0.0


class StopWatcher:
    """Lets text through unless it is, or could yet become, a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise InputError("--stop '': a stop text must have at least one character")
        self.stops = stops
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(the text that is certain, whether a stop text was reached)."""
        self.held += text
        found = [self.held.index(stop) for stop in self.stops if stop in self.held]
        if found:
            return self.held[: min(found)], True
        # Hold back the longest end that begins a stop text.
        certain = len(self.held)
        for stop in self.stops:
            for length in range(min(len(stop) - 1, len(self.held)), 0, -1):
                if self.held.endswith(stop[:length]):
                    certain = min(certain, len(self.held) - length)
                    break
        through, self.held = self.held[:certain], self.held[certain:]
        return through, False


def continue_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    sampling: SamplingConfig,
    samples: int = 1,
    stops: Sequence[str] = (),
    notify: Notify = warnings.warn,
) -> Iterator[tuple[int, str, Continuation]]:
    """Continue a prompt `samples` times at once, yielding (sample, its new text, the sample so far) as it goes.

    The new text is whole characters, and never part of a stop text. A sample's last event has its
    `finish_reason`. Raises InputError as `generate` does, and for an empty stop text.
    """
    watchers = [StopWatcher(stops) for _ in range(samples)]
    decoders = [StreamDecoder(tokenizer) for _ in range(samples)]
    results = [Continuation() for _ in range(samples)]
    ids = opening_ids(tokenizer, prompt)
    start = time.perf_counter()

    def event(i: int, text: str, finish_reason: str) -> tuple[int, str, Continuation]:
        text, stopped = watchers[i].push(text)
        if finish_reason and not stopped:
            text += watchers[i].held
        results[i].text += text
        results[i].finish_reason = "stop" if stopped else finish_reason
        results[i].tokens_per_second = len(results[i].ids) / (time.perf_counter() - start)
        return i, text, results[i]

    for tokens in generate_batch(model, ids, samples, sampling, tokenizer.end_of_text, tokenizer.vocab_size, notify):
        for i, token in enumerate(tokens):
            if results[i].finish_reason:
                continue
            if token is None:
                yield event(i, decoders[i].finish(), "stop")
                continue
            results[i].ids.append(token)
            yield event(i, decoders[i].push(token), "")
        if all(result.finish_reason for result in results):
            return
    for i, result in enumerate(results):
        if not result.finish_reason:
            yield event(i, decoders[i].finish(), "length" if len(result.ids) == sampling.max_tokens else "stop")


def opening_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids that a prompt begins with. An empty one begins a document: after end-of-text, or after a line's end.

    A tokenizer that knows neither has its first id instead.
    """
    if prompt:
        return tokenizer.encode(prompt)
    if tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    try:
        return tokenizer.encode("\n")
    except InputError:
        return [0]
