"""The ``vllm-jax`` command. Knows its subcommands and how a failure is said: one line, exit code not 0."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence

from api.commands.usage import UsageError
from vllm_jax import __version__
from vllm_jax.errors import ConfigError

HELP = """usage: vllm-jax [--version] [--help] COMMAND ...

A JAX-first inference server that any OpenAI client can use unchanged.

commands:
  serve [MODEL] [FLAGS]   Serve MODEL (the bundled demo model if left out) on http://localhost:8000/v1
  chat [FLAGS]            Chat with a server, from the terminal or a pipe
  complete [FLAGS]        Complete texts with a server
  run-batch [MODEL] -i IN.jsonl -o OUT.jsonl [FLAGS]
                          Answer a file of requests without a server
  bench COMMAND [FLAGS]   Measure a server, the engine or a start: serve, offline, startup

Try:  vllm-jax serve
      vllm-jax serve --help
      vllm-jax serve Qwen/Qwen3-0.6B --max-model-len 4096
      vllm-jax chat --quick "Good morning!"
      vllm-jax bench serve --num-prompts 64 --max-concurrency 16
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
    runner = _COMMANDS.get(command)
    if runner is None:
        close = difflib.get_close_matches(command, _COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "see vllm-jax --help"
        return _complain(f"unknown command {command!r}; {hint}", 2)
    try:
        return runner(rest)
    except UsageError as error:
        return _complain(str(error), 2)
    except ConfigError as error:
        return _complain(str(error), 1)
    except SystemExit as end:
        return int(end.code or 0)
    except KeyboardInterrupt:
        return _complain("stopped", 130)


def _serve(argv: list[str]) -> int:
    from api.commands.flags import parse_serve

    try:
        arguments = parse_serve(argv)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    for note in arguments.notes:
        print(f"vllm-jax: warning: {note}", file=sys.stderr)
    from api.commands.serve import serve

    try:
        return serve(arguments.engine, arguments.server)
    except KeyboardInterrupt:
        return _complain("stopped before the server was ready", 130)


def _bench(argv: list[str]) -> int:
    from api.commands.bench import bench

    return bench(argv)


def _chat(argv: list[str]) -> int:
    from api.commands.chat import chat

    return chat(argv)


def _complete(argv: list[str]) -> int:
    from api.commands.chat import complete

    return complete(argv)


def _run_batch(argv: list[str]) -> int:
    from api.commands.run_batch import run_batch

    return run_batch(argv)


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "serve": _serve,
    "chat": _chat,
    "complete": _complete,
    "run-batch": _run_batch,
    "bench": _bench,
}


def _complain(text: str, code: int) -> int:
    print(f"vllm-jax: error: {' '.join(text.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
