"""A chat template in Jinja, as transformers has them: what it writes, what of that is learned, and what ends an answer.

1. It is given `messages` (role and content), `add_generation_prompt`, `bos_token` (empty: we have none), `eos_token`
   (end-of-text), and `tools` and `documents`, which are None, in the sandbox that transformers uses, with its
   `{% generation %}` and `raise_exception`. Who calls its `strftime_now` is refused.
2. What it writes as <|name|> are special tokens. The same letters in a content stay letters: another one stands
   for their <| while the template is at work.
3. Learned is what a `{% generation %}` block encloses. Without one it is what stands behind the prompt of each answer,
   up to the special token that ends it, or else as with `plain`. So the prompt must be a beginning of the whole.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

from gpt.errors import InputError
from gpt.text.added import Marked, Spans
from gpt.text.chat_template import ASSISTANT, ROLES, Message, Rendered
from gpt.text.jinja_sandbox import compiled
from gpt.text.tokenizer import END_OF_TEXT

TOKEN = re.compile(r"<\|[^\s<>|'\"]+\|>")
LAST_CODE_POINT = 0x10FFFD  # of private use; stand-ins are taken from here downwards
PROBES = "4f1c", "9b07", "d2a8"  # contents that are found again in what is written


class JinjaTemplate:
    """A template in Jinja (see `ChatTemplate`)."""

    def __init__(self, source: str) -> None:
        """Try it on a short conversation. Raises InputError if nothing can be learned from what it writes."""
        self.source = source
        self._environment, self._template = compiled(source)
        self._known: frozenset[str] | None = None
        with self._environment.within_bounds():
            self._try()

    def _try(self) -> None:
        asked, answered, again = (Message(*pair) for pair in zip(("user", ASSISTANT, "user"), PROBES, strict=True))
        talk = [asked, answered, again]
        written = [self.source, self._write(talk, prompts=True)[0]]
        with suppress(InputError):  # some templates know no system text
            written.append(self._write([Message("system", PROBES[-1]), *talk], prompts=True)[0])
        found = chain.from_iterable(map(TOKEN.findall, written))
        self.tokens = tuple(dict.fromkeys(token for token in found if token != END_OF_TEXT))
        self._known = frozenset([*self.tokens, END_OF_TEXT])
        self.ends, self.heads = self._end(asked, answered), {}
        if not self.ends:
            self.heads = {role: self._head(asked, answered, role) for role in ROLES if role != ASSISTANT}
            self.ends = tuple(dict.fromkeys(chain.from_iterable(TOKEN.findall(h)[:1] for h in self.heads.values())))
        self.stops = tuple(dict.fromkeys(head for head in self.heads.values() if head and not TOKEN.search(head)))
        self.render([asked, answered, again, answered])

    def render(self, messages: Sequence[Message]) -> Rendered:
        text, specials, blocks = self._write(messages)
        if specials and text.endswith(END_OF_TEXT) and specials[-1][1] == len(text):  # which every document has
            text, specials = text[: -len(END_OF_TEXT)], specials[:-1]
        if any(text[start:stop] == END_OF_TEXT for start, stop in specials):
            raise InputError(
                f"it writes {END_OF_TEXT} within a conversation, which stands between conversations; let it end a turn "
                "by a token of its own, such as <|im_end|>"
            )
        learned = list[tuple[int, int]]()
        for number, message in enumerate(messages):
            if message.role == ASSISTANT:
                prompt = self.prompt(messages[:number])
                if not text.startswith(prompt):
                    raise InputError(
                        f"the prompt of message {number + 1}, an answer, is no beginning of what the template writes "
                        "of the whole conversation, so that it would be learned otherwise than it is asked for"
                    )
                learned.append((len(prompt), self._stop(messages, number, text, specials, len(prompt))))
        if blocks and learned and blocks[0][0] < learned[0][0]:
            raise InputError("a {% generation %} block of it begins within the prompt")
        for number, message in enumerate(messages, 1):
            if message.content.strip() not in text:  # nor could special tokens be told from what somebody has typed
                raise InputError(f"what is said in message {number} is left out or changed, and must stand in the text")
        return Rendered(text, self._ending(blocks, text, messages) if blocks else tuple(learned), specials)

    def prompt(self, messages: Sequence[Message]) -> Marked:
        text, specials, _ = self._write(messages, prompts=True)
        return Marked(text, specials)

    # ---- where an answer ends ----

    def _end(self, asked: Message, answered: Message) -> tuple[str, ...]:
        """Find the special token that ends an answer, also the last one."""
        text, specials, _ = self._write([asked, answered])
        behind = text.find(answered.content) + len(answered.content)
        after = [text[start:stop] for start, stop in specials if start >= behind]
        return tuple(after[:1]) if after and after[0] != END_OF_TEXT else ()

    def _head(self, asked: Message, answered: Message, role: str) -> str:
        """Find what stands between an answer and the content of a turn behind it; '' where that cannot be."""
        try:
            text = self._write([asked, answered, Message(role, PROBES[2])])[0]
        except InputError:
            return ""
        begin, end = text.find(answered.content) + len(answered.content), text.rfind(PROBES[2])
        return text[begin:end].rstrip() if begin < end else ""

    def _stop(self, messages: Sequence[Message], number: int, text: str, specials: Spans, begin: int) -> int:
        """Tell behind which character an answer ends that begins there, what ends it included."""
        for start, stop in specials:
            if self.ends and not self.heads and start >= begin and text[start:stop] == self.ends[0]:
                return stop
        if number == len(messages) - 1:
            return len(text) + 1
        so_far = self._write(messages[: number + 1])[0].removesuffix(END_OF_TEXT).rstrip()
        if not text.startswith(so_far) or len(so_far) < begin:
            raise InputError(f"what it writes up to message {number + 1}, an answer, is no beginning of the whole")
        head = self.heads.get(messages[number + 1].role, "")
        return len(so_far) + (len(head) if text.startswith(head, len(so_far)) else 0)

    def _ending(self, blocks: Spans, text: str, messages: Sequence[Message]) -> Spans:
        """Add end-of-text to what blocks enclose, where nothing else ends the last answer."""
        at_end = messages[-1].role == ASSISTANT and blocks[-1][1] >= len(text.rstrip())
        last = len(text) + 1 if at_end and (not self.ends or self.heads) else min(blocks[-1][1], len(text))
        return (*blocks[:-1], (blocks[-1][0], last))

    # ---- writing ----

    def _write(self, messages: Sequence[Message], prompts: bool = False) -> tuple[str, Spans, Spans]:
        """Write messages: the text, its special tokens, and what `{% generation %}` blocks enclose."""
        given = "".join([self.source, *(message.content for message in messages)])
        unused = _unused(set(given))
        opening, marks = next(unused), (next(unused), next(unused))
        content = [{"role": role, "content": said.replace("<|", opening)} for role, said in messages]
        try:
            with self._environment.within_bounds(len(given), marks):
                text = self._template.render(
                    messages=content,
                    tools=None,
                    documents=None,
                    add_generation_prompt=prompts,
                    bos_token="",
                    eos_token=END_OF_TEXT,
                )
        except Exception as error:  # whatever a template does
            raise InputError(f"the chat template cannot write this conversation: {error}") from None
        return _told_apart(text, opening, marks, self._known)


def _unused(known: set[str]) -> Iterator[str]:
    """Yield characters that nobody uses here."""
    return (chr(code) for code in range(LAST_CODE_POINT, 0x100000, -1) if chr(code) not in known)


def _told_apart(
    text: str, opening: str, marks: tuple[str, str], known: frozenset[str] | None
) -> tuple[str, Spans, Spans]:
    """Put <| back for which `opening` stood, and tell where special tokens and marked blocks are.

    Raises InputError for a special token that is not known: letters they would be, and tokens in transformers.
    """
    parts, size, specials, blocks, begin, place = list[str](), 0, [], [], 0, 0
    for match in re.finditer(f"{TOKEN.pattern}|[{opening}{''.join(marks)}]", text):
        parts.append(text[place : match.start()])
        size, place = size + match.start() - place, match.end()
        if match[0] in marks:
            begin = size if match[0] == marks[0] else begin
            blocks += [(begin, size)] if match[0] == marks[1] and begin < size else []
            continue
        parts.append("<|" if match[0] == opening else match[0])
        specials += [] if match[0] == opening else [(size, size + len(match[0]))]
        if match[0] != opening and known is not None and match[0] not in known:
            raise InputError(f"it writes the special token {match[0]} here, and did not when it was tried")
        size += len(parts[-1])
    return "".join([*parts, text[place:]]), tuple(specials), tuple(blocks)
