"""Write a corpus as a dataset, for training."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tyro.extras import subcommand_cli_from_dict

from gpt.commands import program_name
from gpt.corpus.pipeline import prepare
from gpt.corpus.recipes import Recipe
from gpt.corpus.recipes.files import Files
from gpt.corpus.recipes.python import Python
from gpt.corpus.recipes.shakespeare import Shakespeare
from gpt.corpus.vocabulary import parse_tokenizer
from gpt.dataset.dataset import Dataset
from gpt.errors import InputError, did_you_mean
from gpt.files import read_json
from gpt.interop.huggingface_tokenizer import OUR_TOKENIZER, read_tokenizer
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.terminal import command
from gpt.text.tokenizer import Tokenizer

RECIPES: dict[str, Callable[..., Recipe]] = {"files": Files, "python": Python, "shakespeare": Shakespeare}
DESCRIPTION = "Write a corpus as a dataset, for training. gpt prepare NAME --help lists a corpus's options."


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare a corpus, print what was written, and say what to do next.

    Raises InputError, or exits with a message where an option itself is wrong.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and not arguments[0].startswith("-") and arguments[0] not in RECIPES:
        raise InputError(f"there is no corpus {arguments[0]!r}; {did_you_mean(arguments[0], RECIPES)}")
    recipe = subcommand_cli_from_dict(RECIPES, args=arguments, prog=program_name(), description=DESCRIPTION)
    with Interruptible():
        dataset = prepare_recipe(recipe)
    print_dataset(dataset)
    log.info(f"next: {command('train')} --data {shlex.quote(str(dataset.path))}")


def prepare_recipe(recipe: Recipe) -> Dataset:
    """Write the dataset of a recipe. Raises InputError, and leaves nothing by half, if it cannot be."""
    place, split, tokenizer = recipe.place().expanduser(), recipe.split(), chosen_tokenizer(recipe.tokenizer)
    return prepare(recipe.source(), split, tokenizer, place, recipe.record())


def chosen_tokenizer(name: str) -> str | Tokenizer:
    """Read the tokenizer of a Hugging Face directory, or of its tokenizer.json; leave any other name as it is.

    Raises InputError for a name that is none, and for a tokenizer that is not like GPT-2's.
    """
    name = str(Path(name).expanduser()) if name.startswith("~") else name
    if parse_tokenizer(name)[0] != "file":
        return name
    path = Path(name)
    directory = path.parent if path.name == "tokenizer.json" else path
    file = directory / "tokenizer.json"
    named = [directory / OUR_TOKENIZER, directory / "vocab.json"]
    theirs = any(path.exists() for path in named) or (file.exists() and "model" in read_json(file, "a tokenizer"))
    return read_tokenizer(directory, vocab_size=0) if theirs else name


def print_dataset(dataset: Dataset) -> None:
    """Print how much was written."""
    for split in (dataset.train, dataset.validation):
        print(f"{dataset.path}: {split.tokens:>13,} {split.name} tokens in {len(split.shards)} shard(s)")
    print(f"{dataset.path}: tokenizer {dataset.tokenizer.kind}, vocabulary {dataset.tokenizer.vocab_size:,}")
