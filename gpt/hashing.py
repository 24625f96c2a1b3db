"""Hashes of integers and of rows, alike on every machine."""

from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor


def mix(*numbers: Any) -> Any:
    """Hash some integers to 64 bits (the finalizer of SplitMix64, Steele et al. 2014, chained).

    An array of uint64 among them gives an array of hashes.
    """
    state = 0
    for number in numbers:
        state = (state ^ number) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


_MASK = 2**64 - 1


def row_hashes(samples: range, *tensors: Tensor) -> Tensor:
    """Hash each row of one or more tensors, together with its sample number, to 63 bits, (B,) int64.

    Their sum names the batch, however its rows are divided between processes.
    """
    digests = []
    for sample, *rows in zip(samples, *(tensor.numpy() for tensor in tensors), strict=True):
        hashed = blake2b(digest_size=8, key=sample.to_bytes(8, "little"))
        for row in rows:
            hashed.update(row)
        digests.append(int.from_bytes(hashed.digest(), "little") >> 1)
    return torch.tensor(digests, dtype=torch.int64)
