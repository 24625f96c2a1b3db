"""What samples are made of: which tokens of which documents."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpt.dataset.documents import Documents

if TYPE_CHECKING:
    from gpt.dataset.loader import Loader


class SamplePiece(NamedTuple):
    """A piece of a sample."""

    sample: int
    source: int
    """Number of the dataset among those of a mixture; 0 where there is one."""
    epoch: int
    """Of the source."""
    span: range
    first: int
    """Number of the first document in it; `last` is that of the last."""
    last: int


def sample_pieces(loader: "Loader", documents: Sequence[Documents], samples: range) -> Iterator[SamplePiece]:
    """Find what samples are made of; each source is searched once for the numbers of its documents."""
    located = [(sample, *loader.source.locate(sample)) for sample in samples]
    spans = {sample: [range(start, start + n + 1) for start, n in loader.spans(sample)] for sample in samples}
    numbers = {}
    for source in {source for _, source, _ in located}:
        own = [sample for sample, its_source, _ in located if its_source == source]
        ends = np.array([place for sample in own for span in spans[sample] for place in (span[0], span[-1])])
        numbers[source] = iter(documents[source].numbers(ends).tolist())
    for sample, source, number in located:
        epoch = number // loader.source.counts[source]
        for span in spans[sample]:
            yield SamplePiece(sample, source, epoch, span, next(numbers[source]), next(numbers[source]))
