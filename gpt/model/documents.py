"""Several documents in a row, each computed as if it were alone: none sees another, and positions begin anew with each.

A model meets them as it meets a cache, one that keeps nothing: it says where tokens stand, and what they attend to.

Letters in shapes: B rows, T positions, D head width, K heads of keys and values.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt.errors import InputError
from gpt.model.attention import Segment, visible
from gpt.model.ngrams import NO_TOKEN


class DocumentMask:
    """What each position of some rows sees: of its own document, itself and what is before it.

    One product of attention serves all documents of all rows. It multiplies what is masked, too; on a CPU that costs
    1.0 to 1.4 times the attention of rows without documents (benchmarks/LOG.md).
    """

    def __init__(self, documents: Tensor, sliding_windows: Iterable[int | None], dtype: torch.dtype) -> None:
        """Tell the documents apart by their numbers, (B, T) int64: a document is a run of equal ones.

        Masks are made at once, in the dtype of attention, one for each sliding window that a layer has.
        """
        self.rows, T = documents.shape
        at = torch.arange(T, device=documents.device)
        begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)  # (B, T)
        first = torch.where(begins, at, 0).cummax(dim=1).values  # of each position's document, (B, T)
        self.at = at - first
        self.masks = {window: _mask(at, first, window, dtype) for window in set(sliding_windows)}

    def positions(self, T: int) -> Tensor:
        """Give where each token stands in its document, (B, T)."""
        return self.at

    def ids_before(self, reach: int) -> Tensor:
        """Give what stands before the rows, (B, reach): nothing."""
        return self.at.new_full((self.rows, reach), NO_TOKEN)

    def append(self, layer: int, key: Tensor, value: Tensor, sliding_window: int | None) -> list[Segment]:
        """Give a layer's keys and values, (B, K, T, D), as one segment with its mask."""
        return [Segment(key, value, self.masks[sliding_window], at=self.at)]

    def advance(self, ids: Tensor) -> None:
        """Keep nothing."""


def _mask(at: Tensor, first: Tensor, sliding_window: int | None, dtype: torch.dtype) -> Tensor:
    """Make what is added to scores, (B, 1, T, T): 0 for what is seen, −∞ for the rest."""
    seen = visible(at.unsqueeze(1), at, sliding_window) & (at >= first.unsqueeze(2))  # (B, T, T)
    return torch.zeros(seen.shape, device=at.device, dtype=dtype).masked_fill_(~seen, -torch.inf).unsqueeze(1)


def require_documents(documents: Tensor, ids: Tensor) -> None:
    """Raise InputError unless each of (B, T) ids has the number of its document."""
    if documents.shape != ids.shape:
        raise InputError(
            f"`documents` has the shape {tuple(documents.shape)}; it must tell the document of each of the ids, "
            f"{tuple(ids.shape)}"
        )
