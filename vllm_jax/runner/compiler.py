"""Compiling programs ahead of time, all of them before the first request. Knows jax.jit; knows no model.

Tracing holds Python's lock, compiling does not: programs are lowered one after the other here and compiled
in a pool beside it, and those that are on disk are only read. After warm-up a program is looked up; whether
a miss is compiled, at the price of a stall, or is an error is for the runner to say.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import jax

from vllm_jax.errors import RecompilationError
from vllm_jax.runner.compile_watch import CompilationWatch
from vllm_jax.runner.program_store import ProgramStore

CompileProgress = Callable[[int, int, str], None]
"""Called with (programs done, programs in all, name of the last one)."""


@dataclass(frozen=True)
class Program:
    """What to compile: ``function(*arguments)`` under ``jax.jit``, its arguments given by shape.

    ``key`` finds it again; ``donate`` are the positions of the arguments whose buffers it takes over.
    ``identity`` is what else the function depends on, beside its code and ``key``: executables are kept on
    disk under it.
    """

    key: Hashable
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donate: tuple[int, ...] = ()
    identity: str = ""

    @property
    def name(self) -> str:
        """The key for a person."""
        return " ".join(map(str, self.key)) if isinstance(self.key, tuple) else str(self.key)

    def lower(self) -> jax.stages.Lowered:
        """Traces it."""
        return jax.jit(self.function, donate_argnums=self.donate).lower(*self.arguments)


class ProgramCache:
    """Compiled programs by key.

    Args:
        store: where executables are kept for the next start; None keeps none.
    """

    def __init__(self, store: ProgramStore | None = None) -> None:
        self._programs: dict[Hashable, Any] = {}
        self._store = store
        self.watch = CompilationWatch()
        self.seconds = 0.0
        """Wall time spent in :meth:`compile`."""
        self.num_compiled = 0
        """Programs that XLA compiled; the others were on disk."""

    def __len__(self) -> int:
        return len(self._programs)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._programs

    def __getitem__(self, key: Hashable) -> Any:
        try:
            return self._programs[key]
        except KeyError:
            raise RecompilationError(f"the program {key} was not compiled before ready") from None

    def add(self, program: Program) -> None:
        """Compiles one program in this thread."""
        self._programs[program.key] = program.lower().compile()

    def compile(self, programs: Iterable[Program], progress: CompileProgress | None = None) -> None:
        """Loads or compiles ``programs`` in parallel and keeps them. Raises what XLA raises for a program."""
        started = time.monotonic()
        wanted = list(programs)
        working: dict[Future[Any], Program] = {}
        done = 0

        def keep(program: Program, compiled: Any) -> None:
            nonlocal done
            self._programs[program.key] = compiled
            done += 1
            if progress is not None:
                progress(done, len(wanted), program.name)

        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            loading = {pool.submit(self._load, program): program for program in wanted}
            for future in as_completed(loading):
                program, compiled = loading[future], future.result()
                if compiled is None:
                    working[pool.submit(self._compile, program, program.lower())] = program
                else:
                    keep(program, compiled)
                for finished in [future for future in working if future.done()]:
                    keep(working.pop(finished), finished.result())
            for finished in as_completed(list(working)):
                keep(working.pop(finished), finished.result())
        if self._store is not None:
            self._store.prune()
        self.seconds += time.monotonic() - started

    def _load(self, program: Program) -> Any | None:
        return (
            None
            if self._store is None
            else self._store.load(program.identity + program.name, program.arguments)
        )

    def _compile(self, program: Program, lowered: jax.stages.Lowered) -> Any:
        with self.watch.here() as seen:
            compiled = lowered.compile()
        if not seen.num_cached:
            self.num_compiled += 1
            if self._store is not None:
                self._store.save(program.identity + program.name, program.arguments, compiled)
        return compiled


def temporary_bytes(compiled: Any) -> int:
    """Memory a program needs besides its arguments and results, as the compiler says (0: unknown)."""
    analysis = compiled.memory_analysis()
    return 0 if analysis is None else int(analysis.temp_size_in_bytes)
