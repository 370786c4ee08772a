"""The benchmark of growth: its slopes against known functions, and a measurement with its picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.growth.__main__ import main
from benchmarks.growth.curves import Curve, grow, read, write

SIZES = [1.0, 4.0, 16.0, 64.0, 256.0]


def test_a_line_has_its_two_parts_and_is_never_steeper_than_one() -> None:
    growth = grow(Curve("host", "line", SIZES, [3 + 0.25 * x for x in SIZES]))
    assert (growth.fixed, growth.unit) == pytest.approx((3, 0.25))
    assert growth.off == pytest.approx(0, abs=1e-9)
    assert growth.slope < growth.steepest < 1


def test_what_grows_faster_than_a_line_is_seen_where_it_does() -> None:
    growth = grow(Curve("host", "square", SIZES, [5 + 0.001 * x**2 for x in SIZES]))
    assert growth.steepest == pytest.approx(np.log(70.536 / 9.096) / np.log(4)) and growth.slope < 1
    assert growth.off > 0.1


def test_files_are_put_together(tmp_path: Path) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    write(first, [Curve("host", "a", [4, 1], [40, 10]), Curve("host", "b", [1], [1], ideal=True)])
    write(second, [Curve("host", "a", [2, 4], [20, 41])], told="why")
    assert read([first, second]) == [
        Curve("host", "a", [1, 2, 4], [10, 20, 41]),
        Curve("host", "b", [1], [1], ideal=True),
    ]
    assert json.loads(second.read_text())["told"] == "why"


def test_the_hosts_time_is_measured_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "host.json"
    assert (
        main(
            [
                "host",
                "--running",
                "2",
                "32",
                "--context",
                "20",
                "--steps",
                "30",
                "--contexts",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    curves = {curve.name: curve for curve in read([out])}
    assert curves["engine"].x == curves["with readers"].x == [2, 32]
    parts = [curves[part].y[1] for part in ("schedule", "build inputs", "update", "process")]
    assert min(parts) > 0 and sum(parts) < curves["engine"].y[1]

    assert main(["plot", str(out), "--into", str(tmp_path)]) == 0
    assert "| host: engine | 2 - 32 |" in capsys.readouterr().out
    picture = matplotlib.image.imread(tmp_path / "growth.png")
    assert picture.shape[0] > 200 and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 8
