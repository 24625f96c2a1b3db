"""What docs/performance.md shows of growth: a picture of all curves, and a table of each."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.growth.curves import Curve
from gpt.files import aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "growth.png"
ORDER = ("training by context", "training by width", "training by depth", "memory by micro-batch")
ORDER += ("decoding by position", "decoding by batch", "preparing by size", "opening by tokens", "opening again")
ORDER += ("two processes by one", "two threads by one")
COLUMNS = 4
NONE_YET = "Not measured yet: `make bench-growth` does."
Result = dict[str, Any]


def curves_of(result: Result) -> dict[str, Curve]:
    """Read the curves of a result, in the order in which they are shown."""
    return {name: Curve.from_json(result["curves"][name]) for name in ORDER if name in result["curves"]}


def rows(result: Result) -> list[tuple[str, str, str]]:
    """Sum each curve up in a row of the page's first table."""
    found = []
    for name, curve in curves_of(result).items():
        low, high = min(curve.ratios), max(curve.ratios)
        what = f"{name}, {_size(curve.sizes[0])} to {_size(curve.sizes[-1])}: measured by theory"
        found.append((what, f"{low:.2f} to {high:.2f}", "growth"))
    return found


def section(result: Result | None) -> str:
    """Write the part of the page that is about growth."""
    if result is None:
        return NONE_YET
    parts = [f"![each cost, measured and by theory, over the size of what grows]({PICTURE})"]
    for name, curve in curves_of(result).items():
        where = result["curves"][name]
        parts.append(_table(name, curve))
        runs = len(curve.measured[0])
        counted = f"medians of {runs} runs in turns" if runs > 1 else "one run"
        parts.append(
            f"Theory: {curve.theory}{_drawn(curve)}. Measured: {counted}, {where['device']}, torch {where['torch']}, "
            f"{where['date']}."
        )
    return "\n\n".join(parts)


def _drawn(curve: Curve) -> str:
    return "" if curve.through is None else f", drawn through {_size(curve.through)}"


def _table(name: str, curve: Curve) -> str:
    lines = [
        [f"{name}: {curve.grows}", *map(_size, curve.sizes)],
        ["---"] * (len(curve.sizes) + 1),
        [curve.unit, *map(_figure, curve.medians)],
        ["theory", *map(_figure, curve.expected)],
        ["measured by theory", *(f"{ratio:.2f}" for ratio in curve.ratios)],
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _size(size: float) -> str:
    return f"{size:,g}"


def _figure(value: float) -> str:
    """Write three digits."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{round(value, digits):,.{max(0, digits)}f}"


def draw(result: Result, path: Path) -> None:
    """Write a picture with a small one for each curve: medians with all runs' range, and theory as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # without pyplot, which looks for a screen
    from matplotlib.figure import Figure

    curves = curves_of(result)
    lines = -(-len(curves) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 2.8 * lines), dpi=100)
    FigureCanvasAgg(figure)
    places = iter(figure.subplots(lines, COLUMNS, squeeze=False).flat)
    for (name, curve), axes in zip(curves.items(), places, strict=False):
        _draw_curve(axes, name, curve)
    for axes in places:  # those that are left
        axes.axis("off")
    figure.tight_layout()
    partial = aside(path)
    try:
        figure.savefig(partial, format="png")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _draw_curve(axes: "Axes", name: str, curve: Curve) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    middles = curve.medians
    down = [middle - min(runs) for middle, runs in zip(middles, curve.measured, strict=True)]
    up = [max(runs) - middle for middle, runs in zip(middles, curve.measured, strict=True)]
    axes.plot(curve.sizes, curve.expected, color="tab:gray", linewidth=1, label="theory")
    axes.errorbar(curve.sizes, middles, yerr=[down, up], fmt=".", capsize=2, linewidth=0.8, label="measured")
    axes.set(xscale="log", yscale="log")
    everything = [*curve.expected, *(cost for runs in curve.measured for cost in runs)]
    axes.set_ylim(min(everything) / 1.5, max(everything) * 1.5)
    axes.set_title(name, fontsize=9)
    axes.set_xlabel(curve.grows, fontsize=8)
    axes.set_ylabel(curve.unit, fontsize=7)
    axes.set_xticks(curve.sizes)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)
