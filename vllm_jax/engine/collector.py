"""Python's cyclic garbage collector around a server: what lives for ever is not looked at again.

Knows the collector's settings; knows nothing of engines. The settings are the process's, so only a server
that owns its process should use this.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG = 10_000
"""Allocations between two looks at the young objects. A step makes some thousand that die with it."""


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Takes everything alive out of the collector's sight while the context is open.

    A full collection would otherwise walk over modules, programs and the tokenizer, which never become
    garbage, and stop the engine for a fifth of a second.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
