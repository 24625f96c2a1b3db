"""Write a corpus as a dataset, for training."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, arg
from tyro.extras import subcommand_cli_from_dict

from gpt.config_io import parse
from gpt.corpus.assembly import REPORT
from gpt.corpus.executor import Execution, worker_count
from gpt.corpus.pipeline import prepare
from gpt.corpus.recipes import Recipe
from gpt.corpus.recipes.files import Files
from gpt.corpus.recipes.fineweb import FineWeb
from gpt.corpus.recipes.instruct import Instruct
from gpt.corpus.recipes.openwebtext import OpenWebText
from gpt.corpus.recipes.python import Python
from gpt.corpus.recipes.shakespeare import Shakespeare
from gpt.corpus.recipes.tinystories import TinyStories
from gpt.corpus.sources import ADDRESS
from gpt.corpus.vocabulary import parse_tokenizer
from gpt.dataset.dataset import Dataset
from gpt.dataset.shards import REPAIR
from gpt.errors import InputError, did_you_mean
from gpt.files import read_json
from gpt.interop.hub_names import FAMILY, hub_id
from gpt.interop.huggingface_tokenizer import OUR_TOKENIZER, read_tokenizer
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.runs.directory import by_name, nearest_run
from gpt.terminal import command, one_line, program_name
from gpt.text.tokenizer import Tokenizer

RECIPES: dict[str, Callable[..., Recipe]] = {"files": Files, "python": Python, "shakespeare": Shakespeare}
RECIPES |= {"instruct": Instruct, "tinystories": TinyStories, "openwebtext": OpenWebText, "fineweb": FineWeb}
AS_USUAL = Execution()
MOST_SOURCES = 3  # that are printed; report.json has more
DRY_RUN = "Say what is there, how many tokens it gives and which training suits it, in seconds, and write nothing."
REPLACE = "Write the dataset in place of one of other settings or inputs. Added text needs no such word."
JSON = "With --dry-run: print one JSON object instead."
FLAGS = ("--dry-run", "--replace", "--json")  # which take no value
SEVERAL = ("--input", "--validation")  # which take as many as there are
_Annotated: Any = Annotated  # of types that no type checker knows
# Where no help is given, tyro looks for it in the source, again for each command; of a class without one it parses all.
ASKED: dict[str, Callable[..., Any]] = {  # the options of each recipe, and how it is carried out
    name: make_dataclass(
        "Asked",
        [
            ("recipe", _Annotated[recipe, arg(name="", help=""), OmitArgPrefixes]),
            ("how", Annotated[Execution, arg(name="", help="")], AS_USUAL),
            ("replace", Annotated[FlagCreatePairsOff[bool], arg(help=REPLACE)], False),
            ("dry_run", Annotated[FlagCreatePairsOff[bool], arg(help=DRY_RUN)], False),
            ("json", Annotated[FlagCreatePairsOff[bool], arg(help=JSON)], False),
        ],
        namespace={"__doc__": recipe.__doc__},
    )
    for name, recipe in RECIPES.items()
}
CONF = (DisallowNone,)
DESCRIPTION = "Write a corpus as a dataset, for training.\n\nThe options of each: gpt prepare files --help"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare a corpus, print what was written, and say what to do next.

    Raises InputError, or exits with a message where an option itself is wrong.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    shown: dict[str, Any] = {"prog": program_name(), "description": DESCRIPTION, "config": CONF}
    asked = parse(subcommand_cli_from_dict, ASKED, arguments, _require_corpus, **shown)
    with Interruptible():
        if asked.dry_run or asked.json:
            from gpt.commands.preview import dry_run

            if not asked.dry_run:
                raise InputError("`json` is of `dry_run`, whose result it prints: give both, or leave it out")
            dry_run(asked.recipe, chosen_tokenizer(asked.recipe.tokenizer), asked.replace, asked.json)
            return
        dataset = prepare_recipe(asked.recipe, asked.how, asked.replace)
    if dataset is not None:
        print_dataset(dataset)
        base = by_name(asked.recipe.tokenizer)  # a run or a model, if it has a config.json
        weights = f"finetune --init-from {shlex.quote(str(base))} " if (base / "config.json").exists() else ""
        windows = " --windows packed --document-mask" if dataset.train.is_masked else ""  # an example in one, alone
        log.info(f"next: {command('train')} {weights}--data {shlex.quote(str(dataset.path))}{windows}")


def _require_corpus(arguments: Sequence[str]) -> None:
    """Raise InputError for an unknown corpus, and for files that stand where no option takes them."""
    name, *options = arguments or ["-"]
    if name.startswith("-") or (name in RECIPES and name != "files"):
        return
    if name not in RECIPES and not Path(name).exists() and not ADDRESS.match(name):
        raise InputError(f"there is no corpus {name!r}; {did_you_mean(name, RECIPES)}")
    loose, inputs, others = _divided(options if name in RECIPES else arguments)
    if loose:
        named = any(word.partition("=")[0] == "--name" for word in others)
        naming = [] if named else ["--name", Path(loose[0]).resolve().stem]
        words = shlex.join(["prepare", "files", "--input", *loose, *inputs, *naming, *others])
        raise InputError(f"{loose[0]}: files are given by `input`: gpt {words}")


def _divided(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Divide the words of the recipe files: those that no option takes, what --input takes, and all others."""
    loose, inputs, others = [], [], []
    into, room = loose, 0
    for word in words:
        flag, equals, value = word.partition("=")
        if word.startswith("-"):
            most = 0 if equals or flag in FLAGS else len(words) if flag in SEVERAL else 1
            into, room = (inputs, most) if flag == "--input" else (others, most)
            into += [] if flag == "--input" and not equals else [value if flag == "--input" else word]
        else:
            (into if room else loose).append(word)
            room -= bool(room)
    return loose, inputs, others


