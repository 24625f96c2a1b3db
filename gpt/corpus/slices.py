"""The slices of a source: neighboring parts of it, which are read at a time, and become shards of their own.

Where a slice ends hangs on the names of parts and not on their number: a file more, or another one, changes the slice
around it, and the others stay as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gpt.corpus.documents import Skipped, hash_fraction
from gpt.corpus.sources import Identity, Source
from gpt.corpus.stages import digest

LEAST_BYTES, MOST_BYTES = 1 << 22, 1 << 27  # of a slice, about
WANTED = 512  # slices of a large corpus


@dataclass(frozen=True)
class Slice:
    """Some parts of a source, and what is left out between them unread."""

    parts: tuple[Any, ...]
    label: str
    digest: str
    """Of the names of its parts, and of what tells their content from another one."""
    bytes: int
    validates: bool = False
    """All of it does, as was asked for."""


def slice_bytes(total: int) -> int:
    """Choose how large slices are, in bytes, by the size of the corpus: a power of two."""
    return min(MOST_BYTES, max(LEAST_BYTES, 1 << max(0, total // WANTED - 1).bit_length()))


def cut_slices(source: Source, parts: Sequence[Any], size: int) -> Iterator[Slice]:
    """Divide the parts of a source into slices of about `size` bytes, from a quarter of it to little more."""
    pending, identities, held, validates = list[Any](), list[Identity](), 0, False
    for part in parts:
        if isinstance(part, Skipped):
            identity = Identity(part.name, 0, part.reason, validates)
        else:
            identity = source.identity(part)
        if identities and identity.validates != validates:
            yield _slice(pending, identities)
            pending, identities, held = [], [], 0
        pending.append(part)
        identities.append(identity)
        held, validates = held + identity.bytes, identity.validates
        if held >= size or (held >= size // 4 and hash_fraction(identity.name) < 4 * max(identity.bytes, 1) / size):
            yield _slice(pending, identities)
            pending, identities, held = [], [], 0
    if pending:
        yield _slice(pending, identities)


def _slice(parts: list[Any], identities: list[Identity]) -> Slice:
    size = sum(identity.bytes for identity in identities)
    return Slice(tuple(parts), identities[0].name, digest(identities), size, identities[-1].validates)
