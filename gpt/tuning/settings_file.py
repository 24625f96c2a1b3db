"""What a tuning leaves: a preset as TOML, which `config` takes, and a journal of all trainings beside it."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt.config import TrainConfig
from gpt.config_io import differences
from gpt.errors import InputError
from gpt.files import write_whole
from gpt.presets import preset
from gpt.terminal import one_line

LEFT_OUT = ("preset", "data", "steps", "run_dir", "device", "model.vocab_size")  # the first three come first

WIDTH = 110  # of comments


def require_place(out: Path, replace: bool) -> None:
    """Raise InputError where a tuning must not, or cannot, write its preset."""
    if out.suffix != ".toml":
        raise InputError(f"`out` {out}: is to be a TOML file: call it {out.with_suffix('.toml')}")
    if not out.parent.is_dir():
        raise InputError(f"`out` {out}: {out.parent} is no directory; make it, or choose another place")
    for path in (out, journal_of(out)):
        if path.is_dir():
            raise InputError(f"`out` {out}: {path} is a directory; choose another name")
        if path.exists() and not replace:
            raise InputError(f"`out` {out}: {path} is there already; choose another name, or give `replace`")


def journal_of(out: Path) -> Path:
    """Name the journal beside a preset."""
    return out.with_suffix(".jsonl")


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """List the settings of a preset's file: what differs from the preset that it names, by whole names."""
    known = preset(config.preset)
    changed = {name: value for name, _, value in differences(known, config) if name not in LEFT_OUT}
    return {"preset": config.preset, "data": config.data, "steps": config.steps} | changed


def toml(settings: dict[str, Any], comments: Sequence[str]) -> str:
    """Write settings by whole names, such as 'model.n_embd', as TOML below some sentences of comment."""
    wrapper = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)  # paths stay in one piece
    lines = [f"# {line}" for comment in comments for line in wrapper.wrap(one_line(comment))]
    lines += [f"{name} = {_value(value)}" for name, value in settings.items() if "." not in name]
    tables = dict.fromkeys(name.partition(".")[0] for name in settings if "." in name)
    for table in tables:
        lines += ["", f"[{table}]"]
        named = {name.partition(".")[2]: value for name, value in settings.items() if name.startswith(f"{table}.")}
        lines += [f"{name} = {_value(value)}" for name, value in named.items()]
    return "\n".join([*lines, ""])


def _value(value: Any) -> str:
    """Write a value as TOML, whose texts, numbers, truth values and lists of texts are those of JSON."""
    assert value is not None, "no file of settings can hold it"
    text = str(value) if isinstance(value, Path) else value
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_settings(out: Path, config: TrainConfig, comments: Sequence[str]) -> None:
    """Write a preset's file. Raises OSError; then one that was there is as it was."""
    write_whole(out, toml(settings_of(config), comments))


class Journal:
    """Lines that others can read as soon as they are written."""

    def __init__(self, path: Path) -> None:
        """Begin it anew. Raises OSError if that cannot be."""
        self.path = path
        self._file = open(path, "w", encoding="utf-8")

    def write(self, line: str) -> None:
        print(line, file=self._file, flush=True)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
