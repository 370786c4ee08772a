"""Sets up standard logging for the server process: one line a record, to stderr."""

from __future__ import annotations

import logging
import logging.config

from api.server_config import LogConfig

_LEVELS = {"trace": "DEBUG"}


class QuietPaths(logging.Filter):
    """Drops access-log records of some paths."""

    def __init__(self, paths: frozenset[str]):
        super().__init__()
        self._paths = paths

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is logged; uvicorn's arguments are client, method, path, version, status."""
        path = record.args[2] if isinstance(record.args, tuple) and len(record.args) > 2 else ""
        return str(path).partition("?")[0] not in self._paths


def configure_logging(config: LogConfig) -> None:
    """Called once, by the command that owns the process."""
    level = _LEVELS.get(config.uvicorn_log_level, config.uvicorn_log_level.upper())
    quiet = frozenset(filter(None, (config.disable_access_log_for_endpoints or "").split(",")))
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {
                    "format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s",
                    "datefmt": "%Y-%m-%d %H:%M:%S",
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "loggers": {
                name: {"level": level, "handlers": ["stderr"], "propagate": False}
                for name in ("api", "vllm_jax", "uvicorn")
            },
            "root": {"level": "WARNING", "handlers": ["stderr"]},
        }
    )
    access = logging.getLogger("uvicorn.access")
    access.addFilter(QuietPaths(quiet))
