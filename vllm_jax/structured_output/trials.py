"""Grammars compile in another process first; what takes for ever, all memory or the stack ends there.

Knows processes and pipes. Does not know what a grammar says, nor compiles any: that is the script
:mod:`.trial_process`. A native compilation can be ended in no other way, and overflows of its stack would end
the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from vllm_jax.errors import OverloadedError

QUICK_PLACES, SLOW_PLACES = 2, 2
"""Compilations at a time. Nearly all are quick; one that is not gives its place to others."""
MAX_PROCESSES = QUICK_PLACES + SLOW_PLACES
MAX_BYTES = 1 << 30
"""Memory of one process; the largest grammars that anybody needs take a tenth of it."""

_PATIENCE_S, _LATER_PRIORITY = 0.5, 10
"""A compilation that takes longer is slow, and goes on with less priority than what is served."""
_MAX_WAIT = 3
"""Times the processor time: seconds after which nobody waits for a slow compilation any more."""
_SCRIPT = Path(__file__).with_name("trial_process.py")


class TrialFailedError(Exception):
    """A compilation took too much time, memory or stack."""


class Trials:
    """Tries grammars, several at once. Thread-safe. Processes are started when they are needed.

    ``seconds`` is the processor time that a compilation may take, ``limits`` what the engine's parser
    limits are made of, ``size`` the number of ids of the vocabulary, ``special`` its special tokens' texts.
    """

    def __init__(self, seconds: float, limits: Mapping[str, Any], size: int, special: Mapping[int, str]):
        self.seconds = seconds
        setup = {"seconds": seconds, "bytes": MAX_BYTES, "limits": limits, "size": size, "special": special}
        self._setup = json.dumps(setup) + "\n"
        self._quick = threading.BoundedSemaphore(QUICK_PLACES)
        self._slow = threading.BoundedSemaphore(SLOW_PLACES)
        self._idle: list[_Process] = []
        weakref.finalize(self, _close, self._idle)

    def run(self, grammar: str) -> None:
        """Compiles ``grammar`` and forgets it; returns where that ends, with or without an error.

        Raises:
            TrialFailedError: it takes too much time, memory or stack.
            OverloadedError: it is slow, and so are others.
            RuntimeError: no process can be started.
        """
        with self._quick:
            process = self._take()
            process.compile(grammar)
            ended = process.ended(_PATIENCE_S)
            if ended and process.alive:
                self._idle.append(process)
        if ended is None:
            ended = self._wait(process)
        if not ended:
            process.close()
            raise TrialFailedError

    def _wait(self, process: _Process) -> bool:
        """Whether a slow compilation ends; then its process does too, as its priority is for good."""
        if not self._slow.acquire(blocking=False):
            process.close()
            raise OverloadedError("Too many expensive grammars are being compiled; try again later.")
        try:
            process.yield_to_others()
            return bool(process.ended(_MAX_WAIT * self.seconds))
        finally:
            self._slow.release()
            process.close()

    def _take(self) -> _Process:
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            process.close()
        return _Process(self._setup)


class _Process:
    def __init__(self, setup: str):
        try:
            self._process = subprocess.Popen(
                # -P: the directory of the script, with its source.py, is no place to import from.
                [sys.executable, "-P", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server
            )
        except OSError as error:
            raise RuntimeError(f"no process to compile grammars in can be started: {error}") from None
        self._send(setup)
        if not self._answers():
            self.close()
            raise RuntimeError("the process to compile grammars in ends at its start")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def compile(self, grammar: str) -> None:
        """Begins a compilation."""
        self._send(json.dumps(grammar) + "\n")

    def ended(self, seconds: float) -> bool | None:
        """Whether the compilation has ended, or else the process; None where neither has in that time."""
        waiting = select.poll()
        waiting.register(self._stdout, select.POLLIN)
        return self._answers() if waiting.poll(1000 * seconds) else None

    def yield_to_others(self) -> None:
        """Goes on with less priority."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _LATER_PRIORITY)

    def close(self) -> None:
        """Ends the process. May be called twice."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _answers(self) -> bool:
        return bool(self._stdout.read(1))

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: its answer will be none
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


def _close(processes: list[_Process]) -> None:
    while processes:
        processes.pop().close()
