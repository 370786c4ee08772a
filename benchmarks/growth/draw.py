"""Pictures and a table of curves."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.growth.curves import Curve, Growth, grow, read


@dataclass(frozen=True)
class Panel:
    """How the curves of one kind are drawn. ``scale`` is that of both axes."""

    title: str
    x: str
    y: str
    scale: str = "log"


PANELS = {
    "startup": Panel("start-up over model size", "parameters (millions)", "seconds"),
    "layers": Panel("start-up over layers", "layers of a small model", "seconds"),
    "batch": Panel("decode step over batch", "sequences, 512 tokens each", "ms"),
    "context": Panel("decode step over context", "tokens of each of 8 sequences", "ms"),
    "vocabulary": Panel("decode step over vocabulary", "entries; 8 sequences of 512 tokens", "ms"),
    "host": Panel("host's part of a step over batch", "running sequences", "ms"),
    "host, context": Panel("host's part of a step over context", "tokens of each of 64 sequences", "ms"),
    "memory": Panel("memory over served requests", "requests", "resident, MiB", "linear"),
}


def draw(path: Path, curves: Sequence[Curve]) -> None:
    """Every panel that has curves, four in a row; what is computed and not measured is dashed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    names = [name for name in PANELS if any(curve.panel == name for curve in curves)]
    columns = min(4, len(names)) or 1
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.8 * max(rows, 1)), layout="constrained")
    FigureCanvasAgg(figure)
    every: Any = figure.subplots(max(rows, 1), columns, squeeze=False).flat
    for axes, name in zip(every, names, strict=False):
        panel = PANELS[name]
        for curve in (curve for curve in curves if curve.panel == name):
            if curve.ideal:
                axes.plot(curve.x, curve.y, "--", color="0.5", lw=1, label="at least")
            else:
                axes.plot(curve.x, curve.y, "o-" if panel.scale == "log" else "-", ms=3, label=curve.name)
        axes.set(xscale=panel.scale, yscale=panel.scale, title=panel.title, xlabel=panel.x, ylabel=panel.y)
        if panel.scale == "linear":
            axes.set_ylim(0, None)
        else:
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.4)))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    for axes in list(every)[len(names) :]:
        axes.remove()
    figure.savefig(path, dpi=65)


def table(curves: Sequence[Curve]) -> str:
    """Markdown: each curve's ends, the line through it, and its slopes over logarithmic axes."""
    lines = [
        "| curve | over | from, to | fixed | a unit | off the line | slope | steepest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for curve in curves:
        if len(curve.x) > 1 and min(curve.x) > 0 and min(curve.y) > 0:
            lines.append(row(curve, grow(curve)))
    return "\n".join(lines)


def row(curve: Curve, growth: Growth) -> str:
    """One line of the table."""
    fields = [
        f"{curve.panel}: {'at least' if curve.ideal else curve.name}",
        f"{curve.x[0]:g} - {curve.x[-1]:g}",
        f"{curve.y[0]:.3g}, {curve.y[-1]:.3g}",
        f"{growth.fixed:.3g}",
        f"{growth.unit:.3g}",
        f"{growth.off:.0%}",
        f"{growth.slope:.2f}",
        f"{growth.steepest:.2f}",
    ]
    return f"| {' | '.join(fields)} |"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", help="what the measurements have written")
    parser.add_argument("--into", type=Path, required=True, help="growth.png goes into this folder")


def run(args: argparse.Namespace) -> None:
    curves = read(args.files)
    draw(args.into / "growth.png", curves)
    print(table(curves))
