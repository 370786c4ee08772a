"""Compiling programs ahead of time, all of them before the first request. Knows jax.jit; knows no model.

Tracing holds Python's lock, compiling does not: programs are lowered one after the other here and compiled
in a pool beside it, and those that are on disk are only read. What was compiled here is kept on disk once
the copy that a later start would load has run. After warm-up a program is looked up; whether a miss is
compiled, at the price of a stall, or is an error is for the runner to say.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vllm_jax.errors import RecompilationError
from vllm_jax.runner.compile_watch import CompilationWatch
from vllm_jax.runner.memory import return_freed_memory
from vllm_jax.runner.program_store import Candidate, ProgramStore

logger = logging.getLogger(__name__)

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


Trial = Callable[[Program, Any], None]
"""Runs an executable of a program once; raises where it does not run."""


def run_on_zeros(program: Program, executable: Any) -> None:
    """The :data:`Trial` for programs that run on anything."""
    jax.block_until_ready(executable(*zeros(program.arguments)))


def zeros(arguments: Any) -> Any:
    """Zeros for arguments that are given by shape."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), arguments)


class ProgramCache:
    """Compiled programs by key.

    Args:
        store: where executables are kept for the next start; None keeps none.
        trial: is called, in the thread that calls :meth:`compile`, before an executable is kept.
    """

    def __init__(self, store: ProgramStore | None = None, trial: Trial = run_on_zeros) -> None:
        self._programs: dict[Hashable, Any] = {}
        self._store = store
        self._trial = trial
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
        working: dict[Future[tuple[Any, bool, Candidate | None]], Program] = {}
        done = 0

        def add(
            program: Program, compiled: Any, fresh: bool = False, candidate: Candidate | None = None
        ) -> None:
            nonlocal done
            self._programs[program.key] = compiled
            self.num_compiled += fresh
            if fresh:
                return_freed_memory()
            if candidate is not None:
                self._keep(program, candidate)
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
                    add(program, compiled)
                for finished in [future for future in working if future.done()]:
                    add(working.pop(finished), *finished.result())
            for finished in as_completed(list(working)):
                add(working.pop(finished), *finished.result())
        if self._store is not None:
            self._store.prune()
        self.seconds += time.monotonic() - started

    def _load(self, program: Program) -> Any | None:
        return (
            None
            if self._store is None
            else self._store.load(program.identity + program.name, program.arguments)
        )

    def _compile(self, program: Program, lowered: jax.stages.Lowered) -> tuple[Any, bool, Candidate | None]:
        """The executable, whether XLA has compiled it just now, and what to keep of it."""
        with self.watch.here() as seen:
            compiled = lowered.compile()
        # jax has a persistent cache, which tells of a hit, and one in this process, which tells nothing and
        # may hold what came out of the other.
        fresh = bool(seen.names) and not seen.num_cached
        candidate = None
        if fresh and self._store is not None:
            candidate = self._store.candidate(program.identity + program.name, program.arguments, compiled)
        return compiled, fresh, candidate

    def _keep(self, program: Program, candidate: Candidate) -> None:
        """Keeps an executable for the next start, if what that would load runs."""
        assert self._store is not None
        try:
            self._trial(program, candidate.executable)
        except Exception as error:  # whatever XLA finds wrong with it: this start has the program it compiled
            logger.warning("the program %s is not kept for the next start: %s", program.name, error)
        else:
            self._store.keep(candidate)


def temporary_bytes(compiled: Any) -> int:
    """Memory a program needs besides its arguments and results, as the compiler says (0: unknown)."""
    analysis = compiled.memory_analysis()
    return 0 if analysis is None else int(analysis.temp_size_in_bytes)
