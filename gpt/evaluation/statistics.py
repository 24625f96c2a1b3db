"""How sure a figure is that was measured on some text: standard errors whose units are independent of one another.

Tokens of a document are not, nor are its windows: what is hard to predict here is so a page later. So the unit is the
document. Where documents are few, or one outweighs the others, it is a block of neighboring windows, as long as it
takes until neighboring blocks are independent.

Letters in shapes: P pieces of text in their order, of which units are made, U units.
"""

import math
from dataclasses import dataclass

import numpy as np

FEWEST_DOCUMENTS = 3  # as many as count, see `effective_number`
FEWEST_PIECES = 16
FEWEST_BLOCKS, MOST_BLOCKS = 8, 64


@dataclass(frozen=True)
class Spread:
    """How far a figure may be from that of endlessly much text of the same kind."""

    standard_error: float
    freedom: float
    """Degrees of freedom of Student's t for intervals."""
    units: str
    """What was taken as independent, in words."""

    @property
    def half_width(self) -> float:
        """Half the width of the interval that holds the true figure in 95 of 100 cases."""
        return self.standard_error * student_t(self.freedom)


def ratio_errors(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, np.ndarray]:
    """Give the ratio of two sums, and how much each piece adds to its error, (P,): (nᵢ − r·mᵢ) / Σm.

    Cochran 1977, Sampling Techniques, chapter 6.
    """
    total = denominators.sum()
    if total == 0:
        return math.nan, np.zeros(len(numerators))
    ratio = float(numerators.sum() / total)
    if not math.isfinite(ratio):
        return ratio, np.full(len(numerators), math.nan)
    return ratio, (numerators - ratio * denominators) / total


def within(strata: np.ndarray | None, errors: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Leave of the pieces' errors, (P,), what is chance where their strata have fixed shares of all tokens.

    That is what each differs by from its stratum's mean (Cochran 1977, chapter 5). Without strata all of it is.
    """
    if strata is None:
        return errors
    means = np.bincount(strata, errors) / np.bincount(strata, tokens)  # per token
    return errors - means[strata] * tokens


def spread(errors: np.ndarray, weights: np.ndarray, documents: np.ndarray) -> Spread | None:
    """Give the standard error of a figure to which each piece adds an error, (P,), or None where text is too little.

    None, too, where the figure is no number, as of a model that has diverged.
    `weights` are what the pieces count, such as their tokens, and `documents` the number of each piece's document.
    """
    _, unit = np.unique(documents, return_inverse=True)
    sizes = np.bincount(unit, weights)
    if not sizes.any() or not np.isfinite(errors).all():
        return None
    if effective_number(sizes) >= FEWEST_DOCUMENTS:
        return _jackknife(np.bincount(unit, errors), sizes, f"{len(sizes):,} documents")
    return _blocks(errors, weights) if len(errors) >= FEWEST_PIECES else None


def effective_number(sizes: np.ndarray) -> float:
    """Give how many units of equal size are worth as much as these: (Σm)² / Σm² (Kish 1965, Survey Sampling)."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _jackknife(errors: np.ndarray, sizes: np.ndarray, units: str, correlation: float = 0.0) -> Spread:
    """Leave out each unit in turn: √Σ(eᵢ / (1 − hᵢ))², hᵢ being its share of all text.

    The formula without hᵢ is too small where units are few or unequal, since a large one draws the figure to itself.
    A correlation of neighbors that is left is taken for that of an autoregression.
    """
    shares = sizes / sizes.sum()
    variance = float(((errors / (1 - shares)) ** 2).sum()) * (1 + correlation) / (1 - correlation)
    return Spread(math.sqrt(variance), effective_number(sizes) - 1, units)


def _blocks(errors: np.ndarray, weights: np.ndarray) -> Spread:
    """Begin with many blocks, and halve their number until neighbors are independent (batch means, Fishman 1978)."""
    number = min(MOST_BLOCKS, len(errors))
    while True:
        first = np.arange(number) * len(errors) // number
        sums, sizes = np.add.reduceat(errors, first), np.add.reduceat(weights, first)
        correlation = _neighbors(sums)
        if correlation <= 0.5 / math.sqrt(number) or number // 2 < FEWEST_BLOCKS:
            units = f"{number} blocks of neighboring windows"
            return _jackknife(sums, sizes, units, correlation=min(0.8, max(0.0, correlation)))
        number //= 2


def _neighbors(sums: np.ndarray) -> float:
    """Give the correlation of neighboring blocks, without the bias of one that is taken around their own mean."""
    power = float((sums**2).sum())
    return float((sums[1:] * sums[:-1]).sum()) / power + 1 / len(sums) if power else 0.0


def student_t(freedom: float) -> float:
    """Give the quantile of Student's t that is exceeded with a probability of 2.5 %.

    By Fisher's expansion (Abramowitz and Stegun 26.7.5): within 1 % from two degrees of freedom on.
    """
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


# ---- shares: how many of so many ----


@dataclass(frozen=True)
class Share:
    """How many of some cases are so."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """The share, from 0 to 1; NaN of no cases."""
        return self.hits / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The interval that holds the true share in 95 of 100 cases (Wilson 1927): all of it where there are none."""
        if not self.of:
            return 0.0, 1.0
        z = 1.959964
        middle = (self.hits + z * z / 2) / (self.of + z * z)
        half = z / (self.of + z * z) * math.sqrt(self.hits * (self.of - self.hits) / self.of + z * z / 4)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Excess:
    """By how much one share is above another, with one case added of each kind, so that none is too sure of itself."""

    value: float
    standard_error: float

    @property
    def is_sure(self) -> bool:
        """Tell whether it is more than two standard errors."""
        return self.value > 2 * self.standard_error


def excess(first: Share, other: Share) -> Excess:
    """Estimate by how much the share of one is above that of another, of other cases (Agresti and Caffo 2000)."""
    one, two = ((share.hits + 1) / (share.of + 2) for share in (first, other))
    variance = one * (1 - one) / (first.of + 2) + two * (1 - two) / (other.of + 2)
    return Excess(one - two, math.sqrt(variance))


def paired_excess(first: np.ndarray, other: np.ndarray) -> Excess:
    """The same of the same cases, (N,) bool each: only those tell of which one is so (Agresti and Min 2005)."""
    count = len(first) + 2
    more, less = int((first & ~other).sum()) + 0.5, int((other & ~first).sum()) + 0.5
    value = (more - less) / count
    return Excess(value, math.sqrt(more + less - (more - less) ** 2 / count) / count)
