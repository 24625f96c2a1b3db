"""How likely a model finds continuations of contexts: what graders ask of it, by choice and by token.

The protocol is that of lm-evaluation-harness's hf backend. A context too long for the model is cut from the left; the
logarithms are those of a softmax in float32 over all ids of the model; and a continuation is `greedy` if each of its
tokens is the likeliest. A context that several continuations share is read once, together with what they have in
common, and what is left of each goes on from there.

Letters in shapes: B contexts, T tokens, C width, N targets.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile

import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.memory import Halving
from gpt.model.branches import Branches, Prefixes
from gpt.model.loss import chunk_rows, precise, require_finite
from gpt.model.transformer import GPT

POSITIONS = 4096  # that are read at a time, by default
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Likelihood:
    """What a model thinks of a continuation."""

    logprob: float
    """Natural logarithm of its probability after its context."""
    greedy: bool
    """Whether each of its tokens is the likeliest: whether greedy decoding writes it."""
    tokens: int


def likelihoods(
    model: GPT,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    max_length: int | None = None,
    batch: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Likelihood]:
    """Score pairs of context and continuation, ids of at least one token each, in their order.

    Of both together, without the last id, the model reads the last `max_length`: by default its context. `batch`
    sequences are read at a time, by default as many as have POSITIONS tokens; fewer where memory runs out. What is
    found of a pair depends on those beside it by rounding alone. `progress` is told how many pairs were scored, after
    each pass. The model is left in the mode (training or evaluation) it was in.
    Raises InputError for an empty context or continuation, a continuation longer than `max_length`, settings out of
    range, and logits that are not finite.
    """
    limit = model.config.context_length
    max_length = limit if max_length is None else max_length
    if not 1 <= max_length <= limit:
        raise InputError(f"`max_length` is {max_length:,}; it must be from 1 to the model's context, {limit:,}")
    if batch is not None and batch < 1:
        raise InputError(f"`batch` is {batch}; it must be at least 1")
    groups = _grouped(pairs, max_length)
    found: list[Likelihood | None] = [None] * len(pairs)
    was_training = model.training
    try:
        reader = _Reader(model.eval(), groups, batch)
        for group, continuation, likelihood in reader.run():
            for number in group.continuations[continuation]:
                found[number] = likelihood
            progress(len(group.continuations[continuation]))
    finally:
        model.train(was_training)
    return [likelihood for likelihood in found if likelihood is not None]


def rolling_windows(ids: Sequence[int], first: int, max_length: int) -> list[tuple[Ids, Ids]]:
    """Cut a whole text into pairs for `likelihoods`, so that each of its tokens is predicted once.

    The first window reads the id `first` (end-of-text, mostly) and predicts `max_length` tokens, each later one the
    next as many; the last one, which has fewer left to predict, reads as many tokens before them as there is room for.
    """
    ids = tuple(ids)
    pairs: list[tuple[Ids, Ids]] = [((first,), ids[:max_length])] if ids else []
    for done in range(max_length, len(ids), max_length):
        end = min(done + max_length, len(ids))
        pairs.append((ids[end - max_length - 1 : done], ids[done:end]))
    return pairs


# ---- what is read together ----


@dataclass(eq=False)
class _Group:
    """A context, as far as it is read, and all that is to be scored after it."""

    context: Ids
    continuations: dict[Ids, list[int]] = field(default_factory=dict)
    """Each with the numbers of the pairs that ask for it."""

    @cached_property
    def shared(self) -> int:
        """Count the tokens that all continuations begin with, but for the last of each, which is never read."""
        columns = zip(*(continuation[:-1] for continuation in self.continuations), strict=False)
        return sum(1 for _ in takewhile(lambda column: len({*column}) == 1, columns))

    @cached_property
    def trunk(self) -> Ids:
        """Give what is read once: the context, and what is shared."""
        return self.context + next(iter(self.continuations))[: self.shared]


def _grouped(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int) -> list[_Group]:
    """Put pairs of the same context together, the longest first, so that memory runs out at once or not at all."""
    groups: dict[Ids, _Group] = {}
    for number, (context, continuation) in enumerate(pairs):
        if not len(context) or not len(continuation):
            which = "continuation" if len(context) else "context"
            raise InputError(f"pair {number + 1}: its {which} has no token; it must have at least one")
        if len(continuation) > max_length:
            raise InputError(
                f"pair {number + 1}: its continuation has {len(continuation):,} tokens, and the model sees "
                f"{max_length:,}: shorten it, or score it as a text of its own, in windows"
            )
        kept = tuple(context[max(0, len(context) + len(continuation) - max_length - 1) :])
        group = groups.setdefault(kept, _Group(kept))
        group.continuations.setdefault(tuple(continuation), []).append(number)
    return sorted(groups.values(), key=lambda group: (-len(group.trunk), group.trunk))


@dataclass(frozen=True)
class _Span:
    """Targets that follow each other in a row of hidden states; the first one follows position `at`."""

    row: int
    at: int
    targets: Ids


class _Reader:
    """Reads groups, as many at a time as `batch` and memory allow."""

    def __init__(self, model: GPT, groups: list[_Group], batch: int | None) -> None:
        self.model, self.groups, self.batch = model, groups, batch
        self.read_trunks = Halving(self._read_trunks, model.device.type)
        self.read_branches = Halving(self._read_branches, model.device.type)
        self.prefixes: Prefixes | None = None
        self.branches: list[tuple[int, _Group, Ids]] = []  # a prefix's row, and what goes on after it

    @torch.no_grad()
    def run(self) -> Iterator[tuple[_Group, Ids, Likelihood]]:
        """Yield what is found of each continuation of each group."""
        done = 0
        while done < len(self.groups):
            numbers = torch.arange(done, min(len(self.groups), done + self._rows(len(self.groups[done].trunk))))
            sums, row = self.read_trunks(numbers).tolist(), 0
            for group in self.groups[done : done + len(numbers)]:
                for continuation in group.continuations:
                    logprob, hits = sums[row]
                    yield group, continuation, Likelihood(logprob, hits == len(continuation), len(continuation))
                    row += 1
            done += len(numbers)

    def _rows(self, positions: int) -> int:
        """Choose how many rows of so many positions are read at a time."""
        return self.batch or max(1, POSITIONS // positions)

    def _read_trunks(self, numbers: Tensor) -> Tensor:
        """Sum the logarithms and the likeliest tokens of each continuation of some groups, (continuations, 2)."""
        groups = [self.groups[number] for number in numbers.tolist()]
        ids = self._padded([group.trunk for group in groups])
        every = [(row, group, some) for row, group in enumerate(groups) for some in group.continuations]
        forks = [i for i, (_, group, continuation) in enumerate(every) if len(continuation) > group.shared + 1]
        forks.sort(key=lambda i: every[i][1].shared - len(every[i][2]))  # the longest first, as of the groups
        self.prefixes, self.branches = Prefixes(ids) if forks else None, [every[i] for i in forks]
        hidden = self.model.hidden_states(ids, self.prefixes)  # (B, T, C)
        spans = [_Span(row, len(group.context) - 1, some[: group.shared + 1]) for row, group, some in every]
        sums = self._sums(hidden, spans)
        if forks:
            del hidden
            sums[forks] += torch.cat([self.read_branches(part) for part in self._parts(ids.size(1))])
        self.prefixes = None
        return sums

    def _parts(self, trunk: int) -> Iterator[Tensor]:
        """Divide the branches, the longest first, into those that are read at a time: behind trunks of that length."""
        done = 0
        while done < len(self.branches):
            _, group, longest = self.branches[done]
            rows = self._rows(trunk + len(longest) - group.shared)
            yield torch.arange(done, min(len(self.branches), done + rows))
            done += rows

    def _read_branches(self, numbers: Tensor) -> Tensor:
        """Sum the same of what is left of some continuations after their trunks, (branches, 2)."""
        assert self.prefixes is not None
        branches = [self.branches[number] for number in numbers.tolist()]
        rows = torch.tensor([row for row, _, _ in branches], device=self.model.device)
        lengths = torch.tensor([len(group.trunk) for _, group, _ in branches], device=self.model.device)
        cache = Branches(self.prefixes, rows, lengths, self.model.config.context_length)
        inputs = self._padded([continuation[group.shared : -1] for _, group, continuation in branches])
        hidden = self.model.hidden_states(inputs, cache)
        rests = (continuation[group.shared + 1 :] for _, group, continuation in branches)
        return self._sums(hidden, [_Span(row, 0, rest) for row, rest in enumerate(rests)])

    def _padded(self, rows: Sequence[Ids]) -> Tensor:
        longest = max(map(len, rows))
        return torch.tensor([row + (0,) * (longest - len(row)) for row in rows], device=self.model.device)

    def _sums(self, hidden: Tensor, spans: list[_Span]) -> Tensor:
        """Sum each span's logarithms, and how many of its targets are the likeliest: (spans, 2) float64."""
        sizes = torch.tensor([len(span.targets) for span in spans])
        rows = torch.tensor([span.row for span in spans]).repeat_interleave(sizes)
        at = torch.cat([torch.arange(span.at, span.at + len(span.targets)) for span in spans])
        targets = torch.tensor([target for span in spans for target in span.targets], device=hidden.device)
        states = hidden[rows.to(hidden.device), at.to(hidden.device)]  # (N, C): not the logits of all positions
        many = chunk_rows(self.model.config.vocab_size, hidden.device.type)
        found = [self._found(*part) for part in zip(states.split(many), targets.split(many), strict=True)]
        owners = torch.arange(len(spans)).repeat_interleave(sizes)
        return torch.zeros(len(spans), 2, dtype=torch.float64).index_add_(0, owners, torch.cat(found))

    def _found(self, states: Tensor, targets: Tensor) -> Tensor:
        """Give each target's logarithm, and 1 if it is the likeliest: (N, C) and (N,) → (N, 2) float64."""
        logits = self.model.head(states)
        require_finite(logits)
        logprobs = precise(logits).log_softmax(dim=-1)  # (N, V)
        own = logprobs.gather(1, targets.unsqueeze(1)).squeeze(1)
        return torch.stack([own, (logprobs.argmax(dim=-1) == targets).to(own.dtype)], dim=1).cpu().double()
