"""The bundled demo checkpoint: a small MPT that translates simple English to Italian.

Knows where its files lie in the installed package. How they were made is in ``examples/demo_model/``.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

DIRECTORY = "mpt-demo-en-it"
"""The name of the checkpoint's directory in this package."""


def demo_model_path() -> Path:
    """The directory of the bundled checkpoint, in Hugging Face layout.

    Raises:
        FileNotFoundError: the package was installed without its data files.
    """
    directory = Path(str(files(__name__))) / DIRECTORY
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"the bundled demo checkpoint is missing: {directory}")
    return directory
