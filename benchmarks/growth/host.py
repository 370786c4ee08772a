"""What a step costs the host, over the running sequences; the device answers at once (see host_cost.py)."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.growth.curves import Curve, write
from benchmarks.host_cost import measure

PANEL = "host"
PARTS = ("schedule", "build inputs", "update", "process", "deliver")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--running", type=int, nargs="+", default=[4**n for n in range(6)], help="running sequences"
    )
    parser.add_argument("--context", type=int, default=256, help="prompt tokens of each")
    parser.add_argument("--steps", type=int, default=300, help="decode steps that are timed")
    parser.add_argument("--out", type=Path, required=True, help="write the curves to this file")


def run(args: argparse.Namespace) -> None:
    points: dict[str, list[float]] = {}
    for running in args.running:
        found = measure(running, args.context, args.steps)
        thread = found["engine thread"]
        for part in PARTS:
            points.setdefault(part, []).append(thread[part])
        points.setdefault("together", []).append(thread["step, median"])
        points.setdefault("together, p99", []).append(thread["step, p99"])
        points.setdefault("engine without its thread", []).append(found["engine"]["step, median"])
        print(f"{running:5} running: {thread['step, median']:.3f} ms a step", flush=True)
    curves = [Curve(PANEL, name, list(args.running), values) for name, values in points.items()]
    write(args.out, curves, context=args.context, steps=args.steps)
