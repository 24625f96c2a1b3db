"""The interactive session: what is typed is continued; lines that begin with / do something else."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt.apps.corpus import corpus_of
from gpt.apps.render import note_blank
from gpt.errors import InputError, OutOfMemory
from gpt.generation.completion import TextEngine, opening_ids
from gpt.generation.sampling import SamplingConfig
from gpt.generation.score import TokenScore
from gpt.memory import is_out_of_memory
from gpt.runs.load import LoadedRun

if TYPE_CHECKING:
    from gpt.apps.adapters import Switch

HELP = """\
Type a text and the model continues it; several lines can be pasted. An empty line goes on from where it stopped.
A text that begins with / is typed with two of them.
  /add WORDS                write these words behind the text so far, and go on from there
  /retry                    another continuation instead of the last one
  /undo                     back to the text before the last line and its continuation
  /why                      what else the model would have written instead of the last token
  /save FILE                write the text so far into a new file
  /load RUN                 go on with another model
  /adapters                 which adapters there are for this model's base
  /adapter NAME             go on with another adapter on the same base, or with none
  /temperature 0.7          randomness; 0 always takes the likeliest token
  /top-k 50                 draw among the 50 likeliest tokens
  /top-p 0.9                draw among the likeliest tokens that have 0.9 of the probability together
  /min-p 0.05               draw among the tokens that have 0.05 of the likeliest one's probability
  /repetition-penalty 1.2   make what the text already has less likely
  /max-tokens 200           longest continuation, in tokens
  /seed 3                   make the following continuations repeatable
  /reset                    forget the text, and go back to the settings of the command line
  /help                     this text
  /quit                     leave, as Ctrl-D and /exit do
