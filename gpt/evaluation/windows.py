"""Which tokens of a split are predicted, and which the model sees before each: a pure function of a few numbers.

1. The windows of a split begin `stride` tokens apart, and each predicts those that the one before did not.
2. With a budget, so many of them are chosen, spread evenly over the split; always the same ones.
3. Of a split with masks, only what is learned is predicted.
4. A piece is what a window has of one document: the least part that errors are reckoned from.

Letters in shapes: W windows, B of them at a time, T tokens of context, P pieces.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt.choices import IGNORE_INDEX
from gpt.dataset.shards import Split
from gpt.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

SCANNED = 1 << 22  # tokens at once, in search of ends of documents


class Windows:
    """The windows in which a model of some context predicts a split, or a part of it."""

    def __init__(
        self,
        split: Split,
        context_length: int,
        end_of_text: int | None = None,
        stride: int | None = None,
        tokens: int | None = None,
        document_mask: bool = False,
    ) -> None:
        """Lay windows end to end by default: the split is predicted whole, but for its first token.

        A shorter `stride` lets each token but the first ones see at least context − stride others: the window then
        holds `context` tokens, of which the last predicts nothing, as transformers' documentation has it.
        `tokens` is the budget. With `document_mask`, a token sees what is before it in its document alone.
        Raises InputError for a stride outside 1 … context.
        """
        self.split, self.context_length, self.end_of_text = split, context_length, end_of_text
        self.document_mask = document_mask
        self.stride = stride or context_length
        if stride is not None and not 1 <= stride <= context_length:
            raise InputError(f"`stride` is {stride}; it must be from 1 to the model's context, {context_length}")
        reach = context_length if self.stride == context_length else context_length - 1
        targets = split.tokens - 1
        self.whole = 1 + max(0, -(-(targets - reach) // self.stride))  # windows of the complete split
        count = self.whole if tokens is None else self.within(tokens)
        self.is_complete = count == self.whole
        chosen = np.arange(count) * self.whole // count
        self.begins = chosen * self.stride  # (W,) first token that is read
        self.firsts = np.where(chosen == 0, 1, self.begins + reach - self.stride + 1)  # (W,) first one predicted
        self.lasts = np.minimum(self.begins + reach, targets)  # (W,)

    def __len__(self) -> int:
        return len(self.begins)

    def within(self, tokens: int) -> int:
        """Count the windows that a budget of tokens is enough for."""
        return self.whole if tokens >= self.split.tokens - 1 else min(self.whole, max(1, tokens // self.stride))

    def budget_of(self, windows: int) -> int:
        """Give a budget of tokens that is enough for so many windows and no more."""
        return self.split.tokens if windows == self.whole else windows * self.stride

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments by which the same windows can be laid on the split again, as in another process."""
        shape = {"context_length": self.context_length, "end_of_text": self.end_of_text, "stride": self.stride}
        return shape | {"tokens": self.budget_of(len(self)), "document_mask": self.document_mask}

    def like(self, split: Split) -> "Windows":
        """Lay as many windows on another split, or all that it has, end to end or spread evenly."""
        tokens = len(self) * self.context_length
        return Windows(split, self.context_length, self.end_of_text, tokens=tokens, document_mask=self.document_mask)

    @property
    def targets(self) -> int:
        """Tokens that windows go through to predict them; of a split with masks, not all of them count."""
        return int((self.lasts - self.firsts + 1).sum())

    @cached_property
    def counted(self) -> int:
        """Those that count."""
        return sum(map(self.split.count_learned, self.firsts.tolist(), (self.lasts + 1).tolist()))

    def require_targets(self, option: str = "tokens", what: str = "windows") -> None:
        """Raise InputError if nothing is predicted, as where no answer is in the windows of a small budget.

        `option` is the budget's, and `what` its windows are called there.
        """
        if not self.counted:
            remedy = "name other data" if self.is_complete else f"give more `{option}`"
            raise InputError(
                f"none of the {len(self):,} {what} of the {self.split.name} split has a token that is learned: {remedy}"
            )

    def read(self, windows: range) -> tuple["Tensor", "Tensor", np.ndarray]:
        """Read inputs, targets and each target's piece, (B, T) int64 each; other targets are IGNORE_INDEX."""
        import torch  # whoever measures baselines needs windows, and none of it

        inputs = np.zeros((len(windows), self.context_length), dtype=np.int64)
        targets = np.full((len(windows), self.context_length), IGNORE_INDEX, dtype=np.int64)
        pieces = np.zeros((len(windows), self.context_length), dtype=np.int64)
        for row, window in enumerate(windows):
            begin, first, last = (int(place[window]) for place in (self.begins, self.firsts, self.lasts))
            ids = self.split.read(begin, last - begin + 1)
            scored = slice(first - begin - 1, last - begin)
            inputs[row, : last - begin] = ids[:-1]
            targets[row, scored] = ids[first - begin :]
            if self.split.is_masked:
                targets[row, scored][~self.split.learned(first, last - first + 1)] = IGNORE_INDEX
            after_end = ids[first - begin - 1 : -1] == self.end_of_text
            after_end[0] = False  # the piece begins here anyway
            pieces[row, scored] = self._piece_offsets[window] + np.cumsum(after_end)
        return torch.from_numpy(inputs), torch.from_numpy(targets), pieces

    def masked(self, inputs: "Tensor") -> "Tensor | None":
        """Number the documents of inputs, (B, T), each from the end-of-text before it; None without a mask."""
        if not self.document_mask:
            return None
        assert self.end_of_text is not None, "without it, there is one document"
        return inputs.eq(self.end_of_text).cumsum(dim=1)

    @property
    def answers_only(self) -> bool:
        """Tell whether only what is learned is predicted, of all that there is."""
        return self.split.is_masked

    @property
    def answers_of(self) -> str:
        """Name the sources of which that is so, where it is not so of all: see `MixedWindows`."""
        return ""

    @property
    def split_tokens(self) -> int:
        """Tokens of the split, of which all but one can be predicted; of a split with masks those that are, and one."""
        return 1 + self.split.count_learned(1, self.split.tokens)

    @property
    def strata(self) -> np.ndarray | None:
        """The number of the source of each piece, (P,), where there are several: see `MixedWindows`."""
        return None

    def weighted(self, sums: np.ndarray) -> np.ndarray:
        """Give the sums of pieces, (P, 3), as much as each counts in figures: alike, where there is one source."""
        return sums

    @cached_property
    def documents(self) -> np.ndarray:
        """The number of each piece's document, (P,); an end-of-text belongs to the document that it ends."""
        within = np.arange(self._piece_offsets[-1]) - np.repeat(self._piece_offsets[:-1], np.diff(self._piece_offsets))
        return np.repeat(self._document_of(self.firsts), np.diff(self._piece_offsets)) + within

    @cached_property
    def starts(self) -> np.ndarray:
        """The first target of each piece, (P,)."""
        begins = np.append(0, self._ends + 1)[self.documents]
        return np.maximum(begins, np.repeat(self.firsts, np.diff(self._piece_offsets)))

    @cached_property
    def _piece_offsets(self) -> np.ndarray:
        """The number of each window's first piece, and of all: (W + 1,)."""
        counts = self._document_of(self.lasts) - self._document_of(self.firsts) + 1
        return np.append(0, np.cumsum(counts))

    def _document_of(self, targets: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._ends, targets, side="left")

    @cached_property
    def _ends(self) -> np.ndarray:
        """The positions in the split of the ends of documents."""
        if self.end_of_text is None:
            return np.empty(0, dtype=np.int64)
        found = []
        for start in range(0, self.split.tokens, SCANNED):
            ids = self.split.read(start, min(SCANNED, self.split.tokens - start))
            found.append(start + np.flatnonzero(ids == self.end_of_text))
        return np.concatenate(found)
