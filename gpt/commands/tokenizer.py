"""Train a tokenizer on your text, show a text as tokens, or compare tokenizers."""

import json as json_module
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated

import tiktoken
from rich.console import Console
from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, Positional, UseAppendAction, arg
from tyro.extras import subcommand_cli_from_dict

from gpt import commands as cli
from gpt.apps.tokens import Count, has_colors, print_colored, print_json, print_lines, tokens_of
from gpt.commands.prepare import chosen_tokenizer
from gpt.config_io import later, parse
from gpt.corpus.comparison import ROUNDS, Figures, Suitable, comparison_lines, divided, made_from, suitable
from gpt.corpus.comparison import compare as compare_tokenizers
from gpt.corpus.documents import Document, FileOptions, ReadOptions
from gpt.corpus.pipeline import say_what_was_read
from gpt.corpus.sample import CorpusSample
from gpt.corpus.sources import TextFiles
from gpt.corpus.text_split import read_source
from gpt.corpus.vocabulary import AUTO, TRAINER_CHARACTERS, VOCABULARIES, SplitSizes, make_tokenizer, parse_tokenizer
from gpt.errors import InputError, did_you_mean
from gpt.files import read_json
from gpt.interrupts import Interruptible
from gpt.log import Progress, log
from gpt.runs.directory import newest_run
from gpt.terminal import command
from gpt.text.encoding import Encoder, TiktokenEncoding
from gpt.text.tokenizer import FORMAT, Tokenizer, require_bpe_size

DESCRIPTION = "Train, show or compare tokenizers. gpt tokenizer NAME --help lists the options."
FILE = "tokenizer.json"
OTHERS = ("manifest.json", "config.json", "vocab.json", "checkpoints")  # a directory with one is more than a tokenizer
COMPARED = (*(name for _, name in VOCABULARIES), "char", "gpt2")
ENCODINGS = [name for name in tiktoken.list_encoding_names() if name != "gpt2"]  # which is ours as well
MAX_INPUTS = 3  # that the next command names
Names = Annotated[list[tuple[str, ...]], UseAppendAction, arg(metavar="NAME [NAME ...]")]
NoPairs = FlagCreatePairsOff[bool]
AS_USUAL = FileOptions()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the subcommands. Raises InputError, or exits with a message where an option itself is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    known = {"train": later(train), "show": later(show), "compare": later(compare)}
    if arguments and not arguments[0].startswith("-") and arguments[0] not in known:
        raise InputError(f"there is no gpt tokenizer {arguments[0]!r}; {did_you_mean(arguments[0], known)}")
    with Interruptible():
        shown = {"prog": "gpt tokenizer", "description": DESCRIPTION, "config": (DisallowNone, OmitArgPrefixes)}
        parse(subcommand_cli_from_dict, known, arguments, None, **shown)()


# ---- train ----


def train(input: list[Path], out: Path, vocab_size: int | None = None, reading: FileOptions = AS_USUAL) -> None:
    """Train a byte-level BPE on your text, for gpt prepare --tokenizer. The same text gives the same file everywhere.

    Of a corpus of over 50 million characters, passages from all over it are read.

    Args:
        input: Files and directories, as gpt prepare files takes them.
        out: Directory to write tokenizer.json to, or a file ending in .json.
        vocab_size: Tokens, with the 256 bytes and end-of-text; by default what suits the text's size.
    """
    if vocab_size is not None:
        require_bpe_size(vocab_size, "`vocab_size` ")
    source, file = TextFiles(input, how=ReadOptions(**vars(reading))), _writable(out.expanduser(), input)
    with Progress() as progress:
        sample = CorpusSample(source, TRAINER_CHARACTERS, progress)
        say_what_was_read(sample)
        size = vocab_size or _suitable_size(sample)
        progress.doing = f"training a BPE of {size:,} tokens"
        tokenizer = Tokenizer.train_bpe((document.text for document in sample), size)
    file.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(file)
    if tokenizer.vocab_size < size:
        log.info(f"the text has pairs for a vocabulary of {tokenizer.vocab_size:,} only, not {size:,}")
    characters, documents = sample.counts["characters"], sample.counts["documents"]
    print(
        f"{file}: vocabulary {tokenizer.vocab_size:,}, learned from {sample.sampled:,} of {characters:,} characters in "
        f"{documents:,} documents"
    )
    name = "mine" if file.parent == Path() else file.parent.name
    log.info(
        f"next: {command('prepare')} files {_as_options(input, reading)} --name {shlex.quote(name)} "
        f"--tokenizer {shlex.quote(str(file))}"
    )


