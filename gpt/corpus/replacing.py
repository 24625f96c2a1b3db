"""The dataset that stands where another one is to be written: whether that may replace it.

The same recipe and settings may, and so may more text: inputs that were there, and others beside them. What is another
dataset takes its place only if that is asked for, since runs may have been trained on it.
"""

import json
import os
from pathlib import Path
from typing import Any

from gpt.corpus.vocabulary import AUTO
from gpt.errors import InputError

NO_SETTINGS = (
    "sample_prompt",
    "sample_specials",
    "faulty",
)  # found by the recipe itself; of lines that are not in the dataset


def require_replaceable(out: Path, was: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise InputError where the recipe that is asked for makes another dataset than that which is recorded."""
    if was.get("name") != asked.get("name"):
        raise InputError(
            f"{out}: was written by the recipe {was.get('name')!r}, and this is {asked.get('name')!r}; choose another "
            "place, or replace it by `replace`"
        )
    if found := differences(was, asked):
        elsewhere = "name" if "input" in asked else "out"
        raise InputError(
            f"{out}: was prepared otherwise: {'; '.join(found)}; choose another `{elsewhere}`, or replace it by "
            "`replace`. Nothing was changed"
        )


def differences(was: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Say in what two recipes of one name differ, but for text that is added."""
    asked = json.loads(json.dumps(asked, default=str))
    found = []
    for name, value in asked.items():
        before = was.get(name, value)  # an older version did not record it
        grows = name == "files" and isinstance(before, int) and isinstance(value, int) and value >= before
        if name in NO_SETTINGS or before == value or grows or (name == "tokenizer" and value == AUTO):
            continue
        if name == "input" and isinstance(before, list):
            given = {os.path.abspath(path) for path in value}  # noqa: PTH100  # links stay what they are
            missing = [path for path in before if os.path.abspath(path) not in given]  # noqa: PTH100
            if missing:
                found.append(f"`input` had {', '.join(missing)} too, which is not given now")
            continue
        found.append(f"`{name}` was {_words(before)}, and is {_words(value)} now")
    return found


def _words(value: Any) -> str:
    return (
        "not given" if value in (None, [], "") else ", ".join(map(str, value if isinstance(value, list) else [value]))
    )
