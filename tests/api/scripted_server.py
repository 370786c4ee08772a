"""A real server of a model that says given texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import scripted_model
from server_process import Server, launch


@contextmanager
def scripted_server(folder: Path, scripts: dict[str, str]) -> Iterator[Server]:
    """Serves ``scripts`` as the model "tiny" from an empty folder, and ends the server."""
    checkpoint = scripted_model.save(folder, scripts)
    server = launch(str(checkpoint), ["--served-model-name", "tiny"], folder / "log.txt")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.process.kill()
        server.process.wait()
