"""Examples of prompts and answers: from a record of JSON Lines to a text, and which part of it is to be learned.

    {"prompt": "2 + 2 = ", "completion": "4"}                                    taken letter for letter
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
    {"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"}    a question and an answer (Alpaca)
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}    messages (ShareGPT)

The last three become text by a chat template (see gpt/text/chat_template.py). Other fields are passed over.
"""

from collections.abc import Iterator
from typing import Any

from gpt.corpus.documents import Document, ReadOptions, Skipped
from gpt.corpus.readers.records import MAX_FIELDS, Record, spelled
from gpt.text.chat_template import ASSISTANT, ROLES, ChatTemplate, Message, Plain, Rendered
from gpt.text.templates import template_of

FORMS = {
    "prompt": ("prompt", "completion"),
    "messages": ("messages",),
    "instruction": ("instruction", "output"),
    "conversations": ("conversations",),
}
SHAREGPT = {"human": "user", "gpt": ASSISTANT} | {role: role for role in ROLES}
PLAIN = Plain()
TYPES = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def examples_of(records: Iterator[Record], name: str, how: ReadOptions) -> Iterator[Document | Skipped]:
    """Yield the examples of a file of records, and what is none, with the reason."""
    record, template = None, template_of(how.template)
    for record in records:
        try:
            if record.fault:
                raise ValueError(record.fault)
            text, learned, specials = example_of(record.value, template)
        except ValueError as fault:
            yield Skipped(record.name, str(fault))
        else:
            yield spelled(Document(record.name, text, record.note, learned, specials), how)
    if record is None and how.range is None:
        yield Skipped(name, "has no line of JSON")


def example_of(value: Any, template: ChatTemplate = PLAIN) -> Rendered:
    """Return the text of an example, which characters are learned, and which are special tokens.

    Raises ValueError, which says why, for what is none, or teaches nothing.
    """
    if not isinstance(value, dict):
        listed = "; of a JSON array, this makes lines: jq -c '.[]' FILE" if isinstance(value, list) else ""
        raise ValueError(f"is {_type(value)}, and an example is an object{listed}")
    forms = [form for form, fields in FORMS.items() if any(field in value for field in fields)]
    if not forms:
        known = ", or ".join(" and ".join(fields) for fields in FORMS.values())
        there = ", ".join(map(str, [*value][:MAX_FIELDS])) or "none"
        raise ValueError(f"has none of the fields of an example ({known}); its fields are: {there}")
    if len(forms) > 1:
        raise ValueError(f"has fields of several forms ({', '.join(forms)}); leave one of them in it")
    if forms == ["prompt"]:
        return _completion(_text(value, "prompt"), _text(value, "completion"))
    if forms == ["instruction"]:
        given = _text(value, "input") if value.get("input") is not None else ""
        asked = "\n\n".join(part for part in (_text(value, "instruction"), given) if part.strip())
        return _conversation([Message("user", asked), Message(ASSISTANT, _text(value, "output"))], template)
    if forms == ["messages"]:
        own = _messages(value["messages"], ("role", "content"), {role: role for role in ROLES})
        return _conversation(own, template)
    return _conversation(_messages(value["conversations"], ("from", "value"), SHAREGPT), template)


def _completion(prompt: str, completion: str) -> Rendered:
    if not completion.strip():
        raise ValueError("its completion is empty: there is nothing to learn")
    text = prompt + completion
    return Rendered(text, ((len(prompt), len(text) + 1),))


def _conversation(messages: list[Message], template: ChatTemplate) -> Rendered:
    """Write a conversation. Raises ValueError where an answer is missing or empty, or follows another one."""
    answers = [number for number, message in enumerate(messages, 1) if message.role == ASSISTANT]
    if not answers:
        raise ValueError("has no answer (of the assistant): there is nothing to learn")
    for number in answers:
        if not messages[number - 1].content.strip():
            raise ValueError(f"its message {number}, an answer, is empty: there is nothing to learn")
        if number - 1 in answers:
            raise ValueError(f"its messages {number - 1} and {number} are both answers; make one of them")
    return template.render(messages)


def _messages(value: Any, fields: tuple[str, str], roles: dict[str, str]) -> list[Message]:
    """Return the messages of a conversation: `fields` say whose each is, by the names of `roles`, and what is said.

    Raises ValueError if it is none.
    """
    if not isinstance(value, list):
        raise ValueError(f"its conversation is {_type(value)}, and must be a list of messages")
    found = []
    for number, message in enumerate(value, 1):
        which = f"its message {number}"
        if not isinstance(message, dict):
            raise ValueError(f"{which} is {_type(message)}, and must be an object")
        who, said = (_text(message, field, which) for field in fields)
        if who not in roles:
            raise ValueError(f"{which} has the role {who!r}; roles are {', '.join(roles)}")
        if others := [key for key in message if key not in fields]:
            raise ValueError(f"{which} has the field {others[0]!r}; it may have {' and '.join(fields)} alone")
        found.append(Message(roles[who], said))
    return found


def _text(value: dict[str, Any], field: str, which: str = "") -> str:
    if field not in value:
        raise ValueError(f"{which} has no field {field!r}".lstrip())
    if not isinstance(value[field], str):
        whose = f"the field {field!r} of {which}" if which else f"its field {field!r}"
        raise ValueError(f"{whose} is {_type(value[field])}, and must be a text")
    return value[field].replace("\r\n", "\n")


def _type(value: object) -> str:
    return TYPES.get(type(value), "a number")
