"""What is read again when a text has outgrown the model's context."""

from collections.abc import Sequence

from gpt.config import Overflow
from gpt.errors import InputError

REMEDY = {
    "slide": "the oldest half is dropped, and the rest read again",
    "keep-prefix": "its first quarter stays, of the rest the older half is dropped, and all is read again",
}


def shortening(prompt_tokens: int, context: int, overflow: Overflow) -> str:
    """What `shortened_prompt` does, in words."""
    kept = prefix_length(context, overflow)
    read = f"its first {kept:,} and its last {context - kept:,}" if kept else f"its last {context:,}"
    return f"the prompt has {prompt_tokens:,} tokens and the model sees {context:,}: {read} are read"


def require_room(prompt_tokens: int, max_tokens: int, context: int) -> None:
    """Raises InputError unless the model can read a prompt and draw that many tokens without forgetting any."""
    needed = prompt_tokens + max_tokens - 1  # the last one drawn is never read
    if needed > context:
        raise InputError(
            f"--overflow error: a prompt of {prompt_tokens:,} tokens and {max_tokens:,} new ones need {needed:,} "
            f"positions, and the model has {context:,}; shorten them, or choose --overflow slide or keep-prefix"
        )


def shortened_prompt(ids: Sequence[int], context: int, overflow: Overflow) -> list[int]:
    """A prompt longer than the context, cut to it: its end, or its beginning and its end."""
    kept = prefix_length(context, overflow)
    return [*ids[:kept], *ids[len(ids) - (context - kept) :]]


def shortened(ids: Sequence[int], context: int, overflow: Overflow) -> list[int]:
    """More ids than the context holds, cut so that half of what can be dropped is free again; at least one is left."""
    kept = prefix_length(context, overflow)
    room = context - kept
    return [*ids[:kept], *ids[len(ids) - max(1, room - room // 2) :]]


def prefix_length(context: int, overflow: Overflow) -> int:
    """How many of the first ids stay for ever."""
    return context // 4 if overflow == "keep-prefix" else 0
