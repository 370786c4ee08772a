"""Programs are compiled once, ahead, and a miss is an error."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vllm_jax.errors import RecompilationError
from vllm_jax.runner.compile_cache import keep_compiled_programs
from vllm_jax.runner.compiler import Program, ProgramCache

ROW = jax.ShapeDtypeStruct((4,), np.float32)


def test_programs_are_found_by_key_and_progress_is_told() -> None:
    cache, told = ProgramCache(), []
    programs = [
        Program("double", lambda x: 2 * x, (ROW,)),
        Program(("add", 1), lambda x, y: x + y, (ROW, ROW), donate=(0,)),
    ]
    cache.compile(programs, lambda *progress: told.append(progress))
    assert [t[:2] for t in told] == [(1, 2), (2, 2)] and {t[2] for t in told} == {"double", "add 1"}
    assert len(cache) == 2 and cache.seconds > 0
    x = jnp.arange(4, dtype=jnp.float32)
    assert cache["double"](x).tolist() == [0, 2, 4, 6]
    assert cache["add", 1](x, np.ones(4, np.float32)).tolist() == [1, 2, 3, 4]
    assert x.is_deleted(), "the donated buffer was taken over"
    with pytest.raises(RecompilationError, match="was not compiled before ready"):
        cache["never"]


def test_another_shape_is_refused_and_not_compiled() -> None:
    cache = ProgramCache()
    cache.compile([Program("double", lambda x: 2 * x, (ROW,))])
    with pytest.raises(TypeError):
        cache["double"](np.ones(5, np.float32))


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path) -> None:
    from vllm_jax.errors import ConfigError

    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--compilation-cache-dir"):
        keep_compiled_programs(str(tmp_path / "file" / "inside"), jax_cache=True)
