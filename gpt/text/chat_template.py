"""A conversation as text: what a chat template writes of it, which of that is learned, and where an answer ends.

A template is `plain`, `chatml`, or a file in Jinja, as transformers has them (see jinja_template.py). `plain` needs no
special token. Before each turn stands a line that says whose it is:

    ### System:
    Answer in one sentence.
    ### User:
    Why is the sky blue?
    ### Assistant:
    Air scatters blue light more than red.

1. Blanks around a content are left out. So a turn begins and ends with a letter, where every tokenizer of ours ends a
   token: ids of the parts, one after the other, are the ids of the whole.
2. A model learns its answers, and what ends each: end-of-text at the end of the conversation, before it the line of
   whoever is next. Sampling stops at either, if it is given that line as a stop text.
3. Nothing is escaped: a content may have such lines, which are text like any other.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gpt.text.added import Marked, Spans

ASSISTANT = "assistant"
ROLES = {"system": "### System:", "user": "### User:", ASSISTANT: "### Assistant:"}
PLAIN, CHATML = "plain", "chatml"
FILE = "chat_template.jinja"  # of a run, as transformers calls it
PLAIN_SOURCE = (
    "{% for message in messages %}{{ ('' if loop.first else '\\n') + '### ' + message['role'] | capitalize + ':\\n' + "
    "message['content'] | trim }}{% endfor %}{% if add_generation_prompt %}{{ '\\n### Assistant:\\n' }}{% endif %}"
)
CHATML_SOURCE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Message(NamedTuple):
    """A turn of a conversation; the role is one of `ROLES`."""

    role: str
    content: str


def render(messages: Sequence[Message]) -> tuple[str, Spans]:
    """Write a conversation; also give which characters are learned. The one behind the last stands for end-of-text."""
    parts, spans, size = list[str](), list[tuple[int, int]](), 0
    for number, (role, content) in enumerate(messages):
        head = f"\n{ROLES[role]}" if number else ROLES[role]
        size += len(head)
        if number and messages[number - 1].role == ASSISTANT:
            spans[-1] = spans[-1][0], size
        said = content.strip()
        parts += [head, "\n", said]
        size += 1 + len(said)
        if role == ASSISTANT:
            spans.append((size - len(said), size + 1))
    return "".join(parts), tuple(spans)


def prompt(messages: Sequence[Message]) -> str:
    """Write a conversation up to where the assistant is to go on, as sampling is given it."""
    return render([*messages, Message(ASSISTANT, "")])[0]


class Rendered(NamedTuple):
    """What a template writes of a conversation that is learned from."""

    text: str
    learned: Spans
    """Which characters are learned; the one behind the last stands for end-of-text."""
    specials: Spans = ()
    """Which characters are special tokens."""


class ChatTemplate(Protocol):
    """How conversations are written; `source` says so in Jinja."""

    source: str
    tokens: tuple[str, ...]
    """The special tokens that it writes, beside end-of-text."""
    ends: tuple[str, ...]
    """Those that end an answer: a model learns to write them, and no other."""
    stops: tuple[str, ...]
    """Texts that end an answer."""

    def render(self, messages: Sequence[Message]) -> Rendered:
        """Write a conversation. Raises InputError if the template cannot, or if what is learned cannot be found."""

    def prompt(self, messages: Sequence[Message]) -> Marked:
        """Write a conversation up to where the assistant is to go on. Raises InputError if the template cannot."""


class Plain:
    """The template `plain`."""

    source = PLAIN_SOURCE
    tokens: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    stops: tuple[str, ...] = tuple(f"\n{line}" for line in ROLES.values())

    def render(self, messages: Sequence[Message]) -> Rendered:
        return Rendered(*render(messages))

    def prompt(self, messages: Sequence[Message]) -> Marked:
        return Marked(prompt(messages))
