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

MAX_PROCESSES = 2
MAX_BYTES = 1 << 30
"""Memory of one process; the largest grammars that anybody needs take a tenth of it."""

_PATIENCE_S, _LATER_PRIORITY = 0.5, 10
"""A compilation that takes longer goes on with less priority than the requests that are served."""
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
        self._places = threading.BoundedSemaphore(MAX_PROCESSES)
        self._idle: list[_Process] = []
        weakref.finalize(self, _close, self._idle)

    def run(self, grammar: str) -> None:
        """Compiles ``grammar`` and forgets it; returns where that ends, with or without an error.

        Raises:
            TrialFailedError: it takes too much time, memory or stack.
            RuntimeError: no process can be started.
        """
        with self._places:
            process = self._take()
            ended = process.compiles(grammar)
            if process.alive:
                self._idle.append(process)
        if not ended:
            raise TrialFailedError

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

    def compiles(self, grammar: str) -> bool:
        """Whether a compilation ends; if not, this process has. One that was slow is closed as well."""
        self._send(json.dumps(grammar) + "\n")
        quick = select.poll()
        quick.register(self._stdout, select.POLLIN)
        if quick.poll(1000 * _PATIENCE_S):
            ended = self._answers()
        else:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _LATER_PRIORITY)
            ended = self._answers()
            self.close()
        if not ended:
            self.close()
        return ended

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
