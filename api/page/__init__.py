"""The page at ``/``: one HTML file that talks to this server's own endpoints and to nothing else."""

from __future__ import annotations

from importlib import resources

PAGE = resources.files(__name__).joinpath("index.html").read_bytes()
