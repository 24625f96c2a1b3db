"""A conversation in the terminal: what is typed is answered, by the chat template that the run was trained with.

1. A line is a turn of the user. All turns so far become the prompt; the oldest are left out, whole, where the context
   would not hold them and an answer. The system text stays.
2. An answer ends where the model ends it: at end-of-text, a token of the template, or the line of whoever is next.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpt.apps.interact import answer_lines
from gpt.apps.line_editor import Notes, typed_by_hand
from gpt.apps.render import note_blank
from gpt.apps.repl import ALTERNATIVES, Load, Session, Turn
from gpt.errors import InputError
from gpt.generation.completion import Completion, TextEngine
from gpt.generation.sampling import SamplingConfig
from gpt.log import log
from gpt.runs.load import LoadedRun
from gpt.text.added import Marked
from gpt.text.chat_template import ASSISTANT, ChatTemplate, Message

if TYPE_CHECKING:
    from gpt.apps.adapters import Switch

HELP = """\
Type a text and the model answers it; several lines can be pasted. A text that begins with / is typed with two of them.
  /system TEXT              what the model is told before the conversation; without a text, there is none
  /retry                    another answer instead of the last one
  /undo                     back to before the last line and its answer
  /why                      what else the model would have written instead of the last token
  /save FILE                write the conversation into a new file, as a line that gpt prepare instruct reads;
                            answers that were cut or are empty are left out, with their questions
  /load RUN                 go on with another model
  /adapters                 the adapters of the model's base, and which of them is on it
  /adapter NAME             go on with another of them, or with none
  /temperature 0.7          randomness; 0 always takes the likeliest token; so /top-k, /top-p, /min-p,
                            /repetition-penalty, /max-tokens and /seed
  /reset                    forget the conversation, and go back to the settings of the command line
  /help                     this text
  /quit                     leave, as Ctrl-D and /exit do
