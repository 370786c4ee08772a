"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import pytest
import tiny_models
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # machines stall, and nothing here is timed
settings.load_profile("suite")

# Tests run offline, whatever the machine allows; set before any hub code is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", autouse=True)
def _compiled_programs_are_kept(pytestconfig: pytest.Config) -> None:
    """Engines of a test run, and of the next run, share compiled programs; the user's cache is left alone.

    jax's own cache is on, too: after a change to the sources it still has most of what is compiled.
    """
    os.environ["XDG_CACHE_HOME"] = str(pytestconfig.cache.mkdir("programs"))
    settings = {
        "jax_compilation_cache_dir": str(pytestconfig.cache.mkdir("xla")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for servers of their own


@pytest.fixture(scope="session")
def mpt_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random MPT with a tokenizer and no chat template."""
    return tiny_models.save(tiny_models.make("mpt"), tmp_path_factory.mktemp("tiny-mpt"))
