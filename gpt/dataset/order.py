"""The order of samples in an epoch: a keyed permutation that needs no memory."""

import numpy as np

from gpt.hashing import mix

FEISTEL_ROUNDS = 6


def permuted(indices: np.ndarray, size: int, key: int) -> np.ndarray:
    """Map indices, (N,), by a keyed permutation of 0 … size − 1.

    It is a Feistel network over the next even number of bits, walked until it lands inside
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = (np.uint64(1) << half) - np.uint64(1)
    result = indices.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & low
        for round_number in range(FEISTEL_ROUNDS):
            left, right = right, left ^ mix(key, round_number, right) & low
        result[outside] = left << half | right
        outside = result >= size
    return result
