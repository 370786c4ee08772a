"""Reads what the TPU compiler finally schedules: bundles, one a cycle, in the loops they stand in.

    --xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final.*

The dump names no loops, but it shows how deep each bundle lies, where a loop's body begins, and the test that
ends a loop whose trip count is constant. The trip counts of all other loops are for the caller to know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(?P<mark>[A-Z]{2})?\s*:\s*(?P<depth>>*)\s*\{(?P<content>.*)")
_CONSTANT_TEST = re.compile(r"scmp\.ge\.s32\.totalorder %\w+, (\d+) /\* loop exit test \*/")


@dataclass
class Loop:
    """A loop of the program, or at depth 0 the program.

    Attributes:
        depth: loops around it, itself included.
        bundles: of its body, without those of the loops in it.
        trips: constant trip count, or None.
        inner: the loops in it.
    """

    depth: int
    bundles: int = 0
    trips: int | None = None
    inner: list[Loop] = field(default_factory=list)

    def walk(self) -> list[Loop]:
        """The loop and all in it, in the order of the program."""
        return [self, *(loop for child in self.inner for loop in child.walk())]

    def cycles(self, trips: dict[int, float]) -> float:
        """Bundles of one turn, each as often as it runs; ``trips`` by a loop's ``id``."""
        return self.bundles + sum(trips[id(loop)] * loop.cycles(trips) for loop in self.inner)


def read_program(text: str) -> Loop:
    """The loops of a dumped kernel."""
    program = Loop(0)
    stack = [program]
    for line in text.splitlines():
        found = _BUNDLE.match(line)
        if not found:
            continue
        depth, content = len(found["depth"]), found["content"]
        if content.startswith("}") and not found["mark"]:  # empty: it says no depth
            depth = stack[-1].depth
        elif "sbr.rel (!" in content and len(stack) > depth + 1:  # the jump back is shown outside its loop
            depth += 1
        if found["mark"] == "LB":
            del stack[depth:]
            stack[-1].inner.append(Loop(depth))
            stack.append(stack[-1].inner[-1])
        else:
            del stack[depth + 1 :]
        stack[-1].bundles += 1
        constant = _CONSTANT_TEST.search(line)
        if constant:
            stack[-1].trips = int(constant[1])
    return program


def find_kernel(folder: Path, name: str) -> str:
    """The text of the dumped kernel whose name begins with ``name``.

    Raises:
        FileNotFoundError: there is none.
    """
    for path in sorted(folder.glob("*-final_bundles.txt")):
        if "schedule-analysis" not in path.name and re.search(rf"\d+-{name}", path.name):
            return path.read_text()
    raise FileNotFoundError(f"no kernel {name} in {folder}")


def weighted(program: Loop, dynamic: Sequence[float], once: float = 1.0) -> float:
    """Cycles of the whole program.

    Args:
        program: see :func:`read_program`.
        dynamic: trip counts of the outermost loops and of those without a constant one, in order; in one turn
            of what is around. (The compiler gives a constant grid turns of its own before and after.)
        once: factor for constant loops before the second dynamic one, if the first step alone has them.

    Raises:
        ValueError: the program has another number of such loops; the text shows its loops.
    """
    loops = program.walk()[1:]
    unknown = [loop for loop in loops if loop.trips is None or loop.depth == 1]
    if len(unknown) != len(dynamic):
        shown = ", ".join(f"{'>' * loop.depth}{loop.bundles} x {loop.trips or '?'}" for loop in loops)
        raise ValueError(f"{len(dynamic)} trip counts for {len(unknown)} loops: {shown}")
    trips = {id(loop): float(loop.trips or 0) for loop in loops}
    trips.update({id(loop): count for loop, count in zip(unknown, dynamic, strict=True)})
    if len(unknown) > 1:
        for loop in loops[: loops.index(unknown[1])]:
            if loop.trips is not None and loop.depth > 1:
                trips[id(loop)] *= once
    return program.cycles(trips)
