"""A real server in a process of its own, for tests that are its clients."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_TIMEOUT_S = 240


@dataclass
class Server:
    """A running server; ``log()`` is everything it has printed."""

    process: subprocess.Popen[bytes]
    root_url: str
    log_file: Path

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes."""
        return f"{self.root_url}/v1"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextmanager
def running_server(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """``vllm-jax serve ARGUMENTS`` on a free port; yields when /health says so, and stops it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        log_file = Path(folder) / "server.log"
        command = [sys.executable, "-m", "api.cli", "serve", *arguments, "--port", "0"]
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "COLUMNS": "200", **(env or {})},
            )
        server = Server(process, "", log_file)
        try:
            server.root_url = _wait_until_ready(server)
            yield server
        finally:
            if process.poll() is None:
                server.stop()


def _wait_until_ready(server: Server) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended with {server.process.returncode}:\n{server.log()}")
        found = re.search(r"http://[\w.]+:\d+", server.log())
        if found is not None:
            try:
                if httpx.get(f"{found[0]}/health", timeout=5).status_code == 200:
                    return found[0]
            except httpx.HTTPError:
                pass
        time.sleep(0.2)
    raise AssertionError(f"the server was not ready in {START_TIMEOUT_S} s:\n{server.log()}")
