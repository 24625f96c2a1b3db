"""The rows of the tasks that are built in: what a model reads of each, and what it chooses from or predicts.

Prompts are those of lm-evaluation-harness (releases 0.4.x), letter by letter, so that figures compare: `hellaswag`,
`lambada_openai`, `arc_easy`, `piqa` and `blimp`, each in the version 1.0 that its file there names.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A question with choices, or a text with its continuation, which is then the only choice."""

    context: str
    choices: tuple[str, ...]
    label: int = 0
    """Which choice is right."""
    delimiter: str = " "
    """What stands between the context and a choice."""
    group: str = ""
    """What rows that are alike have in common; they are no independent questions."""

    @property
    def chooses(self) -> bool:
        return len(self.choices) > 1

    @property
    def endings(self) -> tuple[str, ...]:
        """Give what is scored after the context, one for each choice."""
        return tuple(self.delimiter + choice for choice in self.choices)


@dataclass(frozen=True)
class Kind:
    """How the rows of a task are read."""

    name: str
    read: Callable[[dict[str, Any]], Row]
    """Makes a row of a record's fields. Raises ValueError, which says what is wrong with them."""
    protocol: str
    prompt: str
    """In words."""
    rows: int | None = None
    """How many there are in the split that is published and graded."""
    shot_delimiter: str | None = None
    """What stands between context and answer of an example; by default what stands there in a question."""
    draws_one_more: bool = False
    """Whether examples of another file are drawn as the harness does where there is no test split: one more each time,
    which is left out."""


# ---- fields of records ----


def _text(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise ValueError(f"it has no field {name!r}; its own are: {', '.join(map(str, fields)) or 'none'}")
    if not isinstance(fields[name], str):
        raise ValueError(f"its field {name!r} is no text")
    return fields[name]


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(one, str) and one for one in value):
        raise ValueError(f"its field {name!r} must be a list of at least two texts, none of them empty")
    return tuple(value)


def _label(fields: dict[str, Any], choices: tuple[str, ...]) -> int:
    """Read which choice is right, counted from 0; some files have the number as text."""
    value = fields.get("label")
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value in ("", None):
        raise ValueError("it has no 'label'; those of test splits are mostly secret: take the validation split")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(choices):
        raise ValueError(f"its 'label' is {value!r}; it must be a number from 0 to {len(choices) - 1}")
    return value


# ---- one function a task ----


def _hellaswag(fields: dict[str, Any]) -> Row:
    activity, first, second = (_text(fields, name) for name in ("activity_label", "ctx_a", "ctx_b"))
    choices = tuple(map(_cleaned, _texts(fields.get("endings"), "endings")))
    return Row(_cleaned(f"{activity}: {first} {second.capitalize()}"), choices, _label(fields, choices))


def _cleaned(text: str) -> str:
    """Take out what is left of WikiHow's markup."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _lambada(fields: dict[str, Any]) -> Row:
    context, _, word = _text(fields, "text").rpartition(" ")
    if not word:
        raise ValueError("its field 'text' ends without a word")
    return Row(context, (f" {word}",), delimiter="")


def _arc(fields: dict[str, Any]) -> Row:
    """As on the hub, or as the authors published it, where the question holds the choices."""
    question, asked = fields.get("question"), fields
    if isinstance(question, dict):
        asked, question = question, question.get("stem")
    if not isinstance(question, str):
        raise ValueError("it has no field 'question' that is a text, or holds one as 'stem'")
    given = asked.get("choices")
    if isinstance(given, list) and all(isinstance(one, dict) for one in given):
        given = {name: [one.get(name) for one in given] for name in ("text", "label")}
    if not isinstance(given, dict):
        raise ValueError("it has no 'choices' with their 'text' and 'label'")
    choices, labels = _texts(given.get("text"), "choices"), given.get("label")
    answer = _text(fields, "answerKey")
    if not isinstance(labels, list) or len(labels) != len(choices) or answer not in labels:
        raise ValueError(f"its 'answerKey' {answer!r} is not among the labels of its choices")
    return Row(f"Question: {question}\nAnswer:", choices, labels.index(answer))


def _piqa(fields: dict[str, Any]) -> Row:
    choices = _texts([_text(fields, "sol1"), _text(fields, "sol2")], "sol1 and sol2")
    return Row(f"Question: {_text(fields, 'goal')}\nAnswer:", choices, _label(fields, choices))


def _blimp(fields: dict[str, Any]) -> Row:
    names = ("sentence_good", "sentence_bad")
    choices = _texts([_text(fields, name) for name in names], " and ".join(names))
    return Row("", choices, 0, group=_text(fields, "UID"))


def _own(fields: dict[str, Any]) -> Row:
    context = _text(fields, "context")
    if ("choices" in fields) == ("continuation" in fields):
        raise ValueError("it must have either 'choices' and 'label', or a 'continuation'")
    if "continuation" in fields:
        if not (continuation := _text(fields, "continuation")):
            raise ValueError("its 'continuation' is empty")
        return Row(context, (continuation,), delimiter="")
    choices = _texts(fields["choices"], "choices")
    delimiter = _text(fields, "delimiter") if "delimiter" in fields else None
    if delimiter is None:  # a space, unless one is there
        delimiter = "" if context[-1:].isspace() or all(choice[0].isspace() for choice in choices) else " "
    return Row(context, choices, _label(fields, choices), delimiter)


QUESTION = "'Question: …', 'Answer:' on the next line, and a choice after a space"
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "hellaswag",
            _hellaswag,
            "lm-eval hellaswag 1.0",
            "'activity: ctx_a ctx_b', cleaned, and an ending after a space",
            10_042,
            draws_one_more=True,
        ),
        Kind(
            "lambada",
            _lambada,
            "lm-eval lambada_openai 1.0",
            "the text up to its last space; the whole last word is predicted, right if greedy decoding writes it",
            5_153,
            shot_delimiter=" ",  # a second space, for the word has one: so does the harness
        ),
        Kind("arc-easy", _arc, "lm-eval arc_easy 1.0", QUESTION, 2_376),
        Kind("piqa", _piqa, "lm-eval piqa 1.0", QUESTION, 1_838, draws_one_more=True),
        Kind("blimp", _blimp, "lm-eval blimp 1.0", "each sentence after end-of-text and a space", 67_000),
    )
}
OWN = Kind(
    "rows",
    _own,
    "rows of a file",
    "the context, and a choice after a space unless there is one, or the continuation as it stands",
)