Ctrl-C stops an answer, Ctrl-D leaves; arrow up brings back earlier lines, Tab completes commands."""

LEAST_ANSWER = 4  # of the context, at least its fourth is kept free for an answer, unless max_tokens is less,
LEAST_QUESTION = 8  # and its eighth for a question, where there is a system text


class Chat(Session):
    """A conversation and the settings; `answer` handles one line."""

    def __init__(
        self,
        run: LoadedRun,
        sampling: SamplingConfig,
        stops: tuple[str, ...],
        load: Load,
        write: Callable[[str], None],
        adapters: "Switch",
        trusted: bool = True,
        system: str = "",
        as_json: bool = False,
    ) -> None:
        """Begin a conversation. See `Session` for the rest.

        Raises InputError for a run without a chat template, and for a system text that leaves no room for a question.
        """
        super().__init__(run, sampling, stops, load, write, adapters, trusted)
        self.template = require_template(run)
        self._require_room(system)
        self.first_system = self.system = system
        self.as_json, self.trimmed = as_json, False
        self.print_json = write
        self.write = (lambda text: log.info(text.rstrip("\n"))) if as_json else write
        self.messages: list[Message] = []  # without the system text; a question, its answer, and so on
        del self.commands["/add"]
        self.commands |= {"/system": self._system, "/help": lambda _: self.write(HELP + "\n")}
        self.takes_more |= {"/system"}

    def _take(self, line: str) -> None:
        if not line.strip():
            raise InputError("type what the model is to answer, or /help")
        self._reply([*self.messages, Message("user", line)], self.turns)

    def _reply(self, messages: list[Message], before: Sequence[Turn]) -> None:
        """Answer the last of these messages, which comes behind turns; if that cannot be asked, nothing changes."""
        prompt, room = self._prompt(messages)
        sampling = dataclasses.replace(self.sampling, max_tokens=min(self.sampling.max_tokens, room))
        model, tokenizer, ends = self.run.model, self.run.tokenizer, self.template.ends
        engine = TextEngine(model, tokenizer, max_batch=1, ends=ends, corpus=self.corpus)
        stops = (*self.template.stops, *self.stops)
        turn, said, result = Turn("", messages[-1].content), "", None
        try:
            for _, text, result in engine.complete([prompt], sampling, stops=stops, top_logprobs=ALTERNATIVES):
                last, is_whole = result.tokens[-1] if result.tokens else None, result.finish_reason == "stop"
                turn = dataclasses.replace(turn, last=last, is_whole=is_whole)
                said += text
                if not self.as_json:
                    self.write(text)
        finally:
            self.messages, self.turns = [*messages, Message(ASSISTANT, said)], [*before, turn]
            if not self.as_json:
                self.write("\n")
            elif result is not None:
                self.print_json(self._as_json(said, result))
            self._next_seed()
        if not self.as_json:
            note_blank(said)
            if result is not None and result.finish_reason == "length":
                full = sampling.max_tokens == room
                log.info("cut: " + ("the context is full" if full else "/max-tokens allows more, /retry answers again"))

    def _as_json(self, said: str, result: Completion) -> str:
        """Write an answer as a line of JSON."""
        facts = {
            "question": self.turns[-1].begun,
            "answer": said,
            "finish_reason": result.finish_reason or "cancelled",
            "tokens": len(result.ids),
            "tokens_per_second": round(result.tokens_per_second, 1),
            "seed": result.request.seed,
            "run": self.run.source,
        }
        return json.dumps(facts, ensure_ascii=False) + "\n"

    def _prompt(self, messages: Sequence[Message]) -> tuple[Marked, int]:
        """Write the prompt, without the oldest turns where it is too long, and tell how many tokens an answer may have.

        Raises InputError where system text and newest turn alone are too long.
        """
        context, least, system = self.run.model.config.context_length, self._least, _system_turn(self.system)
        kept = [*messages]
        while True:
            prompt = self.template.prompt([*system, *kept])
            size = len(prompt.ids(self.run.tokenizer))
            if size + least - 1 <= context:  # the last token drawn is never read
                break
            if len(kept) < 3:
                beside = " with the system text" if system else ""
                raise InputError(
                    f"this has {size:,} tokens{beside}, and the model sees {context:,}, of which an answer needs "
                    f"{least:,}: say it in fewer words"
                )
            kept = kept[2:]
        if len(kept) < len(messages) and not self.trimmed:
            self.trimmed = True
            stays = "; the system text stays" if system else ""
            log.info(f"the context of {context:,} tokens is full: the oldest turns are no longer read{stays}")
        return prompt, context - size + 1

    @property
    def _least(self) -> int:
        """How many tokens are kept free for an answer."""
        return min(self.sampling.max_tokens, max(1, self.run.model.config.context_length // LEAST_ANSWER))

    def _require_room(self, system: str) -> None:
        """Raise InputError unless the template can write a system text, and it leaves room for a question."""
        prompt = self.template.prompt([*_system_turn(system), Message("user", "")])
        size, context = len(prompt.ids(self.run.tokenizer)), self.run.model.config.context_length
        if system.strip() and size + context // LEAST_QUESTION + self._least - 1 > context:
            raise InputError(
                f"`system`: has {size:,} tokens with what the template adds, and the model sees {context:,}, of which "
                f"an answer needs {self._least:,} and a question some: say it in fewer words"
            )

    # ---- commands ----

    def _system(self, argument: str) -> None:
        self._require_room(argument)
        self.system = argument
        self.write("the system text is set\n" if argument else "there is no system text\n")

    def _retry(self, _: str) -> None:
        self._last_turn("/retry")
        messages, turns = self.messages, self.turns
        try:
            self._reply(messages[:-1], turns[:-1])
        except BaseException:  # such as Ctrl-C before the first token
            if not self.messages[-1].content:
                self.messages, self.turns = messages, turns
            raise

    def _undo(self, _: str) -> None:
        self._last_turn("/undo")
        self.turns.pop()
        self.messages = self.messages[:-2]
        self.write(f"back to: {self.messages[-1].content}\n" if self.messages else "back to the beginning\n")

    def _saved_text(self) -> str:
        if not self.messages:
            return ""
        kept = list[Message]()
        for turn, question, answer in zip(self.turns, self.messages[::2], self.messages[1::2], strict=True):
            kept += [question, answer] if turn.is_whole and answer.content.strip() else []
        if not kept:
            raise InputError("/save: no answer is whole: all were cut or are empty; /retry answers again")
        if left_out := (len(self.messages) - len(kept)) // 2:
            log.info(f"answers that were cut or are empty are left out, with their questions: {left_out}")
        messages = [message._asdict() for message in [*_system_turn(self.system), *kept]]
        return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"

    def _replace_run(self, line: str, get: Callable[[], LoadedRun]) -> None:
        def conversing() -> LoadedRun:
            run = get()
            require_template(run)
            return run

        super()._replace_run(line, conversing)
        self.template = require_template(self.run)

    def _reset(self, _: str) -> None:
        self.messages, self.system, self.trimmed = [], self.first_system, False
        super()._reset("")


def _system_turn(text: str) -> list[Message]:
    return [Message("system", text)] if text.strip() else []


def require_template(run: LoadedRun) -> ChatTemplate:
    """Return the chat template of a run. Raises InputError, which says what to do, for a run without one."""
    if run.template is None:
        raise InputError(
            f"`chat`: {run.source} was not trained on conversations, and has no chat_template.jinja: prepare some by "
            "gpt prepare instruct and train on them from it (`init_from`), or continue a text without `chat`"
        )
    return run.template


def converse(
    run: LoadedRun,
    sampling: SamplingConfig,
    stops: tuple[str, ...],
    load: Load,
    adapters: "Switch",
    allow_commands: bool = False,
    system: str = "",
    as_json: bool = False,
) -> None:
    """Answer lines until they end: typed in a terminal, or out of a pipe; see `gpt.apps.interact`."""
    notes = Notes()
    trusted = allow_commands or typed_by_hand()
    session = Chat(run, sampling, stops, load, notes.write, adapters, trusted, system, as_json)
    welcome = f"{run.source}: type what it is to answer, /help for the commands, Ctrl-D to leave"
    if not as_json:
        notes.write(f"{welcome}\n")
    answer_lines(session, notes)