def _suitable_size(sample: CorpusSample) -> int:
    """Say which size suits the text. Raises InputError where it is too little for any."""
    found = suitable(sample.learnable)
    size = parse_tokenizer(found.tokenizer)[1]
    if size is None:
        raise InputError(
            f"`vocab_size`: for {found.characters:,} characters to train on, take {found.tokenizer} ({found.reason}), "
            "which need no training; or say how many tokens to learn all the same, such as 512"
        )
    log.info(f"vocabulary: {size:,}, for {found.characters:,} characters to train on: {found.reason}")
    return size


def _writable(out: Path, inputs: list[Path]) -> Path:
    """Return the file to write. Raises InputError where something else stands, or that would be part of the input."""
    file = out if out.suffix == ".json" and not out.is_dir() else out / FILE
    if above := next((path for path in file.parents if path.exists() and not path.is_dir()), None):
        raise InputError(f"`out` {out}: {above} is a file; name a directory, or a file ending in .json")
    others = [name for name in OTHERS if file.name == FILE and (file.parent / name).exists()]
    if others:
        raise InputError(f"`out` {out}: holds {others[0]}, and the tokenizer of that; name another directory")
    for path in (path.expanduser().resolve() for path in inputs):
        if file.resolve().is_relative_to(path):
            raise InputError(f"`out` {out}: lies in the input, and would be learned from next time; write it elsewhere")
    if file.exists():
        try:
            theirs = not file.is_file() or read_json(file).get("format") != FORMAT
        except InputError:
            theirs = True
        if theirs:
            raise InputError(f"`out` {file}: exists and is no tokenizer of this program; name another file")
        log.info(f"{file}: will replace the tokenizer there")
    return file


# ---- show ----


def show(
    text: Annotated[str | None, Positional, arg(metavar="[TEXT]")] = None,
    tokenizer: str | None = None,
    file: Path | None = None,
    json: NoPairs = False,
    reading: FileOptions = AS_USUAL,
) -> None:
    """Show a text as tokens: in colors; in a pipe one a line, with id, bytes and text.

    Bytes that are not whole characters are escaped, as \\xf0. In a line, the text is what the token completes.

    Args:
        text: The text; by default it is that of --file, or standard input as it stands, with its last line's end.
        tokenizer: gpt2, bytes, a run, dataset, file, Hugging Face GPT-2, or tiktoken's name; or the newest run's.
        file: File of the text, whose documents are shown one after another, as gpt prepare files reads them.
        json: Print one JSON object instead, with bytes as lists of numbers.
    """
    if text is not None and file is not None:
        raise InputError("TEXT and --file: give one of them")
    name = _newest_tokenizer() if tokenizer is None else _checked(tokenizer)
    if _is_made(name):
        raise InputError(
            f"`tokenizer` {name}: is made from a corpus; name a run, a dataset or a file that has one, or make one: "
            "gpt tokenizer train"
        )
    encoder = _opened(name)
    texts = [_given(text, reading)] if file is None else _documents(file, reading)
    if not any(texts):
        raise InputError("the text is empty; there is nothing to show")
    console, count = Console(highlight=False), Count()
    tokens = chain.from_iterable(tokens_of(encoder, text) for text in texts)
    if json:
        print_json(tokens, name, count)
    elif has_colors(console):
        print_colored(count.of(tokens), console)
        print(count)
    else:
        print_lines(count.of(tokens))
        log.info(str(count))
    log.info(f"next: gpt tokenizer compare --input {shlex.quote(str(file)) if file else 'FILES'}")


def _given(text: str | None, reading: FileOptions) -> str:
    """Return the text, or standard input. Raises InputError for options that would have no effect."""
    if others := reading.changed():
        raise InputError(f"`{next(iter(others))}` says how to read --file; give that, or leave it out")
    if text is None and cli.at_terminal():
        log.info("type the text; Ctrl-D on an empty line ends it")
    return text if text is not None else cli.read_standard_input()


def _documents(file: Path, reading: FileOptions) -> list[str]:
    """Read the documents of a file, and say what is left out. Raises InputError for a file that is not there."""
    try:
        found = [*read_source(TextFiles([file], how=ReadOptions(**vars(reading))))]
    except InputError as error:
        raise InputError(str(error).replace("`input`", "`file`")) from None
    return [each.text for each in found if isinstance(each, Document)]


def _newest_tokenizer() -> str:
    try:
        name = str(newest_run())
    except InputError:
        name = "gpt2"
    log.info(f"tokenizer: {name}")
    return name


