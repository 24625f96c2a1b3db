"""From prompts to printable text: what the terminal, JSON and the interactive session all consume."""

import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice

from gpt.errors import InputError
from gpt.generation.engine import Engine, Token
from gpt.generation.lookups import Corpus
from gpt.generation.sampling import SamplingConfig
from gpt.generation.scheduler import FinishReason, Request
from gpt.generation.score import TokenScore, score_ids, token_score
from gpt.model.transformer import GPT
from gpt.text.added import Marked
from gpt.text.tokenizer import StreamDecoder, Tokenizer


@dataclass
class Completion:
    """One sample so far: `text` ends before a stop text."""

    prompt: str
    request: Request
    text: str = ""
    tokens_per_second: float = 0.0
    """New tokens by the time since the prompt's turn came."""
    prompt_tokens: list[TokenScore] = field(default_factory=list)
    """The scores of the prompt's tokens, if they were asked for."""
    tokens: list[TokenScore] = field(default_factory=list)
    """Those of the new tokens."""

    @property
    def ids(self) -> list[int]:
        """Give the new tokens that the text was decoded from."""
        return self.request.output_ids

    @property
    def finish_reason(self) -> FinishReason:
        """Tell why it ended: '' while it goes on, 'stop' (end-of-text or a stop text), 'length' (max_tokens), or
        'cancelled'."""
        return self.request.finish_reason


Event = tuple[int, str, Completion]  # the number of a sample, its new text, and all of it so far
ScorePrompt = Callable[[], list[TokenScore]] | None  # which the samples of a prompt share
SEED_BITS = 32  # of a seed by chance, which somebody may want to type


class StopStrings:
    """Let text through unless it is, or could yet become, a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise InputError("`stop` '': a stop text must have at least one character")
        self.stops = stops
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Give (the text that is certain, whether a stop text was reached)."""
        self.held += text
        ends = [(self.held.index(stop), len(stop)) for stop in self.stops if stop in self.held]
        if ends:  # the one that is complete first, whatever pieces the text comes in; of several, the longest
            _, start = min((start + length, start) for start, length in ends)
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

    def __init__(
        self,
        number: int,
        result: Completion,
        tokenizer: Tokenizer,
        stop_strings: StopStrings,
        score_prompt: ScorePrompt,
    ) -> None:
        self.number, self.result, self.tokenizer, self.score_prompt = number, result, tokenizer, score_prompt
        self.decoder, self.stop_strings = StreamDecoder(tokenizer.token_bytes), stop_strings
        self.stopped = False
        self.start: float | None = None  # when the step began that read the prompt
        self.news: str | None = None  # text that was not taken yet; None where no token came

    def push(self, token: Token, begun: float) -> bool:
        """Take a token whose step began at that time. Tell whether a stop text was reached."""
        self._begin(begun)
        if token.logprob is not None:
            self.result.tokens.append(token_score(self.tokenizer, token.id, token.logprob, token.top_logprobs))
        self._add(self.decoder.push(token.id))
        self.result.tokens_per_second = len(self.result.ids) / (time.perf_counter() - (self.start or begun))
        return self.stopped

    def close(self) -> bool:
        """Add what was held back, as nothing follows. Tell whether that reached a stop text."""
        if not self.stopped:
            self._begin(time.perf_counter())  # unless it did with its first token
            self._add(self.decoder.finish())
        if not self.stopped:
            self._show(self.stop_strings.held)
        return self.stopped

    def take(self) -> str:
        """Give the text that is new since the last call."""
        text, self.news = self.news or "", None
        return text

    def _begin(self, begun: float) -> None:
        if self.start is None:
            self.start = begun
            self.result.prompt_tokens = self.score_prompt() if self.score_prompt else []

    def _add(self, text: str) -> None:
        text, self.stopped = self.stop_strings.push(text)
        self._show(text)

    def _show(self, text: str) -> None:
        self.news = (self.news or "") + text
        self.result.text += text


