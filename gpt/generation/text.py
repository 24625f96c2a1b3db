"""From prompts to printable text: what the terminal, JSON and the interactive session all consume."""

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gpt.config import SamplingConfig
from gpt.errors import InputError
from gpt.generation.engine import Engine, Notify, Request, Token
from gpt.generation.score import TokenScore, score_ids, token_score
from gpt.model.transformer import GPT
from gpt.tokens.tokenizer import StreamDecoder, Tokenizer


@dataclass
class Continuation:
    """One sample so far: `text` ends before a stop text, `ids` are the new tokens it was decoded from."""

    prompt: str
    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish_reason: str = ""
    """'' while it goes on, then 'stop' (end-of-text or a stop text), 'length' (max_tokens), or 'cancelled'."""
    tokens_per_second: float = 0.0
    """New tokens by the time since the prompt's turn came."""
    prompt_tokens: list[TokenScore] = field(default_factory=list)
    """The scores of the prompt's tokens, if they were asked for."""
    tokens: list[TokenScore] = field(default_factory=list)
    """Those of the new tokens."""


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


class _Stream:
    """What a request's tokens become, one by one."""

    def __init__(self, prompt: str, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.tokenizer, self.decoder, self.watcher = tokenizer, StreamDecoder(tokenizer), StopWatcher(stops)
        self.result = Continuation(prompt)
        self.taken = 0  # of the request's tokens
        self.start: float | None = None

    def push(self, token: Token, begun: float) -> str:
        """Take a token whose step began at that time; the text that is certain by now."""
        self.start, self.taken = self.start or begun, self.taken + 1
        result = self.result
        last = self.taken == len(token.request.tokens)
        text, ended = "", last and token.request.finish_reason != ""
        if token.id is not None:
            result.ids.append(token.id)
            text = self.decoder.push(token.id)
            if token.log_probability is not None:
                result.tokens.append(token_score(self.tokenizer, token.id, token.log_probability, token.alternatives))
        text, stopped = self.watcher.push(text + self.decoder.finish() if ended else text)
        if ended and not stopped:
            text += self.watcher.held
        result.text += text
        result.finish_reason = "stop" if stopped else token.request.finish_reason if ended else ""
        result.tokens_per_second = len(result.ids) / (time.perf_counter() - self.start)
        return text


def text_engine(
    model: GPT,
    tokenizer: Tokenizer,
    max_batch: int = 16,
    compiled: bool = False,
    notify: Notify = warnings.warn,
) -> Engine:
    """An engine that ends at the tokenizer's end-of-text and draws only ids that it has."""
    return Engine(model, max_batch, tokenizer.end_of_text, tokenizer.vocab_size, compiled, notify)


def continue_texts(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    samples: int = 1,
    stops: Sequence[str] = (),
    alternatives: int | None = None,
    echo: bool = False,
) -> Iterator[tuple[int, str, Continuation]]:
    """Continue each prompt `samples` times, yielding (number, its new text, the continuation so far) as it goes.

    Sample i of prompt j has the number j·samples + i, and the same text whatever is continued beside it. The new text
    is whole characters, and never part of a stop text; the last one of each comes with its `finish_reason`.
    With `alternatives`, each token has its log-probability and those of that many of the likeliest; with `echo`, the
    prompt's tokens as well.
    Raises InputError as `Engine.submit` does, for an empty stop text, and for what the tokenizer cannot encode.
    """
    streams: dict[Request, tuple[int, _Stream]] = {}
    prompt_scores: dict[int, list[TokenScore]] = {}
    try:
        for j, prompt in enumerate(prompts):
            ids = opening_ids(tokenizer, prompt)
            for i in range(samples):
                request = engine.submit(ids, sampling, i, alternatives)
                streams[request] = (j * samples + i, _Stream(prompt, tokenizer, stops))
        while streams:
            begun = time.perf_counter()
            engine.step()
            # Not what the step gave, for other callers of the engine may have made steps, too.
            for request, (number, stream) in list(streams.items()):
                for token in request.tokens[stream.taken :]:
                    if echo and not stream.taken:
                        if number // samples not in prompt_scores:
                            scores = score_ids(engine.model, tokenizer, request.prompt, alternatives or 0)
                            prompt_scores[number // samples] = scores
                        stream.result.prompt_tokens = prompt_scores[number // samples]
                    text = stream.push(token, begun)
                    if stream.result.finish_reason:
                        engine.cancel(request)
                        del streams[request]
                    yield number, text, stream.result
                    if stream.result.finish_reason:
                        break
                if request.finish_reason == "cancelled" and request in streams:  # by another
                    stream.result.finish_reason = request.finish_reason
                    del streams[request]
                    yield number, "", stream.result
    finally:
        for request in streams:
            engine.cancel(request)


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
