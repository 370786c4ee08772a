"""Executables survive the process, and are not taken for others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vllm_jax.errors import RecompilationError
from vllm_jax.runner.compile_watch import CompilationWatch
from vllm_jax.runner.compiler import Program, ProgramCache
from vllm_jax.runner.program_store import ProgramStore


def row(length: int = 4) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((length,), np.float32)


def scaled(factor: float, *, identity: str = "", length: int = 4) -> Program:
    return Program(
        "scaled", lambda x: {"y": (factor * x).sum() + x}, (row(length),), donate=(0,), identity=identity
    )


def double(x: jax.Array) -> dict[str, jax.Array]:
    return {"y": (2 * x).sum() + x}


def cache(tmp_path) -> ProgramCache:
    return ProgramCache(ProgramStore(tmp_path / "programs", jax.devices()[0]))


@pytest.fixture(autouse=True)
def _without_jax_s_own_cache():
    before = jax.config.jax_compilation_cache_dir  # of an engine in this process
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    jax.clear_caches()
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def run(programs: ProgramCache, length: int = 4) -> list[float]:
    x = jnp.arange(length, dtype=jnp.float32)
    y = programs["scaled"](x)["y"].tolist()
    assert x.is_deleted(), "donation survives"
    return y


def test_the_second_time_nothing_is_traced(tmp_path) -> None:
    first = cache(tmp_path)
    first.compile([scaled(2.0)])

    def never(x):
        raise AssertionError("traced")

    second = cache(tmp_path)
    second.compile([Program("scaled", never, (row(),), donate=(0,))])
    assert (first.num_compiled, second.num_compiled) == (1, 0)
    assert run(first) == run(second) == [12, 13, 14, 15]


@pytest.mark.parametrize("other", [{"identity": "another model"}, {"length": 5}])
def test_another_program_is_compiled(tmp_path, other) -> None:
    cache(tmp_path).compile([scaled(2.0)])
    programs = cache(tmp_path)
    programs.compile([scaled(3.0, **other)])
    assert programs.num_compiled == 1
    assert run(programs, other.get("length", 4))[0] == 3 * sum(range(other.get("length", 4)))


def test_what_jax_s_cache_gives_is_not_kept(tmp_path) -> None:
    """Its object files are gone: on a CPU it would be loaded and then not run."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    program = Program("scaled", double, (row(),), donate=(0,))
    ProgramCache().compile([program])
    jax.clear_caches()  # as in another process
    # The first finds it in jax's cache on disk, the second in the process, of which jax says nothing.
    for _ in range(2):
        programs = cache(tmp_path)
        programs.compile([program])
        assert programs.num_compiled == 0 and run(programs) == [12, 13, 14, 15]
        assert not list((tmp_path / "programs").iterdir())


def test_a_copy_that_does_not_run_is_not_kept(tmp_path, caplog) -> None:
    def breaks(program: Program, executable) -> None:
        raise RuntimeError("Function fusion not found")

    programs = ProgramCache(ProgramStore(tmp_path / "programs", jax.devices()[0]), breaks)
    programs.compile([scaled(2.0)])
    assert not list((tmp_path / "programs").iterdir()) and run(programs) == [12, 13, 14, 15]
    assert "scaled is not kept for the next start: Function fusion not found" in caplog.text


def test_a_damaged_file_is_compiled_over(tmp_path) -> None:
    cache(tmp_path).compile([scaled(2.0)])
    [file] = (tmp_path / "programs").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    programs = cache(tmp_path)
    programs.compile([scaled(2.0)])
    assert programs.num_compiled == 1 and run(programs) == [12, 13, 14, 15]


def test_jax_s_settings_are_part_of_it(tmp_path) -> None:
    cache(tmp_path).compile([scaled(2.0)])
    with jax.default_matmul_precision("highest"):
        programs = cache(tmp_path)
        programs.compile([scaled(2.0)])
    assert programs.num_compiled == 1


def test_a_broken_file_is_compiled_over(tmp_path) -> None:
    cache(tmp_path).compile([scaled(2.0)])
    [file] = (tmp_path / "programs").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    programs = cache(tmp_path)
    programs.compile([scaled(2.0)])
    assert programs.num_compiled == 1 and run(programs) == [12, 13, 14, 15]
    again = cache(tmp_path)
    again.compile([scaled(2.0)])
    assert again.num_compiled == 0


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path) -> None:
    (tmp_path / "programs").write_text("a file")
    programs = cache(tmp_path)
    programs.compile([scaled(2.0)])
    assert run(programs) == [12, 13, 14, 15]


def test_the_watch_sees_what_this_thread_compiles() -> None:
    watch = CompilationWatch()
    jax.jit(lambda x: x + 41)(1.0)
    with watch.here() as seen:
        jax.jit(lambda x: x - 42)(1.0)
    jax.jit(lambda x: x * 43)(1.0)
    assert len(seen.names) == 1 and "lambda" in seen.names[0]
    with watch.here() as seen:
        np.arange(3) + 1
    assert not seen.names


def test_a_miss_names_the_program() -> None:
    with pytest.raises(RecompilationError, match=r"greedy.*was not compiled before ready"):
        ProgramCache()["greedy", 4]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, mode: int) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    folder.chmod(mode)
    store = ProgramStore(folder, jax.devices()[0])
    compiled = jax.jit(lambda x: x + 1).lower(jnp.ones(3)).compile()
    assert store.candidate("add", [jnp.ones(3)], compiled) is None
    assert store.load("add", [jnp.ones(3)]) is None
    assert not list(folder.iterdir())