Ctrl-C stops a continuation, Ctrl-D leaves; arrow up brings back earlier lines, Tab completes commands."""

SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "/temperature": ("temperature", float),
    "/top-k": ("top_k", int),
    "/top-p": ("top_p", float),
    "/min-p": ("min_p", float),
    "/repetition-penalty": ("repetition_penalty", float),
    "/max-tokens": ("max_tokens", int),
    "/seed": ("seed", int),
}
CALLED = {"/q": "/quit", "/bye": "/quit", "/clear": "/reset", "/new": "/reset", "/again": "/retry", "/?": "/help"}
OUTSIDE = {"/save": "writes a file", "/load": "reads files, or fetches a model from the network"}
OUTSIDE |= {"/adapters": "reads files", "/adapter": "reads files"}
TAKE_WORDS = ("/add", "/save", "/load", "/adapter")
ALTERNATIVES, BAR_WIDTH = 10, 40  # lines of /why, and characters of a bar for probability 1


Load = Callable[[str], LoadedRun]


@dataclasses.dataclass(frozen=True)
class Turn:
    """A line that was typed, and the text before and after it."""

    before: str
    begun: str
    """What was continued."""
    last: TokenScore | None = None
    """The last token of the continuation, and what else was likely."""
    is_whole: bool = False
    """Whether it ended by itself or at a stop text, and was not cut."""


class Session:
    """The text so far and the settings; `answer` handles one line."""

    def __init__(
        self,
        run: LoadedRun,
        sampling: SamplingConfig,
        stops: tuple[str, ...],
        load: Load,
        write: Callable[[str], None],
        adapters: "Switch",
        trusted: bool = True,
    ) -> None:
        """Begin a session. `trusted` lines come from a person, or may reach files and the network all the same."""
        self.trusted, self.adapters, self.takes_more = trusted, adapters, {*TAKE_WORDS}
        self.run, self.stops, self.load, self.write = run, stops, load, write
        self.corpus = corpus_of(run, patience=0.0)
        self.original = self.sampling = sampling
        self.text = ""
        self.turns: list[Turn] = []
        self.commands: dict[str, Callable[[str], None]] = {
            "/add": self._add,
            "/retry": self._retry,
            "/undo": self._undo,
            "/why": self._why,
            "/save": self._save,
            "/load": self._load,
            "/adapters": lambda _: self.write(self.adapters.listing(self.run)),
            "/adapter": self._adapter,
            "/reset": self._reset,
            "/help": lambda _: self.write(HELP + "\n"),
            "/quit": self._quit,
            "/exit": self._quit,
        }

    @property
    def prompt(self) -> str:
        """Say what stands before a line to be typed: the settings, those that change nothing left out."""
        sampling = self.sampling
        parts = [f"temperature {sampling.temperature:g}", f"top-k {sampling.top_k}"]
        parts += [f"top-p {sampling.top_p:g}"] if sampling.top_p < 1 else []
        parts += [f"min-p {sampling.min_p:g}"] if sampling.min_p > 0 else []
        parts += [f"penalty {sampling.repetition_penalty:g}"] if sampling.repetition_penalty != 1 else []
        parts += [f"seed {sampling.seed}"] if sampling.seed is not None else []
        return f"[{', '.join(parts)}, {sampling.max_tokens} tokens] > "

    def answer(self, line: str) -> None:
        """Obey a command, or continue a text, which several lines are as they stand: what is pasted is no command.

        Raises InputError for a command that cannot be obeyed, and EOFError to leave.
        """
        if "\n" in line or not line.startswith("/") or line.startswith("//"):
            line = line if "\n" in line else line.removeprefix("/")
            self._take(line)
            return
        command, _, argument = line.partition(" ")
        if command in SETTINGS:
            self._set(command, argument.strip())
        elif command in self.commands:
            if argument.strip() and command not in self.takes_more:
                raise InputError(f"{command} takes nothing after it")
            if command in OUTSIDE and not self.trusted:
                raise InputError(
                    f"{command} {OUTSIDE[command]}, and is off where lines do not come from a terminal: "
                    "--allow-commands allows it"
                )
            self.commands[command](argument if command == "/add" else argument.strip())
        else:
            raise InputError(f"unknown command {command!r}; {self._nearest(command)}")

    def _nearest(self, command: str) -> str:
        """Suggest a command whose name is like this one: the / that all begin with makes none alike."""
        if command.lower() in CALLED:
            return f"did you mean {CALLED[command.lower()]!r}?"
        names = [name.removeprefix("/") for name in [*SETTINGS, *self.commands]]
        near = get_close_matches(command.removeprefix("/").lower(), names, n=1)
        return f"did you mean '/{near[0]}'?" if near else "/help lists all; a text that begins with / takes two"

    def _set(self, command: str, argument: str) -> None:
        name, parse = SETTINGS[command]
        try:
            value = parse(argument)
        except ValueError:
            raise InputError(
                f"{command} takes one number, such as: {command} {getattr(SamplingConfig(seed=3), name)}"
            ) from None
        self.sampling = dataclasses.replace(self.sampling, **{name: value})
        self.write(f"{name} is {value}\n")

    def _take(self, line: str) -> None:
        """Take what was typed and is no command."""
        self._go_on(self.turns, Turn(self.text, line or self.text), shown=line)

    def _go_on(self, before: Sequence[Turn], turn: Turn, shown: str) -> None:
        """Continue the text of a turn behind others, after showing the end of it that is new to the reader."""
        run = self.run
        opening_ids(run.tokenizer, turn.begun)  # what cannot be encoded changes nothing
        ends = run.answer_ends if run.tokenizer.added else ()
        engine = TextEngine(run.model, run.tokenizer, max_batch=1, ends=ends, corpus=self.corpus)
        continued = engine.complete([turn.begun], self.sampling, stops=self.stops, top_logprobs=ALTERNATIVES)
        self.text, self.turns = turn.begun, [*before, turn]
        self.write(shown)
        try:
            for _, text, result in continued:
                self.turns[-1] = dataclasses.replace(turn, last=result.tokens[-1] if result.tokens else None)
                self.text += text
                self.write(text)
        finally:
            self.write("\n")
            self._next_seed()
        note_blank(self.text.removeprefix(turn.begun))

    def _next_seed(self) -> None:
        """Let the next continuation draw other numbers, but repeatable ones."""
        if self.sampling.seed is not None:
            self.sampling = dataclasses.replace(self.sampling, seed=(self.sampling.seed + 1) % 2**63)

    def _add(self, words: str) -> None:
        if not words.strip():
            raise InputError("/add takes the words to add, as they stand behind its space: /add and then")
        self._go_on(self.turns, Turn(self.text, self.text + words), shown=words)

    def _quit(self, _: str) -> None:
        raise EOFError

    def _retry(self, _: str) -> None:
        turn = self._last_turn("/retry")
        text, turns = self.text, self.turns
        try:
            self._go_on(turns[:-1], dataclasses.replace(turn, last=None), shown=turn.begun)
        except BaseException:  # such as Ctrl-C before the first token
            if self.text == turn.begun:
                self.text, self.turns = text, turns
            raise

    def _undo(self, _: str) -> None:
        self.text = self._last_turn("/undo").before
        self.turns.pop()
        self.write(f"back to: {self.text}\n" if self.text else "back to the beginning\n")

    def _why(self, _: str) -> None:
        last = self._last_turn("/why").last
        if last is None:
            raise InputError("/why: the last continuation has no token")
        rows = [(other.id, other.text, other.logprob) for other in last.top_logprobs]
        if last.logprob is not None and last.id not in {id for id, _, _ in rows}:
            rows.append((last.id, last.text, last.logprob))
        width = max(len(repr(text)) for _, text, _ in rows)
        for id, text, logarithm in rows:
            probability = math.exp(logarithm)
            chosen = "  <- this one" if id == last.id else ""
            self.write(f"{text!r:>{width}} {probability:7.2%} {'#' * round(BAR_WIDTH * probability)}{chosen}\n")

    def _save(self, argument: str) -> None:
        if not argument:
            raise InputError("/save takes the name of a new file, such as: /save story.txt")
        if not (text := self._saved_text()):
            raise InputError("/save: there is no text yet; continue one first")
        try:
            path = Path(argument).expanduser()
            with open(path, "x", encoding="utf-8", newline="") as file:
                file.write(text)
        except FileExistsError:
            raise InputError(f"/save {argument}: is there already, and stays as it is; choose another name") from None
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: nobody knows that home
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"/save {argument}: cannot be written ({reason}); choose another name") from None
        self.write(f"{path}: {len(text):,} characters\n")

    def _saved_text(self) -> str:
        """Give what /save writes."""
        return self.text

    def _load(self, argument: str) -> None:
        if not argument:
            raise InputError("/load takes a run directory, such as: /load runs/python-nano")
        self._replace_run(f"/load {argument}", lambda: self.load(argument))

    def _adapter(self, name: str) -> None:
        self._replace_run(f"/adapter {name}", lambda: self.adapters.put(self.run, name))

    def _replace_run(self, line: str, get: Callable[[], LoadedRun]) -> None:
        """Go on with another model. Raises OutOfMemory, and keeps the present one, if there is no room for both."""
        try:
            run = get()
            _ = run.tokenizer  # which is read only now: without one, the present model stays
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"{line}: out of memory beside the present model, which stays") from None
        self.run, self.corpus = run, corpus_of(run, patience=0.0)
        self.write(f"{self.run.source}\n")

    def _reset(self, _: str) -> None:
        self.text, self.sampling = "", self.original
        self.turns.clear()
        self.write("text forgotten; settings as on the command line\n")

    def _last_turn(self, command: str) -> Turn:
        if not self.turns:
            raise InputError(f"{command}: nothing was continued yet")
        return self.turns[-1]
