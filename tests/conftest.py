"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny_models

# Tests run offline, whatever the machine allows; set before any hub code is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", autouse=True)
def _compiled_programs_are_kept(pytestconfig: pytest.Config) -> None:
    """Engines of a test run, and of the next run, share compiled programs; the user's cache is left alone."""
    os.environ["XDG_CACHE_HOME"] = str(pytestconfig.cache.mkdir("programs"))


@pytest.fixture(scope="session")
def mpt_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random MPT with a tokenizer and no chat template."""
    return tiny_models.save(tiny_models.make("mpt"), tmp_path_factory.mktemp("tiny-mpt"))
