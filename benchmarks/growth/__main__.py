"""How cost grows: one size is raised, and the cost is held against what the algorithm says.

    python -m benchmarks.growth startup|step|host|memory --out FILE.json     measures
    python -m benchmarks.growth plot FILE.json... --into docs/               draws; prints a table of slopes

start-up over model size; the time of a step over batch, context and vocabulary; the host's time over running
sequences; memory over served requests. Each file may hold a part of the sizes: they are put together.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.growth import draw, host, memory, startup, step

COMMANDS = {"startup": startup, "step": step, "host": host, "memory": memory, "plot": draw}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        module.add_arguments(
            commands.add_parser(
                name,
                help=(module.__doc__ or "").splitlines()[0],
                description=module.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    args = parser.parse_args(words)
    return int(COMMANDS[args.command].run(args) or 0)


if __name__ == "__main__":
    sys.exit(main())
