"""Executables on disk: a start with nothing new reads its programs instead of tracing and compiling them.

Knows files, and what an executable depends on. Knows no program's meaning. jax's own persistent cache saves
the compilation only: it finds an entry by what a program lowers to, and tracing and lowering is what a warm
start would still spend its time on. Here an entry is found by everything that goes into the lowering: the
sources of this package, the versions of the libraries, jax's settings, the device, the model, the shapes.

An executable is kept in two steps, since not every one can be serialised whole: XLA's CPU backend drops the
object files of one that was itself loaded from disk, which shows when it is loaded and run ("Function ... not
found"). So :meth:`ProgramStore.candidate` loads back what it has serialised, the caller runs that, and only
then :meth:`ProgramStore.keep` writes the file. A file that was damaged since is found by its digest.

What is in the folder is code that this process will run (machine code, and a pickle around it), as in jax's
own cache. So a folder that another user owns or may write to is not used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

logger = logging.getLogger(__name__)

_LIBRARIES = ("jax", "jaxlib", "flax", "numpy")
_MOST_BYTES = 4 * 2**30
_DIGEST_BYTES = hashlib.sha256().digest_size
_PACKAGES = ("kernels", "layers", "models", "runner", "sampling", "weights")
_SETTINGS_OF_CACHES = ("cache", "log", "dump")
"""Settings of jax whose names have one of these words in them change no program."""


@dataclass(frozen=True)
class Candidate:
    """What would be kept: ``executable`` is the program as a later start would have it from ``content``."""

    path: Path
    content: bytes
    executable: Any


class ProgramStore:
    """Executables in ``folder``, for ``device``. A program's name says all about it but for the shapes."""

    def __init__(self, folder: Path, device: jax.Device):
        self._folder = folder
        self._device = device
        self._usable = _make_private(folder)
        # Here and not in a thread that loads: some settings are a thread's own.
        self._environment = self._describe_environment()

    def load(self, name: str, arguments: Any) -> Any | None:
        """The executable of the program ``name`` for arguments of these shapes, or None. Thread-safe."""
        if not self._usable:
            return None
        path = self._path(name, arguments)
        try:
            content = path.read_bytes()
            digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(content).digest() != digest:
                raise ValueError("it is damaged")
            executable = self._load(content)
            os.utime(path)
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever is in the file: the program can be compiled anew
            logger.debug("cannot use %s: %s", path, error)
            return None
        return executable

    def candidate(self, name: str, arguments: Any, compiled: Any) -> Candidate | None:
        """``compiled``, serialised and loaded back; None where that cannot be. Thread-safe."""
        if not self._usable:
            return None
        try:
            content = pickle.dumps(serialize_executable.serialize(compiled))
            return Candidate(self._path(name, arguments), content, self._load(content))
        except Exception as error:  # an executable of a kind that cannot be serialised
            logger.debug("cannot keep %s: %s", name, error)
            return None

    def keep(self, candidate: Candidate) -> None:
        """Writes the file of a candidate that was seen to run. Thread-safe; does nothing where it cannot."""
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(hashlib.sha256(candidate.content).digest() + candidate.content)
            os.replace(file.name, candidate.path)
        except OSError as error:  # a full disk
            logger.debug("cannot keep %s: %s", candidate.path, error)

    def prune(self) -> None:
        """Removes what was not used for longest, as far as all together take more than 4 GiB."""
        try:
            files = sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
            total = 0
            for file in files:
                total += file.stat().st_size
                if total > _MOST_BYTES:
                    file.unlink(missing_ok=True)
        except OSError:
            pass

    def _load(self, content: bytes) -> Any:
        executable, tree_in, tree_out = pickle.loads(content)
        return serialize_executable.deserialize_and_load(
            executable, tree_in, tree_out, self._device.client, [self._device]
        )

    def _path(self, name: str, arguments: Any) -> Path:
        shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), arguments)
        content = "\n".join((self._environment, name, str(shapes)))
        return self._folder / hashlib.sha256(content.encode()).hexdigest()

    def _describe_environment(self) -> str:
        """Everything outside the program that its executable depends on."""
        settings = {
            name: value
            for name, value in sorted(jax.config.values.items())
            if not any(word in name for word in _SETTINGS_OF_CACHES)
        }
        flags = [item for item in sorted(os.environ.items()) if item[0].endswith(("XLA_FLAGS", "INIT_ARGS"))]
        client = self._device.client
        facts = (
            [version(library) for library in _LIBRARIES],
            (client.platform, client.platform_version, self._device.device_kind, self._device.id),
            os.cpu_count(),
            settings,
            flags,
            _sources(),
        )
        return str(facts)


def _make_private(folder: Path) -> bool:
    """Makes ``folder`` where it is missing; whether it is there, and this user's alone to write to."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        logger.debug("no programs are kept in %s: %s", folder, error)
        return False
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        logger.warning("%s is not used: other users may write to it, and programs in it are run", folder)
        return False
    return True


def _sources() -> str:
    """A digest of what a program can be made of: Python files by content, native ones by size and time.

    That is the runner, the packages below it, and the modules beside them; neighbours and what is above it
    are not imported here.
    """
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    paths = [*package.glob("*.py"), *(path for name in _PACKAGES for path in (package / name).rglob("*"))]
    for path in sorted(paths):
        if path.suffix == ".py":
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
        elif path.suffix == ".so":
            stat = path.stat()
            digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()
