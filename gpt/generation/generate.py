"""One text, as an iterator of ids."""

from collections.abc import Iterator, Sequence

from gpt.choices import Overflow
from gpt.generation.config import SamplingConfig
from gpt.generation.engine import Engine
from gpt.model.transformer import GPT


def generate(
    model: GPT,
    ids: Sequence[int],
    *,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    overflow: Overflow = "slide",
    seed: int | None = None,
    end_of_text: int | None = None,
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Continue a prompt of at least one token id, yielding each new id as it is drawn.

    Ends after `max_tokens`, or before the id `end_of_text`, which is not yielded. The other settings are those of
    SamplingConfig; `vocab_size` and what is raised are those of Engine.
    """
    sampling = SamplingConfig(
        max_tokens=max_tokens,
        repetition_penalty=repetition_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        overflow=overflow,
    )
    engine = Engine(model, max_batch=1, end_of_text=end_of_text, vocab_size=vocab_size)
    engine.submit(ids, sampling)
    for token in engine.run():
        if token.id is not None:
            yield token.id
