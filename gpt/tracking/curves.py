"""The curves of several runs in one picture, and as text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gpt.files import aside

MARKS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Curve:
    """What one run recorded of a figure: points with finite coordinates, in their order."""

    name: str
    x: list[float]
    y: list[float]
    half_widths: list[float]
    """Half a 95 % interval of each y; 0 where it has none."""


def draw_curves(curves: Sequence[Curve], labels: tuple[str, str], path: Path) -> None:
    """Write a picture of curves, whose axes are called so; its kind (png, svg, pdf) is the ending of `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # without pyplot, which looks for a screen
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for curve in curves:
        many = len(curve.x) > 50  # of which each has no mark
        errors = curve.half_widths if any(curve.half_widths) else None
        axes.errorbar(
            curve.x,
            curve.y,
            yerr=errors,
            label=curve.name,
            linewidth=1,
            marker=None if many else ".",
            capsize=2,
            elinewidth=0.7,
        )
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.grid(alpha=0.3)
    for text in axes.legend().get_texts():
        text.set_parse_math(False)  # two dollars in a name are no formula
    figure.tight_layout()
    partial = aside(path)
    try:
        figure.savefig(partial, format=path.suffix[1:].lower())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def text_curves(curves: Sequence[Curve], labels: tuple[str, str], width: int = 78, height: int = 20) -> str:
    """Draw curves as lines of text, so many columns wide; each curve has a letter, which the legend explains."""
    xs = [x for curve in curves for x in curve.x]
    ys = [y for curve in curves for y in curve.y]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    ticks = [f"{high - (high - low) * row / (height - 1):.4g}" for row in range(height)]
    margin = max(map(len, ticks))
    columns = width - margin - 2
    grid = [[" "] * columns for _ in range(height)]
    for mark, curve in zip(MARKS, curves, strict=False):
        for column, y in _columns(curve, left, right, columns):
            row = round((high - y) / (high - low) * (height - 1)) if high > low else 0
            grid[row][column] = mark
    lines = [f"{labels[1]}"]
    shown = {0, height // 2, height - 1}
    lines += [f"{tick if row in shown else '':>{margin}} │{''.join(grid[row])}" for row, tick in enumerate(ticks)]
    lines.append(f"{'':{margin}} └{'─' * columns}")
    ends = f"{left:,.6g}", f"{right:,.6g} {labels[0]}"
    lines.append(f"{'':{margin}}  {ends[0]}{ends[1]:>{max(1, columns - len(ends[0]))}}")
    lines += [f"{mark}  {curve.name}" for mark, curve in zip(MARKS, curves, strict=False)]
    return "\n".join(line.rstrip() for line in lines)


def _columns(curve: Curve, left: float, right: float, columns: int) -> list[tuple[int, float]]:
    """Give the height of a curve in each column that it crosses, between its points as if they were joined."""
    scale = (columns - 1) / (right - left) if right > left else 0.0
    points = [((x - left) * scale, y) for x, y in zip(curve.x, curve.y, strict=True)]
    found = [(round(place), y) for place, y in points]
    for (one, y), (two, z) in pairwise(points):
        between = range(math.ceil(one), math.floor(two) + 1) if two > one else ()
        found += [(column, y + (z - y) * (column - one) / (two - one)) for column in between]
    return found
