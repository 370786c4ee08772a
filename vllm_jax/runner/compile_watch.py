"""What XLA really compiles, whoever asked for it: a program, or a stray array operation on the way to one.

Knows jax's monitoring events; knows no programs. jax reports a compilation in the thread that waits for it,
also when the result came from the persistent cache, which stalls a server as well, if not as long.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax.monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


@dataclass
class Compilations:
    """What a thread compiled while it was watched: names of functions, and how many came from the cache."""

    names: list[str] = field(default_factory=list)
    num_cached: int = 0


class CompilationWatch:
    """Notes compilations, each thread's own, while the thread is inside :meth:`here`."""

    def __init__(self) -> None:
        self._watched: dict[int, Compilations] = {}
        # jax keeps its listeners for ever: they must not keep the watch, and go with it.
        watched = self._watched

        def on_duration(event: str, duration_secs: float, **details: Any) -> None:
            if event == _COMPILED and (found := watched.get(threading.get_ident())) is not None:
                found.names.append(str(details.get("fun_name", "unnamed")))

        def on_event(event: str, **details: Any) -> None:
            if event == _CACHE_HIT and (found := watched.get(threading.get_ident())) is not None:
                found.num_cached += 1

        jax.monitoring.register_event_duration_secs_listener(on_duration)
        jax.monitoring.register_event_listener(on_event)
        weakref.finalize(self, jax.monitoring.unregister_event_duration_listener, on_duration)
        weakref.finalize(self, jax.monitoring.unregister_event_listener, on_event)

    @contextmanager
    def here(self) -> Iterator[Compilations]:
        """Notes what this thread compiles; others may do as they please."""
        found = self._watched[threading.get_ident()] = Compilations()
        try:
            yield found
        finally:
            del self._watched[threading.get_ident()]
