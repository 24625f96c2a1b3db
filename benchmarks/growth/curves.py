"""What a curve of growth is: a cost at several sizes, each measured several times, beside what theory expects.

Theory counts operations or bytes (gpt/analysis/cost.py). How long one of them takes, it does not know: so it is drawn
through one measured point, beside whatever does not grow (`offset`); or it is told in the measured unit.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.common import show


@dataclass(frozen=True)
class Curve:
    """A cost, by the size of what grows."""

    grows: str
    """What the sizes count."""
    unit: str
    """What is measured, and in which unit."""
    theory: str
    """What theory counts, in words."""
    sizes: list[float]
    measured: list[list[float]]
    """Of each size, by run."""
    counts: list[float]
    """Of each size what theory counts; in the measured unit if `through` is None."""
    through: float | None = None
    """The size at which theory is made equal to what was measured."""
    offset: float = 0.0
    """What does not grow, in the measured unit."""

    @property
    def medians(self) -> list[float]:
        return [median(runs) for runs in self.measured]

    @property
    def expected(self) -> list[float]:
        """Give what theory expects at each size, in the measured unit."""
        if self.through is None:
            return self.counts
        place = self.sizes.index(self.through)
        scale = (self.medians[place] - self.offset) / self.counts[place]
        return [self.offset + scale * count for count in self.counts]

    @property
    def ratios(self) -> list[float]:
        """Divide what was measured by what theory expects."""
        return [cost / theory for cost, theory in zip(self.medians, self.expected, strict=True)]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Curve":
        """Read a curve of a result, which also says when and where it was measured."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})


def in_turns(work: Mapping[float, Callable[[], float]], runs: int, name: str) -> dict[float, list[float]]:
    """Do each piece of work once in every run, one after the other: what each gave, by run."""
    found: dict[float, list[float]] = {key: [] for key in work}
    for run in range(runs):
        for key, do in work.items():
            found[key].append(do())
            show(f"{name}, run {run + 1}: {key}: {found[key][-1]:.4g}")
    return found
