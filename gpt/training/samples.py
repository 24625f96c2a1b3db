"""What a model makes of its dataset's prompt, always drawn alike."""

from collections.abc import Iterator

import torch

from gpt.dataset.dataset import Dataset
from gpt.device import autocast
from gpt.distributed.parallel import is_sharded, reshard
from gpt.distributed.world import World
from gpt.errors import InputError, OutOfMemory
from gpt.generation.completion import TextEngine, opening_ids
from gpt.generation.sampling import SamplingConfig, sample
from gpt.model.transformer import GPT
from gpt.text.added import Marked
from gpt.text.templates import template_of
from gpt.text.tokenizer import Tokenizer

SAMPLE_TEMPERATURE, SAMPLE_SEED = 0.6, 1


def sample_text(model: GPT, dataset: Dataset, tokens: int, world: World, dtype: torch.dtype = torch.float32) -> str:
    """Continue the dataset's prompt, always drawn alike, so that only the model makes a difference.

    Of several processes all call this. Rank 0 makes it alone, or if they share the model, all read what rank 0 draws:
    where each drew by itself, one number that is rounded otherwise would make some go on and others end. A model that
    is shared multiplies in `dtype`, as it does in training. Where no sample can be made, as of weights that are not
    finite, the reason takes its place: it does not end a training.
    """
    if is_sharded(model):
        try:
            with autocast(world.device, dtype):
                text = _sample_text(model, dataset, tokens, world)
            failed = world.any(False)
        except OutOfMemory:
            if not world.any_at_once():  # the others wait for this rank's part of the model: where it ends, they notice
                raise
            text, failed = "", True
        reshard(model)
        return "(no sample: out of memory in one of the processes)" if failed else text
    return world.from_main(lambda: _sample_text(model, dataset, tokens))


def _sample_text(model: GPT, dataset: Dataset, tokens: int, world: World | None = None) -> str:
    was_training = model.training
    model.eval()
    prompt = sample_prompt(dataset)
    try:
        text = prompt + "".join(continued(model, dataset.tokenizer, prompt, tokens, world, answer_ends(dataset)))
    except InputError as error:
        if world is not None and isinstance(error, OutOfMemory):
            raise  # of one rank alone, perhaps
        text = f"(no sample: {error})"
    finally:
        model.train(was_training)
    return text


def sample_prompt(dataset: Dataset) -> str:
    """Give the prompt of a dataset's recipe, with its special tokens if it is one of a chat template."""
    text, specials = dataset.recipe.get("sample_prompt", ""), dataset.recipe.get("sample_specials")
    return Marked(text, tuple((start, stop) for start, stop in specials)) if specials else text


def answer_ends(dataset: Dataset) -> tuple[str, ...]:
    """Name the special tokens that end an answer, by the dataset's chat template if it has one."""
    source = dataset.recipe.get("chat_template")
    return template_of(source).ends if source and dataset.tokenizer.added else ()


def continued(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    tokens: int,
    world: World | None = None,
    ends: tuple[str, ...] = (),
) -> Iterator[str]:
    """Yield a prompt's continuation in pieces, as far as the context holds both; with a world, what rank 0 draws."""
    room = max(1, model.config.context_length - len(opening_ids(tokenizer, prompt)))
    sampling = SamplingConfig(max_tokens=min(tokens, room), temperature=SAMPLE_TEMPERATURE, seed=SAMPLE_SEED)
    engine = TextEngine(model, tokenizer, ends=ends)
    if world is not None:
        engine.sample = lambda *arguments: torch.tensor(world.from_main(lambda: sample(*arguments).tolist()))
    for _, text, _ in engine.complete([prompt], sampling):
        yield text
