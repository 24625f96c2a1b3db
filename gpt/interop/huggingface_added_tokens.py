"""What Hugging Face's files say of a tokenizer beside its vocabulary and merges: tokens that were added, and prefixes.

Today that is tokenizer.json, or added_tokens_decoder in tokenizer_config.json; older programs wrote
special_tokens_map.json and added_tokens.json.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt.errors import InputError
from gpt.files import read_json
from gpt.log import log

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # in the order in which transformers adds what is new

Added = dict[str, bool]  # tokens, and which of them are special


def with_added(path: Path, vocabulary: dict[str, Any], added: Added) -> dict[str, Any]:
    """Add to a tokenizer's vocabulary what other files have: with an id, or, in their order, with the next ones.

    This is transformers' way: added_tokens_decoder, and only without it special_tokens_map.json and added_tokens.json.
    Raises InputError for files that say something else than the vocabulary, or than transformers writes, and for added
    tokens that are words.
    """
    config, special_map, ids = (_settings(path / name) for name in (CONFIG, SPECIAL, ADDED))
    require_no_prefix_space(path / CONFIG, config)
    if config.get("add_bos_token") is True or config.get("add_eos_token") is True:
        say_begun(path / CONFIG, "add_bos_token or add_eos_token")
    try:
        if "added_tokens_decoder" in config:
            named = dict.fromkeys(_named(config), True)
            decoder = config["added_tokens_decoder"].items()
            ids = {token["content"]: int(id) for id, token in decoder}
            found = {token["content"]: token.get("special") is True for _, token in decoder}
        else:
            named = dict.fromkeys(_named(config | special_map), True)
            found = dict.fromkeys(ids, False)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its {CONFIG} or {SPECIAL} is not what transformers writes ({error!r})") from None
    whole = ids | vocabulary
    if wrong := next((token for token, id in ids.items() if id != whole[token]), None):
        raise InputError(
            f"{path}: its files give {wrong} the ids {ids[wrong]} and {whole[wrong]}; take the wrong one out"
        )
    for token in named:
        whole.setdefault(token, len(whole))
    known = [token for tokens in (found, added, named) for token, special in tokens.items() if special]
    _require_special(path, found | added | dict.fromkeys(known, True))
    return whole


def _settings(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _named(settings: dict[str, Any]) -> Iterator[str]:
    """Yield the special tokens that settings name by their role, such as pad_token, in transformers' order."""
    roles = [f"{role}_token" for role in ROLES]
    roles += [key for key in settings if key.endswith("_token") and key not in roles]
    more = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    for token in [*map(settings.get, roles), *(more.values() if isinstance(more, dict) else more)]:
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            yield content


def _require_special(path: Path, added: Added) -> None:
    """Raise InputError for an added token that is a word: transformers finds it in a text, before all others."""
    if words := [token for token, special in added.items() if not special]:
        raise InputError(
            f"{path}: its tokenizer has the added token {words[0]!r}, which is not special: transformers finds it in "
            'any text, and here no added token is. If texts need not have it, say so: "special": true in '
            f"tokenizer.json or {CONFIG}, or its name among the additional_special_tokens of {SPECIAL}"
        )


def require_no_prefix_space(file: Path, settings: dict[str, Any]) -> None:
    """Raise InputError for settings that have a space put before each text."""
    if settings.get("add_prefix_space") is True:
        raise InputError(
            f"{file}: has add_prefix_space true, which puts a space before every text, and cannot be read exactly; if "
            "the model was not trained so, set it to false there"
        )


def say_begun(file: Path, by: str) -> None:
    """Warn of tokens that are put around each text."""
    log.warning_once(f"{file}: {by} puts special tokens around every text, which is not done here")
