"""Special tokens beside end-of-text: added to a tokenizer, and written in a text only where they are meant.

The text of a special token is text like any other (see `Tokenizer.encode`). A text that has real ones says where.
"""

import re
from collections.abc import Iterable, Iterator

from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer

Spans = tuple[tuple[int, int], ...]  # (first, behind the last) characters


def with_added(tokenizer: Tokenizer, tokens: Iterable[str]) -> Tokenizer:
    """Return a tokenizer that has these special tokens as well. Raises InputError if it has no end-of-text."""
    new = [token for token in dict.fromkeys(tokens) if token not in tokenizer.special_tokens]
    if not new:
        return tokenizer
    if tokenizer.end_of_text is None:
        raise InputError(
            f"`tokenizer`: the {tokenizer.kind} tokenizer has no end-of-text here, behind which {', '.join(new)} would "
            "come; choose another one, such as gpt2"
        )
    return Tokenizer(tokenizer.kind, tokenizer.ranks, tokenizer.pattern, added=[*tokenizer.added, *new])


def extends(tokenizer: Tokenizer, other: Tokenizer) -> bool:
    """Tell whether a tokenizer is the other one, or the other one with special tokens added."""
    own, theirs = [*tokenizer.special_tokens], [*other.special_tokens]
    same = (tokenizer.ranks, tokenizer.pattern) == (other.ranks, other.pattern)
    return same and own[: len(theirs)] == theirs


class Marked(str):
    """A text, and which of its characters are special tokens; each span is one of them."""

    specials: Spans

    def __new__(cls, text: str, specials: Spans = ()) -> "Marked":
        """Mark a text."""
        marked = super().__new__(cls, text)
        marked.specials = specials
        return marked

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """Encode it. Raises InputError for a special token that the tokenizer lacks."""
        known, ids = tokenizer.special_tokens, list[int]()
        for start, stop, is_special in in_parts(len(self), self.specials):
            part = str(self[start:stop])
            if is_special and part not in known:
                raise InputError(
                    f"the tokenizer has no special token {part}; its own are: {', '.join(known) or 'none'}"
                )
            ids += [known[part]] if is_special else tokenizer.encode(part)
        return ids


def marked(text: str, tokenizer: Tokenizer) -> Marked:
    """Take the texts of special tokens for these tokens."""
    names = sorted(tokenizer.special_tokens, key=len, reverse=True)
    pattern = "|".join(re.escape(name) for name in names)
    return Marked(text, tuple(match.span() for match in re.finditer(pattern, text)) if pattern else ())


def in_parts(size: int, spans: Spans) -> Iterator[tuple[int, int, bool]]:
    """Divide `size` characters into (first, behind the last, whether it is a span); none is empty."""
    place = 0
    for start, stop in [*spans, (size, size)]:
        for first, last, is_span in ((place, start, False), (start, min(stop, size), True)):
            if first < last:
                yield first, last, is_span
        place = stop
