"""From prompts to printable text: what the terminal, JSON and the interactive session all consume."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice

from gpt.errors import InputError
from gpt.generation.config import SamplingConfig
from gpt.generation.engine import Engine
from gpt.generation.request import Request, Token
from gpt.generation.score import TokenScore, score_ids, token_score
from gpt.model.transformer import GPT
from gpt.text.stream import StreamDecoder
from gpt.text.tokenizer import Tokenizer


@dataclass
class Completion:
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


Scored = Callable[[], list[TokenScore]] | None  # a prompt's own scores, which its samples share


class StopStrings:
    """Lets text through unless it is, or could yet become, a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise InputError("`stop` '': a stop text must have at least one character")
        self.stops = stops
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(the text that is certain, whether a stop text was reached)."""
        self.held += text
        places = [(self.held.index(stop), len(stop)) for stop in self.stops if stop in self.held]
        if places:  # the one that is complete first, whatever pieces the text comes in; of several, the longest
            _, start = min((start + length, start) for start, length in places)
            return self.held[:start], True
        # Hold back the longest end that begins a stop text.
        certain = len(self.held)
        for stop in self.stops:
            for length in range(min(len(stop) - 1, len(self.held)), 0, -1):
                if self.held.endswith(stop[:length]):
                    certain = min(certain, len(self.held) - length)
                    break
        through, self.held = self.held[:certain], self.held[certain:]
        return through, False


class CompletionStream:
    """What a request's tokens become, one by one."""

    def __init__(self, number: int, prompt: str, tokenizer: Tokenizer, stops: Sequence[str], scored: Scored) -> None:
        self.number, self.scored = number, scored
        self.tokenizer, self.decoder, self.watcher = tokenizer, StreamDecoder(tokenizer.token_bytes), StopStrings(stops)
        self.result = Completion(prompt)
        self.taken = 0  # of the request's tokens
        self.start: float | None = None

    def push(self, token: Token, begun: float) -> str:
        """Take a token whose step began at that time; the text that is certain by now."""
        if self.scored and not self.taken:
            self.result.prompt_tokens = self.scored()
        self.start, self.taken = self.start or begun, self.taken + 1
        result = self.result
        last = self.taken == len(token.request.tokens)
        text, ended = "", last and token.request.finish_reason != ""
        if token.id is not None:
            result.ids.append(token.id)
            text = self.decoder.push(token.id)
            if token.logprob is not None:
                result.tokens.append(token_score(self.tokenizer, token.id, token.logprob, token.top_logprobs))
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
) -> Engine:
    """An engine that ends at the tokenizer's end-of-text and draws only ids that it has."""
    return Engine(model, max_batch, tokenizer.end_of_text, tokenizer.vocab_size, compiled)


def complete_texts(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Iterable[str],
    sampling: SamplingConfig,
    samples: int = 1,
    stops: Sequence[str] = (),
    top_logprobs: int | None = None,
    echo: bool = False,
) -> Iterator[tuple[int, str, Completion]]:
    """Continue each prompt `samples` times, yielding (number, its new text, the continuation so far) as it goes.

    Sample i of prompt j has the number j·samples + i, and the same text whatever is continued beside it. The new text
    is whole characters, and never part of a stop text; the last one of each comes with its `finish_reason`.
    With `top_logprobs`, each token has its log-probability and those of that many of the likeliest; with `echo`, the
    prompt's tokens as well.
    Prompts are taken and encoded as places come free, a few ahead, so that there may be any number of them.
    Raises InputError as `Engine.submit` does, for an empty stop text, and for what the tokenizer cannot encode: once
    all samples before that prompt are finished.
    """
    submitted = _submit(engine, tokenizer, prompts, sampling, samples, stops, top_logprobs, echo)
    streams: dict[Request, CompletionStream] = {}
    failure: InputError | None = None
    try:
        while True:
            try:
                # Besides those under way, as many wait as could be read together with the next one.
                for request, stream in islice(submitted, max(0, 2 * engine.max_batch + 1 - len(streams))):
                    streams[request] = stream
            except InputError as error:
                failure = error  # which has ended `submitted`
            if not streams:
                break
            begun = time.perf_counter()
            engine.step()
            # Not what the step gave, for other callers of the engine may have made steps, too.
            for request, stream in list(streams.items()):
                for text in _new_texts(request, stream, begun):
                    if stream.result.finish_reason:
                        engine.cancel(request)
                        del streams[request]
                    yield stream.number, text, stream.result
    finally:
        for request in streams:
            engine.cancel(request)
    if failure is not None:
        raise failure


def _submit(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Iterable[str],
    sampling: SamplingConfig,
    samples: int,
    stops: Sequence[str],
    top_logprobs: int | None,
    echo: bool,
) -> Iterator[tuple[Request, CompletionStream]]:
    """Submit each sample of each prompt when it is asked for. Raises InputError that names the prompt, if several."""
    several = not isinstance(prompts, Sized) or len(prompts) > 1
    for j, prompt in enumerate(prompts):
        try:
            ids = opening_ids(tokenizer, prompt)
            scored = cache(partial(score_ids, engine.model, tokenizer, ids, top_logprobs or 0)) if echo else None
            for i in range(samples):
                stream = CompletionStream(j * samples + i, prompt, tokenizer, stops, scored)
                yield engine.submit(ids, sampling, i, top_logprobs), stream
        except InputError as error:
            raise InputError(f"prompt {j + 1}: {error}" if several else str(error)) from None


def _new_texts(request: Request, stream: CompletionStream, begun: float) -> Iterator[str]:
    """What a request's tokens that were not taken yet add, up to the end of the sample."""
    for token in request.tokens[stream.taken :]:
        yield stream.push(token, begun)
        if stream.result.finish_reason:
            return
    if request.finish_reason == "cancelled":  # by another
        stream.result.finish_reason = request.finish_reason
        yield ""


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
