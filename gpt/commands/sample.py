"""Continue texts: each from a prompt, or interactively."""

import dataclasses
import io
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, UseAppendAction, arg

from gpt.apps.corpus import corpus_of
from gpt.apps.render import print_json, print_text
from gpt.choices import Device, WeightDtype
from gpt.commands import STANDARD_INPUT, at_terminal, read_standard_input, read_text
from gpt.config_io import parse
from gpt.device import ROUNDED, Target, choose_device
from gpt.errors import InputError
from gpt.files import parse_json
from gpt.generation.completion import SEED_BITS, TextEngine
from gpt.generation.engine import WORTH_GUESSING
from gpt.generation.sampling import SamplingConfig
from gpt.log import log
from gpt.runs.load import LoadedRun, load_run
from gpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt.apps.adapters import Switch
    from gpt.runs.adapters import Adapters

BATCH = 16
ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}  # as --stop spells them


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `gpt sample` with options from the command line."""
    command = parse(tyro.cli, SampleCommand, arguments, prog=Path(sys.argv[0]).name, config=(DisallowNone,))
    command.check()
    prompts = command.read_prompts()
    if prompts is None:
        command.require_interactive()
    device = choose_device(command.device)

    def load(name: str | None, checkpoint: str = "best") -> LoadedRun:
        return load_run(name, device, command.dtype, prepacked=not command.compile, checkpoint=checkpoint)

    run, adapters = (
        (load(command.run, command.checkpoint), None)
        if not command.adapter
        else _adapted(command, device, prompts is None)
    )
    if prompts is None:
        from gpt.apps.adapters import Switch

        switch = Switch(Target.of(device, command.dtype, not command.compile), run, adapters, command.checkpoint)
        _answer_lines(command, run, load, switch)
        return
    if command.run is None:
        log.info(f"using {run.source}")
    require_known(prompts, run.tokenizer)
    sampling, seed_by_chance = command.sampling, command.sampling.seed is None and len(prompts) == 1
    if seed_by_chance:
        sampling = dataclasses.replace(sampling, seed=secrets.randbits(SEED_BITS))
    batch = min(command.batch, len(prompts) * command.samples)
    corpus = corpus_of(run) if sampling.max_tokens >= WORTH_GUESSING else None
    settings = (batch, command.compile, run.answer_ends, command.speculative, corpus)
    events = TextEngine(run.model, run.tokenizer, *settings).complete(
        prompts,
        sampling,
        command.samples,
        command.stop_texts,
        top_logprobs=command.logprobs,
        echo=command.echo and command.logprobs is not None,
    )
    if command.json:
        print_json(events, run.source, scored=command.logprobs is not None, echo=command.echo)
        return
    print_text(events, len(prompts), command.samples, command.echo)
    if seed_by_chance and sampling.temperature > 0:
        log.info(f"the same again: --seed {sampling.seed}")


def _answer_lines(command: "SampleCommand", run: LoadedRun, load: Callable[[str], LoadedRun], switch: "Switch") -> None:
    settings = (run, command.sampling, command.stop_texts, load, switch, command.allow_commands)
    if command.chat:
        from gpt.apps.chat import converse

        converse(*settings, command.system or "", command.json)
    else:
        from gpt.apps.interact import interact

        interact(*settings)


def _adapted(command: "SampleCommand", device: str, several: bool) -> tuple[LoadedRun, "Adapters"]:
    """Put the first of the adapters on their base: the one that is named, or that it names itself."""
    from gpt.runs.adapters import Adapters

    if len(command.adapter) > 1 and not several:
        raise InputError("--adapter: several are for a session, where /adapter switches; give one")
    target = Target.of(device, command.dtype, not command.compile)
    adapters = Adapters.open(command.adapter, target, command.run, command.checkpoint)
    return adapters.load(command.adapter[0], command.checkpoint), adapters


class PromptFile:
    """The prompts of a file's lines: JSON strings where they are such, else as they stand. Blank lines are none.

    The file is read line by line each time that they are gone through, as it may be larger than the memory; what can
    be read only once, such as a pipe, is kept. The path - is standard input.
    """

    def __init__(self, path: Path) -> None:
        """Go through the file once. Raise InputError if it cannot be read, is not UTF-8, or has no prompt."""
        self.path, self._kept = path, None
        try:
            if path == STANDARD_INPUT or not path.is_file():
                self._kept = list(self._read())
            self._count = sum(1 for _ in self)
        except OSError as error:
            raise InputError(f"--prompts {path}: cannot be read ({error.strerror})") from None
        if not self._count:
            raise InputError(f'--prompts {path}: has no prompt; write one per line, "" for an empty one')

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return self._read() if self._kept is None else iter(self._kept)

    def _read(self) -> Iterator[str]:
        with _opened(self.path) as lines:
            for number, line in enumerate(lines, 1):
                text = read_text(f"--prompts {self.path}, line {number}", line.rstrip(b"\r\n").decode)
                if text.strip():
                    yield _unquoted(text)


def _opened(path: Path) -> BinaryIO:
    """Open a file of lines; - is standard input, which stays open."""
    if path != STANDARD_INPUT:
        return open(path, "rb")
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("--prompts -: nothing is piped into standard input; do so, or name a file")
    lines = getattr(sys.stdin, "buffer", None)
    return io.BytesIO(lines.read() if lines is not None else sys.stdin.read().encode())


@dataclass(frozen=True)
class SampleCommand:
    """Continue a prompt or standard input; in a terminal, what is typed."""

    run: str | None = None
    """Run, by path or by name, or Hugging Face GPT-2 (directory, hub id, ID@REVISION); by default the newest run."""
    adapter: UseAppendAction[tuple[str, ...]] = ()
    """Run that trained adapters, or directory of PEFT's, to be put on what --run names, by default its own base. Give
    several where lines are answered: /adapter switches."""
    checkpoint: str = "best"
    """Of the run, or of an adapter's run: best (by validation loss), last, or the number of a step."""
    prompt: str | None = None
    """Text to continue."""
    prompt_file: Path | None = None
    """File whose text is continued (UTF-8), as it stands; - is standard input, without its last line's end."""
    prompts: Path | None = None
    """File of prompts, a line each: as it stands, or a JSON string of several lines; - is standard input."""
    interactive: FlagCreatePairsOff[bool] = False
    """Answer lines one by one, also those of a pipe."""
    chat: FlagCreatePairsOff[bool] = False
    """Hold a conversation, by the template of a run that was trained on some; lines are typed, or a pipe's."""
    system: str | None = None
    """With --chat, what the model is told before the conversation."""
    allow_commands: FlagCreatePairsOff[bool] = False
    """Let lines from elsewhere than a terminal use /save, /load and /adapter, which reach files and the network."""
    sampling: Annotated[SamplingConfig, arg(name="", help="")] = field(default_factory=SamplingConfig)
    greedy: FlagCreatePairsOff[bool] = False
    """Always take the likeliest token: the same as --temperature 0."""
    samples: int = 1
    """Number of continuations of each prompt."""
    batch: int = BATCH
    """Continuations at once."""
    speculative: FlagCreatePairsOff[bool] = True
    """Read guesses of what comes next along with it: the same text, sooner. On a CPU, and not with --compile."""
    stop: UseAppendAction[tuple[str, ...]] = ()
    """End before this text; may be given several times. \\n is a line's end, \\t a tab, and \\\\ a backslash."""
    logprobs: int | None = None
    """Give each token's natural log-probability, by the model alone, and those of so many of the likeliest tokens."""
    echo: FlagCreatePairsOff[bool] = False
    """Give the prompt before its continuation; with --logprobs, its tokens' as well."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object per sample, or per answer of --chat, with the run, step and seed that it was drawn with."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA, else MPS, else the CPU."""
    dtype: WeightDtype = "auto"
    """Precision of the weights; auto is bfloat16 on a GPU that is good at it, else float32. On a CPU, float16 is
    faster than float32 and as good; int8 takes the least memory, and rounds more."""
    compile: FlagCreatePairsOff[bool] = False
    """Compile the decoding of a token first: worth it for long texts on a GPU."""

    def check(self) -> None:
        """Raise InputError, which names the flag, for options that make no sense."""
        for name, least in (("samples", 1), ("batch", 1), ("logprobs", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name} is {value}; it must be at least {least}")
        if self.allow_commands and not (self.interactive or self.chat):
            raise InputError("--allow-commands: has a meaning with --interactive only, and with --chat")
        if self.system is not None and not self.chat:
            raise InputError("--system: has a meaning with --chat only")
        if "" in self.stop:
            raise InputError("--stop is empty; it must have at least one character")
        given = [
            name
            for name in ("prompt", "prompt_file", "prompts", "interactive", "chat")
            if getattr(self, name) not in (None, False)
        ]
        if len(given) > 1:
            raise InputError(f"{' and '.join('--' + name.replace('_', '-') for name in given)}: give one of them")
        if self.compile and self.dtype in ROUNDED:
            raise InputError("--compile: is for float32 and bfloat16; leave it out, or choose another --dtype")
        if self.echo and self.json and self.logprobs is None:
            raise InputError("--echo --json: needs --logprobs; the prompt's text is there already")
        if self.greedy:
            object.__setattr__(self, "sampling", dataclasses.replace(self.sampling, temperature=0.0))

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The stop texts, with what --stop spells by a backslash."""
        return tuple(re.sub(r"\\[nt\\]", lambda match: ESCAPES[match[0]], stop) for stop in self.stop)

    def read_prompts(self) -> list[str] | PromptFile | None:
        """Give the prompts, or None if a person at a terminal, or a pipe's lines, are to give them."""
        if self.interactive or self.chat:
            return None
        if self.prompt is not None:
            return [self.prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")]  # as a shell gives it
        if self.prompt_file not in (None, STANDARD_INPUT):
            return [read_text(f"--prompt-file {self.prompt_file}", self.prompt_file.read_text)]
        if self.prompts is not None:
            return PromptFile(self.prompts)
        if at_terminal() and self.prompt_file is None:
            return None
        return [re.sub(r"\r?\n\Z", "", read_standard_input())]  # which echo, and most programs, put there

    def require_interactive(self) -> None:
        """Raise InputError for options that an interactive session has no use for."""
        useless = {
            "json": self.json and not self.chat,
            "samples": self.samples > 1,
            "logprobs": self.logprobs is not None,
            "echo": self.echo,
            "compile": self.compile,
            "no-speculative": not self.speculative,
            "batch": self.batch != BATCH,
        }
        for name, given in useless.items():
            if given:
                raise InputError(f"--{name}: needs a prompt; give one by --prompt")


def require_known(prompts: Iterable[str], tokenizer: Tokenizer) -> None:
    """Raise InputError, before anything is continued, for a prompt with a character that the vocabulary lacks."""
    if tokenizer.kind != "char":
        return
    for number, prompt in enumerate(prompts, 1):
        try:
            tokenizer.require_known(prompt)
        except InputError as error:
            raise InputError(f"prompt {number}: {error}") from None


def _unquoted(line: str) -> str:
    if not line.strip().startswith('"'):
        return line
    try:
        value = parse_json(line)
    except ValueError:
        return line
    return value if isinstance(value, str) else line
