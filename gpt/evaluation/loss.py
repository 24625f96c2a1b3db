"""How well a model predicts text: loss, bits per byte and perplexity over a split, with standard errors.

Letters in shapes: B windows, T tokens of context, P pieces of text (see `Windows`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt.choices import IGNORE_INDEX
from gpt.device import autocast, choose_products
from gpt.errors import InputError
from gpt.evaluation.statistics import ratio_errors, spread, student_t, within
from gpt.evaluation.windows import Windows
from gpt.memory import Halving
from gpt.model.transformer import GPT


@dataclass(frozen=True)
class Evaluation:
    """Result on a split. Each `_se` is the standard error of the figure before it, None where text is too little."""

    loss: float
    """Nats per token."""
    loss_se: float | None
    bits_per_byte: float
    """Bits per byte of UTF-8 text: comparable between tokenizers."""
    bits_per_byte_se: float | None
    perplexity: float
    perplexity_se: float | None
    tokens: int
    text_bytes: int
    freedom: float | None = None
    """Degrees of freedom of the standard errors: a 95 % interval is figure ± student_t(freedom) · standard error."""
    units: str = ""
    """What they take as independent."""
    split_tokens: int | None = None
    context_length: int | None = None
    stride: int | None = None
    document_mask: bool = False
    answers_only: bool = False
    """Of a split with masks: the tokens are those that are learned."""
    answers_of: str = ""
    """Of a mixture in which not all have masks: the names of the sources of which that is so."""

    @property
    def factor(self) -> float:
        """Half a 95 % interval in standard errors."""
        return 2.0 if self.freedom is None else student_t(self.freedom)


def evaluate(
    model: GPT,
    windows: Windows,
    byte_lengths: np.ndarray,
    device: str,
    dtype: torch.dtype = torch.float32,
    batch: int = 8,
) -> Evaluation:
    """Predict every token of the windows that is to be predicted.

    `byte_lengths` is (V,), from `Tokenizer.byte_lengths`.
    The model is left in the mode (training or evaluation) it was in.
    """
    sums = sums_per_piece(model, windows, byte_lengths, device, dtype, batch)
    assert sums is not None
    return summarize(sums, windows)


def _only_for_faults(fault: InputError | None) -> bool:
    if fault is not None:
        raise fault
    return False


@torch.no_grad()  # not inference_mode: the weights that fully_shard gathers in it could not be trained on afterwards
def sums_per_piece(
    model: GPT,
    windows: Windows,
    byte_lengths: np.ndarray,
    device: str,
    dtype: torch.dtype,
    batch: int,
    part: tuple[int, int] = (0, 1),
    sharded: bool = False,
    stop: Callable[[InputError | None], bool] = _only_for_faults,
) -> Tensor | None:
    """Sum nats, targets and bytes of text of each piece: (P, 3) float64, for `summarize`.

    Of several processes, each asks for its `part` (number, of how many); the pieces of the others are zeros, so that
    the results are to be added. All make the same number of forward passes. Before each, `stop` is called with the
    fault that kept this process from reading its windows, or None; if it returns true, the result is None. By default a
    fault is raised.

    Where memory runs out, fewer windows go through the model at a time; not where its weights are `sharded`, as all
    processes gather them at once.
    """
    number, parts = part
    multiplying = choose_products("highest", device)
    sums, stopped, was_training = np.empty(0), False, model.training
    model.eval()

    def losses_of(inputs: Tensor, targets: Tensor) -> Tensor:
        inputs = inputs.to(device)
        with autocast(device, dtype), multiplying():
            return model(inputs, targets=targets.to(device), reduction="none", documents=windows.masked(inputs))

    forward = losses_of if sharded else Halving(losses_of, device)
    for first in range(0, len(windows), batch * parts):
        own = range(len(windows))[first + number * batch :][:batch]
        fault = None
        try:
            inputs, targets, pieces = windows.read(own or range(1))
        except InputError as error:
            fault = error
        if stopped := stop(fault):
            break
        sums = sums if sums.size else np.zeros((len(windows.documents), 3))
        losses = forward(inputs, targets)
        if own:
            counted = (targets != IGNORE_INDEX).numpy()
            nats, aims = losses.cpu().double().numpy()[counted], targets.numpy()[counted]
            for column, values in enumerate((nats, np.ones(len(aims)), byte_lengths[aims])):
                np.add.at(sums[:, column], pieces[counted], values)
    model.train(was_training)
    return None if stopped else torch.from_numpy(sums)


def summarize(sums: Tensor, windows: Windows) -> Evaluation:
    """Compute the figures from the sums of each piece, (P, 3) float64 as `sums_per_piece` gives them."""
    nats, tokens, text_bytes = windows.weighted(sums.numpy()).T
    loss, errors = ratio_errors(nats, tokens)
    bits, bit_errors = ratio_errors(nats / math.log(2), text_bytes)
    perplexity = math.exp(loss) if loss < 700 else math.inf
    of_loss = spread(within(windows.strata, errors, tokens), tokens, windows.documents)
    of_bits = spread(within(windows.strata, bit_errors, tokens), text_bytes, windows.documents)
    error = None if of_loss is None else of_loss.standard_error
    return Evaluation(
        loss=loss,
        loss_se=error,
        bits_per_byte=bits,
        bits_per_byte_se=None if of_bits is None else of_bits.standard_error,
        perplexity=perplexity,
        perplexity_se=None if error is None else perplexity * error,
        tokens=int(sums[:, 1].sum()),
        text_bytes=int(sums[:, 2].sum()),
        freedom=None if of_loss is None else of_loss.freedom,
        units="" if of_loss is None else of_loss.units,
        split_tokens=windows.split_tokens,
        context_length=windows.context_length,
        stride=windows.stride,
        document_mask=windows.document_mask,
        answers_only=windows.answers_only,
        answers_of=windows.answers_of,
    )
