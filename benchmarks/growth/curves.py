"""Curves: points that were measured over one size, kept in files, and how fast they grow.

Every cost here is meant to be *a part that is fixed and a part for each unit*: a line, whose slope over
logarithmic axes is never above 1. (Memory over requests is meant to be the fixed part alone.) So what a curve
is held to is its steepest slope over logarithmic axes; a line through it gives the two parts.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.roofline import commit

SPAN = 4.0
"""Slopes are taken between points whose sizes differ by at least this factor: closer ones show the noise."""


@dataclass(frozen=True)
class Curve:
    """``y`` over ``x``; ``panel`` is the picture it is drawn in, and says the units.

    ``ideal``: computed and not measured, what the machine would need at least.
    """

    panel: str
    name: str
    x: list[float]
    y: list[float]
    ideal: bool = False


@dataclass(frozen=True)
class Growth:
    """How a curve grows: about ``fixed + unit * x``; both can be below 0 where it is no line.

    ``off``: the largest difference from that line, as a part of the curve. ``slope``: of the line through the
    points over logarithmic axes; ``steepest``: between any two points that are :data:`SPAN` apart.
    """

    fixed: float
    unit: float
    off: float
    slope: float
    steepest: float


def grow(curve: Curve) -> Growth:
    """The growth of a curve of two points or more, all above 0. Every point weighs the same as a ratio."""
    x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
    rows = np.stack([np.ones_like(x), x], axis=1)
    (fixed, unit), *_ = np.linalg.lstsq(rows / y[:, None], np.ones_like(y), rcond=None)
    log_x, log_y = np.log(x), np.log(y)
    pairs = [(i, j) for i in range(len(x)) for j in range(i) if x[i] >= SPAN * x[j]]
    slopes = [(log_y[i] - log_y[j]) / (log_x[i] - log_x[j]) for i, j in pairs]
    slope = float(np.polyfit(log_x, log_y, 1)[0])
    return Growth(
        fixed=float(fixed),
        unit=float(unit),
        off=float(np.max(np.abs(rows @ [fixed, unit] / y - 1))),
        slope=slope,
        steepest=float(max(slopes, default=slope)),
    )


def write(path: Path, curves: Sequence[Curve], **details: Any) -> None:
    """Curves, where they come from, and whatever else is worth keeping."""
    content = {
        "commit": commit(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        **details,
        "curves": [asdict(curve) for curve in curves],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def read(paths: Sequence[Path]) -> list[Curve]:
    """The curves of several files; what has the same panel and name becomes one, sorted by ``x``.

    A point that is measured in two files is taken from the later one.
    """
    points: dict[tuple[str, str, bool], dict[float, float]] = {}
    for path in paths:
        for curve in json.loads(path.read_text())["curves"]:
            key = (curve["panel"], curve["name"], curve["ideal"])
            points.setdefault(key, {}).update(zip(curve["x"], curve["y"], strict=True))
    return [
        Curve(panel, name, sorted(found), [found[x] for x in sorted(found)], ideal)
        for (panel, name, ideal), found in points.items()
    ]
