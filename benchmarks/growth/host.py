"""What a step costs the host, over the running sequences and over their context.

The device answers at once (see host_cost.py). All are means over the steps. The parts, and "engine", are the
engine alone; "with readers" is the engine's thread beside an event loop with a reader for each request, which
shares Python's lock and the caches with it.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.growth.curves import Curve, write
from benchmarks.host_cost import measure

RUNNING, CONTEXT = "host", "host, context"
PARTS = ("process", "schedule", "update", "build inputs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    powers = [4**n for n in range(8)]
    parser.add_argument("--running", type=int, nargs="*", default=powers[:6], help="with --context tokens")
    parser.add_argument("--context", type=int, default=256, help="prompt tokens of each")
    parser.add_argument("--contexts", type=int, nargs="*", default=powers[4:], help="of 64 sequences")
    parser.add_argument("--steps", type=int, default=300, help="decode steps that are timed")
    parser.add_argument("--out", type=Path, required=True, help="write the curves to this file")


def run(args: argparse.Namespace) -> None:
    cases = [(RUNNING, running, running, args.context) for running in args.running]
    cases += [(CONTEXT, context, 64, context) for context in args.contexts]
    points: dict[tuple[str, str], dict[float, float]] = {}
    for panel, x, running, context in cases:
        found = measure(running, context, args.steps, average=statistics.fmean)
        engine, thread = found["engine"], found["engine thread"]
        figures = {"with readers": thread["step, mean"], "engine": engine["step, mean"]}
        figures |= {part: engine[part] for part in PARTS} | {"deliver": thread["deliver"]}
        for name, value in figures.items():
            points.setdefault((panel, name), {})[x] = value
        told = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print(f"{running} running, {context} tokens each: {told} ms a step", flush=True)
    curves = [Curve(panel, name, list(at), list(at.values())) for (panel, name), at in points.items()]
    write(args.out, curves, context=args.context, steps=args.steps)
