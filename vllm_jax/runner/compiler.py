"""Compiling programs ahead of time, all of them before the first request. Knows jax.jit; knows no model.

Tracing holds Python's lock, compiling does not: programs are lowered one after the other here and compiled
in a pool beside it. After warm-up a program is only ever looked up; a miss is an error in the registry,
never a silent compilation under load.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import jax

CompileProgress = Callable[[int, int, str], None]
"""Called with (programs done, programs in all, name of the last one)."""


@dataclass(frozen=True)
class Program:
    """What to compile: ``function(*arguments)`` under ``jax.jit``, its arguments given by shape.

    ``key`` finds it again; ``donate`` are the positions of the arguments whose buffers it takes over.
    """

    key: Hashable
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donate: tuple[int, ...] = ()


class ProgramCache:
    """Compiled programs by key."""

    def __init__(self) -> None:
        self._programs: dict[Hashable, Any] = {}
        self.seconds = 0.0
        """Wall time spent in :meth:`compile`."""

    def __len__(self) -> int:
        return len(self._programs)

    def __getitem__(self, key: Hashable) -> Any:
        try:
            return self._programs[key]
        except KeyError:
            raise KeyError(f"program {key} was not compiled before ready") from None

    def compile(self, programs: Iterable[Program], progress: CompileProgress | None = None) -> None:
        """Compiles ``programs`` in parallel and keeps them. Raises what XLA raises for a program."""
        started = time.monotonic()
        wanted = list(programs)
        compiling: dict[Future[Any], Program] = {}
        done = 0

        def keep(finished: Iterable[Future[Any]]) -> None:
            nonlocal done
            for future in finished:
                program = compiling.pop(future)
                self._programs[program.key] = future.result()
                done += 1
                if progress is not None:
                    progress(done, len(wanted), str(program.key))

        with ThreadPoolExecutor(max_workers=max(1, os.cpu_count() or 1)) as pool:
            for program in wanted:
                lowered = jax.jit(program.function, donate_argnums=program.donate).lower(*program.arguments)
                compiling[pool.submit(lowered.compile)] = program
                keep([future for future in compiling if future.done()])
            keep(as_completed(list(compiling)))
        self.seconds += time.monotonic() - started


def temporary_bytes(compiled: Any) -> int:
    """Memory a program needs besides its arguments and results, as the compiler says (0: unknown)."""
    analysis = compiled.memory_analysis()
    return 0 if analysis is None else int(analysis.temp_size_in_bytes)
