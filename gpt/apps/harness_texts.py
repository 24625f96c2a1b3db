"""What lm-evaluation-harness asks a run to write: its settings are read, and the engine continues its contexts."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch

from gpt.errors import InputError
from gpt.generation.completion import TextEngine
from gpt.generation.sampling import SamplingConfig
from gpt.runs.load import LoadedRun
from gpt.text.added import Marked, marked
from gpt.text.chat_template import ChatTemplate, Message
from gpt.text.tokenizer import Tokenizer

BATCH = 16  # sequences that are continued at a time, by default
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is given counts
DRAWS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def written(
    run: LoadedRun,
    requests: Sequence[tuple[str, dict[str, Any]]],
    max_length: int,
    max_gen_toks: int,
    batch: int | None = None,
) -> Iterator[tuple[int, str]]:
    """Yield (number, text) for requests of a context and its generation_kwargs, as they are finished.

    Of a context that leaves no room for what is to be written, the end is read. Where the run's chat template wrote the
    context, its own stop texts count as well. Of requests that are repeated, each is a draw of its own.
    """
    alike = defaultdict[str, dict[str, list[int]]](lambda: defaultdict(list))  # by settings, then by context
    settings = {repr(given): generation_settings(given, max_length, max_gen_toks) for _, given in requests}
    for number, (context, given) in enumerate(requests):
        alike[repr(given)][context].append(number)
    template = run.template
    opening = opening_of(template) if template else ""
    engine = TextEngine(run.model, run.tokenizer, batch or BATCH, ends=run.answer_ends)
    for name, places in alike.items():
        sampling, until = settings[name]
        kinds = defaultdict[tuple[int, tuple[str, ...]], list[str]](list)
        for context, numbers in places.items():
            ends = template.stops if template and opening and opening in context else ()
            kinds[len(numbers), (*until, *ends)].append(context)
        for (samples, stops), contexts in kinds.items():
            room = max_length - sampling.max_tokens
            prompts = [_Prompt(marked(context, run.tokenizer), room) for context in contexts]
            for number, _, completion in engine.complete(prompts, sampling, samples, stops):
                if completion.finish_reason:
                    yield places[contexts[number // samples]][number % samples], completion.text


def generation_settings(
    given: dict[str, Any], max_length: int, max_gen_toks: int
) -> tuple[SamplingConfig, tuple[str, ...]]:
    """Read a task's generation_kwargs: how to draw, and which texts to stop at. The draws are those of torch's seed.

    Raises InputError for what is unknown or out of range, and where there is no room for a token of context.
    """
    rest = {name: value for name, value in given.items() if value is not None}
    until, samples = rest.pop("until", ()), rest.pop("do_sample", rest.get("temperature", 0) > 0)
    lengths = [rest.pop(name) for name in LENGTHS if name in rest]
    length = int(lengths[0]) if lengths else max_gen_toks
    draws = {name: rest.pop(name) for name in DRAWS if name in rest}
    if rest.pop("num_beams", 1) != 1 or rest:
        unknown, known = ", ".join(rest) or "num_beams above 1", ", ".join(("until", "do_sample", LENGTHS[0], *DRAWS))
        raise InputError(f"generation_kwargs: there is no {unknown} here; there are {known}")
    if length >= max_length:
        raise InputError(
            f"generation_kwargs: max_gen_toks is {length:,} and the model sees {max_length:,}, which leaves no room "
            "for a context; ask for fewer, by --gen_kwargs max_gen_toks=N"
        )
    draws["temperature"] = float(draws.get("temperature", 1.0)) if samples else 0.0
    sampling = SamplingConfig(max_tokens=length, seed=torch.initial_seed() % 2**63, overflow="error", **draws)
    return sampling, tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)


def opening_of(template: ChatTemplate) -> str:
    """Tell what a template writes between any question and its answer."""
    one, two = (reversed(template.prompt([Message("user", said)])) for said in ("0", "1"))
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))[::-1]


class _Prompt(Marked):
    """A text of which the last tokens are read: as many as there is room for."""

    room: int

    def __new__(cls, text: Marked, room: int) -> "_Prompt":
        prompt = super().__new__(cls, text, text.specials)
        assert isinstance(prompt, cls)
        prompt.room = room
        return prompt

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        return super().ids(tokenizer)[-self.room :]
