"""Hashes of integers and of rows, alike on every machine."""

import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


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


def row_hashes(samples: range, *tensors: ArrayLike) -> np.ndarray:
    """Hash each row of one or more tensors, (B, T) int64, together with its sample number, to 63 bits: (B,) int64.

    Their sum names the batch, however its rows are divided between processes. A row's hash is made of the sum of its
    numbers, each times a random one of its place (Carter and Wegman 1979, "Universal classes of hash functions"), in a
    tenth of the time that a cryptographic hash takes: it is proof against chance, not against malice.
    """
    numbers = np.arange(samples.start, samples.stop, dtype=np.uint64)
    sums = [np.einsum("bt,t->b", each, _factors(n, each.shape[1])) for n, each in enumerate(map(np.asarray, tensors))]
    return (mix(numbers, *(each.view(np.uint64) for each in sums)) >> 1).astype(np.int64)


@functools.cache
def _factors(place: int, length: int) -> np.ndarray:
    """Draw the factors of a tensor's columns, (T,) int64."""
    return mix(place, np.arange(length, dtype=np.uint64)).view(np.int64)
