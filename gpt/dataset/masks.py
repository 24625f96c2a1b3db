"""Which tokens of a shard are learned: a mask beside it, NAME.mask.bin beside NAME.bin.

256 little-endian int32 (20261128, version 1, number of tokens, zeros), then a byte for each token: 1 if it is learned,
0 if it is only read. A byte and not a bit, so that a token has the same place in both; it is half as much as its id.
"""

from io import FileIO

import numpy as np

from gpt.dataset.shards import HEADER_BYTES, MAGIC_MASK, REPAIR, VERSION_MASK, Shard
from gpt.errors import InputError


class Mask(Shard):
    """The mask of a shard: as many bytes, 0 or 1. Raises InputError if header and size disagree."""

    def _layout(self, file: FileIO, size: int) -> tuple[np.dtype, int, int]:
        header = np.frombuffer(file.read(HEADER_BYTES).ljust(HEADER_BYTES, b"\0"), dtype="<i4")
        magic, version, tokens = header[:3].tolist()
        if (magic, version) != (MAGIC_MASK, VERSION_MASK) or header[3:].any():
            raise InputError(
                f"{self.path}: does not begin like a mask (256 int32: {MAGIC_MASK}, {VERSION_MASK}, number of tokens, "
                f"zeros); {REPAIR}"
            )
        if size != HEADER_BYTES + tokens:
            raise InputError(
                f"{self.path}: has {size:,} bytes where its header promises {HEADER_BYTES + tokens:,}; {REPAIR}"
            )
        return np.dtype("u1"), HEADER_BYTES, tokens

    def require_bits(self, largest: int) -> None:
        """Raise InputError if its largest byte is neither 0 nor 1."""
        if largest > 1:
            raise InputError(f"{self.path}: holds a byte of {largest}, and a mask holds 0 and 1 only; {REPAIR}")


def attach(mask: Shard, shard: Shard) -> None:
    """Give a shard its mask. Raises InputError unless that has as many tokens."""
    if mask.tokens != shard.tokens:
        raise InputError(
            f"{mask.path}: is a mask of {mask.tokens:,} tokens, and {shard.path.name} has {shard.tokens:,}; {REPAIR}"
        )
    shard.mask = mask
