"""Where compiled programs survive the process: as executables, in jax's own cache, or in both.

Knows directories and jax's settings for them. Programs for a CPU are machine code for that very CPU, so
each kind of CPU has a folder of its own: a home directory may be shared by different machines.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import jax

from vllm_jax._version import __version__
from vllm_jax.errors import ConfigError

_PROGRAMS = "programs"


def keep_compiled_programs(directory: str | None, *, jax_cache: bool) -> Path | None:
    """Finds the folder where programs are kept, and turns jax's persistent compilation cache on if wanted.

    ``None`` means ``$XDG_CACHE_HOME/vllm-jax/xla`` (``~/.cache/vllm-jax/xla``), unless the process has
    configured jax's cache already; an empty string leaves everything as it is.

    Args:
        directory: as above.
        jax_cache: whether jax is to keep what XLA compiles, for the whole process. Not where executables are
            kept on a CPU: one that comes out of jax's cache cannot be serialised again.

    Returns:
        the folder inside for whole programs (:class:`~vllm_jax.runner.program_store.ProgramStore`), or None
        where nothing is kept on this machine's disks.

    Raises:
        ConfigError: the directory cannot be made.
    """
    configured = getattr(jax.config, "jax_compilation_cache_dir", None)
    if directory == "":
        return None
    if directory is None and configured:
        return None if "://" in configured else Path(configured) / _PROGRAMS
    if directory is None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(root) / "vllm-jax" / "xla"
    else:
        folder = Path(directory).expanduser()
    folder /= _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if directory is None:  # A read-only home is no reason not to serve.
            return None
        raise ConfigError(f"--compilation-cache-dir {directory}: {error.strerror or error}") from error
    if jax_cache:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # The many small programs of a warm-up are worth keeping too.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder / _PROGRAMS


def _machine() -> str:
    """Tells CPUs with different instruction sets apart, and releases: few programs are of use to another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = list(os.uname())
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "".join(lines))
    facts = [__version__, *sorted(features.split())]
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:12]
