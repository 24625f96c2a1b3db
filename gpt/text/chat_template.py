"""A conversation as text: before each turn a line that says whose it is.

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
from typing import NamedTuple

ASSISTANT = "assistant"
ROLES = {"system": "### System:", "user": "### User:", ASSISTANT: "### Assistant:"}
Spans = tuple[tuple[int, int], ...]  # (first, behind the last) characters


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
