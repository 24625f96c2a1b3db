"""What is read again when a text has outgrown the model's context."""

from collections.abc import Sequence

from gpt.choices import Overflow
from gpt.errors import InputError

ON_OVERFLOW = {
    "slide": "the oldest half is dropped, and the rest read again",
    "keep-prefix": "its first quarter stays, of the rest the older half is dropped, and all is read again",
}


def truncation_notice(prompt_tokens: int, context_length: int, overflow: Overflow) -> str:
    """Say what `truncate_prompt` does."""
    kept = prefix_length(context_length, overflow)
    read = f"its first {kept:,} and its last {context_length - kept:,}" if kept else f"its last {context_length:,}"
    return f"the prompt has {prompt_tokens:,} tokens and the model sees {context_length:,}: {read} are read"


def require_room(prompt_tokens: int, max_tokens: int, context_length: int) -> None:
    """Raise InputError unless the model can read a prompt and draw that many tokens without forgetting any."""
    needed = prompt_tokens + max_tokens - 1  # the last one drawn is never read
    if needed > context_length:
        raise InputError(
            f"`overflow` error: a prompt of {prompt_tokens:,} tokens and {max_tokens:,} new ones need {needed:,} "
            f"positions, and the model has {context_length:,}; shorten them, or choose `overflow` slide or keep-prefix"
        )


def truncate_prompt(ids: Sequence[int], context_length: int, overflow: Overflow) -> list[int]:
    """Cut a prompt longer than the context to it: to its end, or its beginning and its end."""
    kept = prefix_length(context_length, overflow)
    return [*ids[:kept], *ids[len(ids) - (context_length - kept) :]]


def truncate(ids: Sequence[int], context_length: int, overflow: Overflow) -> list[int]:
    """Cut more ids than the context holds, so that half of what can be dropped is free again; at least one is left."""
    kept = prefix_length(context_length, overflow)
    room = context_length - kept
    return [*ids[:kept], *ids[len(ids) - max(1, room - room // 2) :]]


def prefix_length(context_length: int, overflow: Overflow) -> int:
    """Tell how many of the first ids stay for ever."""
    return context_length // 4 if overflow == "keep-prefix" else 0