# ---- compare ----


def compare(
    input: list[Path],
    tokenizer: Names = [],  # noqa: B006 tyro appends to a list of its own
    json: NoPairs = False,
    reading: FileOptions = AS_USUAL,
) -> None:
    """Compare tokenizers on your text: bytes per token, speed, and size of vocabulary.

    All are tried on a tenth of the text that is held out, as gpt prepare files does.
    bpe:VOCAB is trained on the rest. Of a corpus of over 50 million characters, a sample is read.

    Args:
        input: Files and directories, as gpt prepare files takes them.
        tokenizer: gpt2, bytes, char, bpe:VOCAB, auto, a run, dataset, file, Hugging Face GPT-2, or tiktoken's name.
        json: Print one JSON object instead.
    """
    source = TextFiles(input, how=ReadOptions(**vars(reading)))
    names = list(dict.fromkeys(map(_checked, (name for some in tokenizer for name in some) if tokenizer else COMPARED)))
    encoders: dict[str, Encoder | InputError] = {name: _at_hand(name) for name in names if not _is_made(name)}
    with Progress() as progress:
        sample = CorpusSample(source, TRAINER_CHARACTERS, progress)
        say_what_was_read(sample)
        suits = suitable(sample.learnable)
        names = list(dict.fromkeys(suits.tokenizer if name == AUTO else name for name in names))
        texts, held_out = divided(sample)
        progress.doing = f"training on {sum(map(len, texts)):,} characters"
        encoders |= made_from([name for name in names if name not in encoders], sample, texts)
        found = compare_tokenizers({name: encoders[name] for name in names}, held_out, progress)
    size = sum(len(text.encode()) for text in held_out)
    if json:
        amounts = {name: sample.counts[name] for name in ("documents", "characters")} | {"sampled": sample.sampled}
        result = amounts | {"held_out_bytes": size, "suitable": asdict(suits), "tokenizers": list(map(asdict, found))}
        print(json_module.dumps(result))
    else:
        _print_comparison(found, suits, sample, size)
    for each in found:
        if each.fault:
            log.warning(f"{each.name} is left out: {each.fault}")
    log.info(
        f"next: {command('prepare')} files {_as_options(input, reading)} --name mine --tokenizer {suits.tokenizer}"
    )


def _print_comparison(found: list[Figures], suits: Suitable, sample: CorpusSample, held_out: int) -> None:
    print("\n".join(comparison_lines(found)))
    read = f"{sample.counts['characters']:,} characters"
    read = f"{sample.sampled:,} of {read}" if sample.sampled < sample.counts["characters"] else read
    print(f"on {held_out:,} bytes held out of {read}; speed on one core, the median of {ROUNDS} rounds by turns")
    print(f"for {suits.characters:,} characters to train on, {suits.tokenizer} suits: {suits.reason}")


# ---- names ----


def _checked(name: str) -> str:
    """Return a tokenizer's name or path. Raises InputError if it is none, or of a BPE that cannot be."""
    name = str(Path(name).expanduser()) if name.startswith("~") else name
    kind, size = parse_tokenizer(name, ENCODINGS)
    if kind == "bpe" and size is not None:
        require_bpe_size(size)
    return name


def _is_made(name: str) -> bool:
    """Tell whether a tokenizer of this name has to be made from a corpus."""
    return parse_tokenizer(name, ENCODINGS)[0] in (AUTO, "bpe", "char")


def _opened(name: str) -> Encoder:
    """Load a tokenizer that is there already. Raises InputError if it cannot be."""
    if parse_tokenizer(name, ENCODINGS)[0] == "tiktoken":
        return TiktokenEncoding(name)
    chosen = chosen_tokenizer(name)
    return make_tokenizer(chosen, lambda: (), SplitSizes()) if isinstance(chosen, str) else chosen


def _at_hand(name: str) -> Encoder | InputError:
    """Load a tokenizer as `_opened`, but return the error where a vocabulary could not be downloaded."""
    try:
        return _opened(name)
    except InputError as error:
        if parse_tokenizer(name, ENCODINGS)[0] in ("gpt2", "tiktoken"):
            return error
        raise


def _as_options(inputs: list[Path], reading: FileOptions) -> str:
    """Write the input as flags, or stand-ins for many, and how it is read where that is not as usual."""
    names = shlex.join(map(str, inputs)) if len(inputs) <= MAX_INPUTS else "FILES"
    others = [f"`{name}` {shlex.quote(str(value))}" for name, value in reading.changed().items()]
    return " ".join([f"--input {names}", *others])
