"""Sets up standard logging for the server process: one line a record, text or JSON, to stderr."""

from __future__ import annotations

import logging

from pythonjsonlogger.json import JsonFormatter

from api.log_context import RequestIdFilter
from api.server_config import LogConfig

_LEVELS = {"trace": "DEBUG"}
_TIME = "%Y-%m-%d %H:%M:%S"


class QuietPaths(logging.Filter):
    """Drops access-log records of some paths."""

    def __init__(self, paths: frozenset[str]):
        super().__init__()
        self._paths = paths

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is logged; uvicorn's arguments are client, method, path, version, status."""
        path = record.args[2] if isinstance(record.args, tuple) and len(record.args) > 2 else ""
        return str(path).partition("?")[0] not in self._paths


class TextFormatter(logging.Formatter):
    """Time, level, logger and message; the request's id in brackets where the message does not say it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", _TIME)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of ``record``."""
        request_id = getattr(record, "request_id", None)
        if request_id is not None and request_id not in record.message:
            record.message = f"{record.message} [{request_id}]"
        return super().formatMessage(record)


def _json_formatter() -> logging.Formatter:
    return JsonFormatter(
        ["asctime", "levelname", "name", "message", "request_id"],
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )


def configure_logging(config: LogConfig) -> None:
    """Called once, by the command that owns the process.

    Loggers of other libraries are left alone: theirs go to stderr from WARNING on, as is Python's default.
    """
    handler = logging.StreamHandler()
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(_json_formatter() if config.log_format == "json" else TextFormatter())
    for name in ("api", "vllm_jax", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(_LEVELS.get(config.uvicorn_log_level, config.uvicorn_log_level.upper()))
        logger.propagate = False
    quiet = frozenset(filter(None, (config.disable_access_log_for_endpoints or "").split(",")))
    logging.getLogger("uvicorn.access").filters = [QuietPaths(quiet)]
