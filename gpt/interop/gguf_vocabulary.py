"""A tokenizer and a chat template as the keys of a GGUF file, so that llama.cpp reads and writes text as we do.

Of llama.cpp's kinds it is `gpt2`, a byte-level BPE, and text is cut into pieces by the pattern `gpt-2`. Its own
converter knows that pattern by a vocabulary that it has seen before; here any vocabulary has it.
"""

from collections import Counter
from typing import Any

from gpt.errors import InputError
from gpt.interop.huggingface_tokenizer import recover_merges
from gpt.log import log
from gpt.text.chat_template import ChatTemplate
from gpt.text.spelling import from_bytes
from gpt.text.tokenizer import END_OF_TEXT, Tokenizer

NORMAL, CONTROL, UNUSED = 1, 3, 5  # llama.cpp's types of tokens; the text of a control token is text like any other
NO_MERGE = f"{END_OF_TEXT} {END_OF_TEXT}"  # llama.cpp wants a merge; no piece of text is ever a control token
NO_BOS = "{%- set bos_token = '' -%}"  # before a template that writes one: no conversation was learned with it


def vocabulary_keys(tokenizer: Tokenizer, rows: int, template: ChatTemplate | None = None) -> dict[str, Any]:
    """Return the keys of a vocabulary, for an embedding of so many rows: those without a token are unused tokens.

    Raises InputError for what llama.cpp cannot read: see `_require_byte_level`.
    """
    _require_byte_level(tokenizer)
    special, padding = [*tokenizer.special_tokens], range(tokenizer.vocab_size, rows)
    tokens = [*map(from_bytes, tokenizer.ranks), *special, *(f"[PAD{token}]" for token in padding)]
    _require_distinct(tokens)
    merges = [f"{from_bytes(left)} {from_bytes(right)}" for left, right in recover_merges(tokenizer.ranks)]
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL] * len(tokenizer.ranks)
        + [CONTROL] * len(special)
        + [UNUSED] * len(padding),
        "tokenizer.ggml.merges": merges or [NO_MERGE],
        "tokenizer.ggml.bos_token_id": tokenizer.end_of_text,
        "tokenizer.ggml.eos_token_id": tokenizer.end_of_text,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    return keys if template is None else keys | _conversation_keys(tokenizer, template)


def _conversation_keys(tokenizer: Tokenizer, template: ChatTemplate) -> dict[str, Any]:
    """Return the template, and what ends an answer beside end-of-text: llama.cpp has two places for it."""
    ids = [tokenizer.special_tokens[name] for name in template.ends]
    if ids[2:]:
        log.warning(f"llama.cpp does not end an answer at {', '.join(template.ends[2:])}; give it as a stop text there")
    if template.stops:
        log.info(
            f"an answer also ends at a text, which llama.cpp is to be given: {', '.join(map(repr, template.stops))}"
        )
    source = f"{NO_BOS}{template.source}" if "bos_token" in template.source else template.source
    ends = dict(zip(("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"), ids, strict=False))
    return {"tokenizer.chat_template": source, **ends}


def _require_byte_level(tokenizer: Tokenizer) -> None:
    """Raise InputError unless it is a byte-level BPE with an end-of-text: without one llama.cpp would take token 11."""
    if tokenizer.kind == "char":
        raise InputError(
            "`format` gguf: llama.cpp has no vocabulary of characters, which the tokenizer char is; prepare the text "
            "with `tokenizer` bytes, bpe:4096 or gpt2, and train on that"
        )
    if tokenizer.end_of_text is None:
        raise InputError(
            f"`format` gguf: this tokenizer has no {END_OF_TEXT}, and llama.cpp ends texts at another token then; "
            "prepare the text with `tokenizer` bytes, bpe:4096 or gpt2, and train on that"
        )


def _require_distinct(tokens: list[str]) -> None:
    """Raise InputError for tokens that are spelled alike, at which llama.cpp aborts."""
    twice = [token for token, times in Counter(tokens).items() if times > 1]
    if twice:
        raise InputError(
            f"`format` gguf: llama.cpp tells tokens apart by how they are spelled, and two of this tokenizer are "
            f"{twice[0]!r}: one of text, one special; prepare the text with another `tokenizer`, or without that text"
        )
