"""Documents that repeat another letter for letter, found in bounded memory: the first of each content is kept.

Each slice has the hashes of its documents in order (see reading.py), so that those which begin alike lie together; they
are compared bucket by bucket, by the first bits.
"""

from pathlib import Path

import numpy as np

from gpt.corpus.reading import HASHES, Corpus

BUCKET = 1 << 21  # hashes that are compared at once, about


def drop_duplicates(corpus: Corpus, directory: Path) -> np.ndarray:
    """Mark in `corpus.kept` the documents that stay; return of each document the number of the first like it, (N,).

    Documents are numbered through all slices; the array lies in a file of the directory.
    """
    bases = np.cumsum([0, *corpus.sizes])
    total = int(bases[-1])
    if not total:
        return np.empty(0, dtype=np.int64)
    firsts = np.lib.format.open_memmap(directory / "firsts.npy", mode="w+", dtype=np.int64, shape=(total,))
    slices = [np.load(f"{place}{HASHES}", mmap_mode="r") for place in corpus.places]
    buckets = max(1, total // BUCKET)
    edges = [np.uint64(number * 2**64 // buckets) for number in range(1, buckets)]
    cuts = [[0, *np.searchsorted(rows[:, 0], edges).tolist(), len(rows)] for rows in slices]
    for bucket in range(buckets):
        parts = [rows[cut[bucket] : cut[bucket + 1]] for rows, cut in zip(slices, cuts, strict=True)]
        numbers = np.concatenate([part[:, 2].astype(np.int64) + base for part, base in zip(parts, bases, strict=False)])
        hashes = np.concatenate([part[:, :2] for part in parts])
        order = np.lexsort((numbers, hashes[:, 1], hashes[:, 0]))
        numbers, hashes = numbers[order], hashes[order]
        begins = np.append(True, (hashes[1:] != hashes[:-1]).any(axis=1))[: len(numbers)]
        firsts[numbers] = numbers[np.maximum.accumulate(np.where(begins, np.arange(len(numbers)), 0))]
    corpus.kept = [
        firsts[base : base + size] == np.arange(base, base + size)
        for base, size in zip(bases, corpus.sizes, strict=False)
    ]
    corpus.counts["repeated"] = total - sum(int(kept.sum()) for kept in corpus.kept)
    return firsts
