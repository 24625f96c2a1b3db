"""Chat templates by name, by their source in Jinja, and out of the directory of a run or a Hugging Face model."""

from functools import cache
from pathlib import Path

from gpt.errors import InputError
from gpt.files import read_json
from gpt.text.chat_template import CHATML, CHATML_SOURCE, FILE, PLAIN, PLAIN_SOURCE, ChatTemplate, Plain


@cache
def template_of(source: str) -> ChatTemplate:
    """Make the template that a source in Jinja is. Raises InputError if it is none that can be learned from."""
    if source == PLAIN_SOURCE:
        return Plain()
    from gpt.text.jinja_template import JinjaTemplate

    return JinjaTemplate(source)


def named_source(name: str) -> str:
    """Return the source of a template by its name, or that of a file. Raises InputError if there is none."""
    if name in (PLAIN, CHATML):
        return PLAIN_SOURCE if name == PLAIN else CHATML_SOURCE
    path = Path(name).expanduser()
    try:
        source = path.read_text(encoding="utf-8")
        template_of(source)
    except (OSError, ValueError, InputError) as error:
        reason = (getattr(error, "strerror", None) or error) if isinstance(error, OSError) else error
        raise InputError(f"`template` {name}: is neither plain nor chatml, and as a file: {reason}") from None
    return source


def _default(template: object) -> str | None:
    """Choose of several templates the one named default, as transformers does. Raises InputError if none is."""
    if not template:
        return None
    if isinstance(template, str):
        return template
    entries = [each for each in template if isinstance(each, dict)] if isinstance(template, list) else []
    sources = {each.get("name"): each.get("template") for each in entries}
    if isinstance(source := sources.get("default"), str):
        return source
    names = ", ".join(map(str, sources)) or repr(template)
    raise InputError(
        f"the chat_template of tokenizer_config.json is {names}, and none is named default: write the one to use "
        f"as {FILE}"
    )


def template_at(path: Path) -> ChatTemplate | None:
    """Load the template that lies in the directory of a run, or of a Hugging Face model; None where there is none.

    Raises InputError for one that cannot be used.
    """
    try:
        if (path / FILE).exists():
            return template_of((path / FILE).read_text(encoding="utf-8"))
        known = read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").exists() else {}
        source = _default(known.get("chat_template"))
        return template_of(source) if source is not None else None
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{path}: its chat template cannot be used: {error}") from None