def prepare_recipe(recipe: Recipe, how: Execution = AS_USUAL, replace: bool = False) -> Dataset | None:
    """Write the dataset of a recipe. Raises InputError, and leaves nothing by half, if it cannot be.

    One of other settings that is there is refused, unless it is to be replaced.

    Returns None where this is one of several jobs, and not the first, which writes it.
    """
    worker_count(how.workers)
    place, split, tokenizer = recipe.place().expanduser(), recipe.split(), chosen_tokenizer(recipe.tokenizer)
    run = {"workers": how.workers, "part": how.numbers(), "encoder": how.encoder, "replace": replace}
    return prepare(recipe.source, split, tokenizer, place, recipe.manifest_entry(), **recipe.steps(), **run)


def chosen_tokenizer(name: str) -> str | Tokenizer:
    """Read the tokenizer of a run, a dataset or a Hugging Face GPT-2; leave the name of a kind as it is.

    A model of GPT-2's family on the hub, such as gpt2-medium, has the kind gpt2.
    Raises InputError for what is neither, and for a tokenizer that cannot be read, or is not like GPT-2's.
    """
    path = by_name(Path(name).expanduser())
    try:
        if parse_tokenizer(name)[0] != "file":
            return name
    except InputError as error:
        if hub_id(name).partition("@")[0] in FAMILY.values():  # which have one tokenizer
            return "gpt2"
        if not path.exists():
            raise InputError(f"{error}; did you mean {near}?" if (near := nearest_run(path)) else str(error)) from None
    directory = path.parent if path.name == "tokenizer.json" else path
    file = path if path.is_file() else path / "tokenizer.json"
    named = any((directory / own).exists() for own in (OUR_TOKENIZER, "vocab.json"))
    if not named and not file.exists():
        below = sorted(path.glob("*/tokenizer.json"))
        meant = f"did you mean {below[0].parent}?" if below else "give a run, a dataset, or a Hugging Face GPT-2"
        raise InputError(f"`tokenizer` {name}: is a directory without a tokenizer.json; {meant}")
    try:
        theirs = named or "model" in read_json(file, "a tokenizer")
        return read_tokenizer(directory, vocab_size=0) if theirs else Tokenizer.load(file)
    except InputError as error:
        others = "gpt2, bytes, char, bpe:4096, and other runs and datasets"
        raise InputError(f"{error}; `tokenizer` also takes {others}") from None


def print_dataset(dataset: Dataset) -> None:
    """Print how much was written and of what, by the report. Raises InputError if that cannot be read."""
    place, report = dataset.path, read_json(dataset.path / REPORT, "a report", REPAIR)
    documents, longest = report["documents"], report["longest"]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in documents["left_out"].items()) or "none"
    shares = [f"{name} {of['share']:.1%}" for name, of in report["sources"].items() if of["share"]][:MOST_SOURCES]
    for split in (dataset.train, dataset.validation):
        print(f"{place}: {split.tokens:>13,} {split.name} tokens in {len(split.shards)} shard(s)")
    print(f"{place}: tokenizer {dataset.tokenizer.kind}, vocabulary {dataset.tokenizer.vocab_size:,}")
    print(f"{place}: {report['text_bytes']:,} bytes of text, {report['bytes_per_token']:.2f} per token")
    print(f"{place}: {documents['kept']:,} of {documents['read']:,} documents; left out: {reasons}")
    print(one_line(f"{place}: longest {longest['document']}, {longest['bytes']:,} bytes; largest {', '.join(shares)}"))
    print(f"{place}: corpus fingerprint {report['corpus_fingerprint']}")
