"""The ``vllm-jax`` command. Knows its subcommands and how a failure is said: one line, exit code not 0."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from vllm_jax import __version__
from vllm_jax.errors import ConfigError

HELP = """usage: vllm-jax [--version] [--help] COMMAND ...

A JAX-first inference server that any OpenAI client can use unchanged.

commands:
  serve [MODEL] [FLAGS]   Serve MODEL (the bundled demo model if left out) on http://localhost:8000/v1

Try:  vllm-jax serve
      vllm-jax serve --help
      vllm-jax serve Qwen/Qwen3-0.6B --max-model-len 4096
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, 1 (it failed) or 2 (it was called wrongly)."""
    try:
        return _run(argv)
    except BrokenPipeError:  # vllm-jax serve --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter's last flush must not fail
        return 0


def _run(argv: Sequence[str] | None) -> int:
    command, *rest = sys.argv[1:] if argv is None else argv or ["--help"]
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command in ("-V", "--version", "version"):
        print(f"vllm-jax {__version__}")
        return 0
    if command != "serve":
        return _complain(f"unknown command {command!r}; see vllm-jax --help", 2)
    from api.commands.flags import parse_serve

    try:
        arguments = parse_serve(rest)
    except ConfigError as error:
        return _complain(str(error), 2)
    except SystemExit as end:
        return int(end.code or 0)
    for note in arguments.notes:
        print(f"vllm-jax: warning: {note}", file=sys.stderr)
    from api.commands.serve import serve

    try:
        return serve(arguments.engine, arguments.server)
    except ConfigError as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return _complain("stopped before the server was ready", 130)


def _complain(text: str, code: int) -> int:
    print(f"vllm-jax: error: {' '.join(text.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
