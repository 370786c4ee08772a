"""What a step costs the host, over the running sequences and over their context.

The device answers at once (see host_cost.py). "together" is the mean of all steps, since the work that comes
with a new block of 16 tokens falls on few of them; the parts are medians.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.growth.curves import Curve, write
from benchmarks.host_cost import measure

RUNNING, CONTEXT = "host", "host, context"
NAMES = {
    "step, mean": "together",
    "process": "process",
    "schedule": "schedule",
    "update": "update",
    "build inputs": "build inputs",
    "deliver": "deliver",
}
"""Of the engine thread's figures, and what they are called in the picture."""


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
        found = measure(running, context, args.steps)["engine thread"]
        for figure, name in NAMES.items():
            points.setdefault((panel, name), {})[x] = found[figure]
        print(f"{running} running, {context} tokens each: {found['step, mean']:.3f} ms a step", flush=True)
    curves = [Curve(panel, name, list(at), list(at.values())) for (panel, name), at in points.items()]
    write(args.out, curves, context=args.context, steps=args.steps)