class TextEngine(Engine):
    """An engine of texts: it ends at the tokenizer's end-of-text, and draws only ids that it has.

    Special tokens that were added are never drawn, as no answer has them: but for `ends`, which end a text.
    Several callers can complete texts with one, each in turn: what one of them steps, it steps for all.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        max_batch: int = 16,
        compiled: bool = False,
        ends: Collection[str] = (),
        speculative: bool = True,
        corpus: Corpus | None = None,
    ) -> None:
        ends_at, vocab_size = tokenizer.end_of_text, tokenizer.vocab_size
        super().__init__(model, max_batch, ends_at, vocab_size, compiled, speculative, corpus)
        self.tokenizer = tokenizer
        self.never = [tokenizer.special_tokens[name] for name in tokenizer.added if name not in ends]
        self.scheduler.stop_ids |= {tokenizer.special_tokens[name] for name in ends}
        self.streams: dict[Request, CompletionStream] = {}  # of all callers

    def complete(
        self,
        prompts: Iterable[str],
        sampling: SamplingConfig,
        samples: int = 1,
        stops: Sequence[str] = (),
        top_logprobs: int | None = None,
        echo: bool = False,
    ) -> Iterator[Event]:
        """Continue each prompt `samples` times, yielding (number, its new text, all of it so far) as it goes.

        Sample i of prompt j has the number j·samples + i, and the same text whatever is continued beside it; samples
        come one after the other. The new text is whole characters, and never part of a stop text. Without a seed, each
        prompt gets one by chance, for all its samples. With `top_logprobs`, each token has its log-probability and
        those of that many of the likeliest; with `echo`, the prompt's tokens as well.
        Prompts are taken and encoded as places come free, so that there may be any number of them.
        Raises InputError as `Engine.submit` does, for an empty stop text, and for what the tokenizer cannot encode:
        once all samples before that prompt are finished.
        """
        submitted = self._submit(prompts, sampling, samples, stops, top_logprobs, echo)
        own: deque[CompletionStream] = deque()  # those that were not told to the end, in order
        failure: InputError | None = None
        try:
            while True:
                # Besides those under way, as many wait as could be read together with the next one.
                room = 2 * self.max_batch + 1 - len(self.scheduler.running) - len(self.scheduler.waiting)
                try:
                    own.extend(islice(submitted, max(0 if own else 1, room)))
                except InputError as error:
                    failure = error  # which has ended `submitted`
                if not own:
                    break
                begun = time.perf_counter()
                for token in self.step():
                    if token.request in self.streams and self.streams[token.request].push(token, begun):
                        self.finish(token.request, "stop")
                while own:
                    stream = own[0]
                    if ended := stream.result.finish_reason != "":
                        self._end(own.popleft())
                    if ended or stream.news is not None:
                        yield stream.number, stream.take(), stream.result
                    if not ended:
                        break
        finally:
            for stream in own:
                self.finish(stream.result.request, "cancelled")
                del self.streams[stream.result.request]
        if failure is not None:
            raise failure

    def _end(self, stream: CompletionStream) -> None:
        """Forget a stream whose request has ended."""
        request = stream.result.request
        del self.streams[request]
        if request.finish_reason != "cancelled" and stream.close():
            self.finish(request, "stop")

    def _submit(
        self,
        prompts: Iterable[str],
        sampling: SamplingConfig,
        samples: int,
        stops: Sequence[str],
        top_logprobs: int | None,
        echo: bool,
    ) -> Iterator[CompletionStream]:
        """Submit each sample when it is asked for. Raise InputError, which names the prompt where there are several."""
        several = not isinstance(prompts, Sized) or len(prompts) > 1
        for j, prompt in enumerate(prompts):
            try:
                ids = opening_ids(self.tokenizer, prompt)
                seed = secrets.randbits(SEED_BITS) if sampling.seed is None else sampling.seed
                score = cache(partial(self._score, ids, top_logprobs or 0)) if echo else None
                for i in range(samples):
                    stop_strings = StopStrings(stops)
                    result = Completion(prompt, self.submit(ids, replace(sampling, seed=seed), i, top_logprobs))
                    stream = CompletionStream(j * samples + i, result, self.tokenizer, stop_strings, score)
                    self.streams[result.request] = stream
                    yield stream
            except InputError as error:
                raise InputError(f"prompt {j + 1}: {error}" if several else str(error)) from None

    def _score(self, ids: list[int], top_logprobs: int) -> list[TokenScore]:
        return list(score_ids(self.model, self.tokenizer, ids, top_logprobs))


def opening_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Give the ids that a prompt begins with, which may be `Marked`.

    An empty one begins a document: after end-of-text, or a line's end. A tokenizer that knows neither has its first id
    instead.
    """
    if prompt:
        return prompt.ids(tokenizer) if isinstance(prompt, Marked) else tokenizer.encode(prompt)
    if tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    try:
        return tokenizer.encode("\n")
    except InputError:
        return [0]
