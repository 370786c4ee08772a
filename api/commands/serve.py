"""``vllm-jax serve``: reserve the address, load the model, serve, and go down in order.

    reserve -> load and warm up -> listen -> serve -> (signal) refuse new, finish or abort old -> exit 0

Knows the life of the process; does not know what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from rich.console import Console

from api.app import create_app
from api.commands.http_protocol import JsonH11Protocol
from api.commands.logs import configure_logging
from api.commands.sockets import listen, reserve, url
from api.commands.summary import print_summary, try_command
from api.middleware import imported
from api.server_config import HttpConfig, ServerConfig
from api.serving.context import ServerContext, make_context
from api.serving.model_names import chosen_names
from vllm_jax import __version__
from vllm_jax.config import DEMO_MODEL, EngineConfig, ModelConfig
from vllm_jax.demo import demo_model_path
from vllm_jax.errors import ConfigError, VllmJaxError
from vllm_jax.tokenizer.chat_template import check_chat_template

logger = logging.getLogger(__name__)

_ABORT_GRACE_S = 5.0
"""Aborted requests get this long to send their last words."""
_HEAD_SLACK = 64 * 1024
"""Bytes of a request's head beside what --h11-max-incomplete-event-size counts: colons, line ends, method."""
_DEATH_CHECK_S = 0.5
_DEATH_GRACE_S = 3.0
"""A server whose engine has died answers 503 for so long, and exits with 1."""


def serve(engine_config: EngineConfig, config: ServerConfig) -> int:
    """Runs the server until it is told to stop; the exit code.

    Raises:
        ConfigError: the start failed; the text says why.
    """
    configure_logging(config.log)
    config, key = _with_keys(config)
    if unused := _unused_variables():
        logger.warning("%s: no effect here, where settings are flags", ", ".join(unused))
    _check_certificates(config.http)
    sockets = reserve(config.http)
    try:
        context = load_context(engine_config, config)
        try:
            listen(sockets)
            address = url(config.http, sockets)
            command = try_command(
                context.models.names[0], config, address, chats=context.prompts.has_template, key=key
            )
            print_summary(Console(), context.engine.info, context.models, config, address, command)
            return _Server(context).run(sockets)
        finally:
            context.close()
    finally:
        for sock in sockets:
            sock.close()
        if config.http.uds is not None:
            with contextlib.suppress(OSError):
                os.unlink(config.http.uds)


class _Server:
    """Uvicorn around the application, with this server's own way to go down."""

    def __init__(self, context: ServerContext):
        self._context = context
        self._timeout_s = context.config.http.shutdown_timeout
        self._uvicorn = _Uvicorn(_uvicorn_config(context))
        self._signals = 0
        self._exit_code = 0
        self._endings: set[asyncio.Task[None]] = set()

    def run(self, sockets: list[socket.socket]) -> int:
        """Serves until a signal or the engine's death; the exit code."""
        with asyncio.Runner(loop_factory=self._uvicorn.config.get_loop_factory()) as runner:
            return runner.run(self._serve(sockets))

    async def _serve(self, sockets: list[socket.socket]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        watch = asyncio.create_task(self._watch_engine())
        try:
            await self._uvicorn.serve(sockets)
        finally:
            watch.cancel()
            self._end_engine(0)
            await asyncio.gather(*self._endings, return_exceptions=True)
        return self._exit_code

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            in_flight = self._context.engine.num_requests
            logger.info("shutting down; requests in flight: %d, given %g s", in_flight, self._timeout_s)
            self._end_engine(self._timeout_s)
        elif self._signals == 2:
            logger.info("second signal: aborting the requests in flight")
            self._end_engine(0)
        else:
            self._uvicorn.force_exit = True
        self._context.draining = True
        self._uvicorn.should_exit = True

    def _end_engine(self, timeout_s: float) -> None:
        self._endings.add(asyncio.ensure_future(self._context.engine.shutdown(timeout_s)))

    async def _watch_engine(self) -> None:
        while not self._context.engine.dead:
            await asyncio.sleep(_DEATH_CHECK_S)
        logger.critical("the engine has failed; the server goes down in %g s", _DEATH_GRACE_S)
        self._exit_code = 1
        await asyncio.sleep(_DEATH_GRACE_S)
        self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its own signal handlers, which would end the process by the signal and not with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures nothing."""
        yield


def _uvicorn_config(context: ServerContext) -> uvicorn.Config:
    http, log = context.config.http, context.config.log
    return uvicorn.Config(
        create_app(context),
        http=JsonH11Protocol,
        # LimitMiddleware draws the exact line; this one keeps a head that never ends out of memory.
        h11_max_incomplete_event_size=http.h11_max_incomplete_event_size + _HEAD_SLACK,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=log.uvicorn_log_level,
        access_log=not log.disable_uvicorn_access_log,
        server_header=False,
        timeout_keep_alive=http.timeout_keep_alive,
        ssl_keyfile=http.ssl_keyfile,
        ssl_certfile=http.ssl_certfile,
        ssl_ca_certs=http.ssl_ca_certs,
        ssl_cert_reqs=http.ssl_cert_reqs,
        ssl_ciphers=http.ssl_ciphers,
        timeout_graceful_shutdown=math.ceil(http.shutdown_timeout + _ABORT_GRACE_S),
    )


def load_context(engine_config: EngineConfig, config: ServerConfig) -> ServerContext:
    """Loads the model with progress bars. Raises ConfigError."""
    # Nothing here uses torch, but transformers imports it where it is installed, which takes a second.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    from vllm_jax.engine.async_engine import AsyncEngine  # brings jax: only once the address is ours
    from vllm_jax.progress import progress_bars

    console = Console(stderr=True)
    console.print(f"vllm-jax {__version__}: loading {engine_config.model.model}", highlight=False)
    try:
        _check_chat_template(engine_config.model, config.api.chat_template)
        imported(config.http.middleware)
        with progress_bars(console) as progress:
            [name, *_] = chosen_names(engine_config.model.model, config.api.served_model_name)
            engine = AsyncEngine.start(engine_config, progress, served_name=name)
        return make_context(engine, engine_config, config)
    except VllmJaxError:
        raise
    except Exception as error:
        logger.debug("the start failed", exc_info=True)
        hint = "" if logger.isEnabledFor(logging.DEBUG) else " (--uvicorn-log-level debug shows more)"
        raise ConfigError(f"the start failed: {type(error).__name__}: {error}{hint}") from error


def _check_chat_template(model: ModelConfig, template: str | None) -> None:
    """Reads --chat-template before the model, which takes far longer. Raises ConfigError."""
    if template is None or model.skip_tokenizer_init:
        return
    name = model.tokenizer or model.model
    directory = demo_model_path() if name == DEMO_MODEL else Path(name)
    check_chat_template(template, directory if directory.is_dir() else None)


def _with_keys(config: ServerConfig) -> tuple[ServerConfig, str | None]:
    """Takes the API key from the environment where no flag gives one.

    The second value is how a shell line spells the key without showing it, or None without a key.
    """
    if config.http.api_key:
        return config, "YOUR_API_KEY"
    for variable in ("VLLM_JAX_API_KEY", "VLLM_API_KEY"):
        if key := os.environ.get(variable):
            http = dataclasses.replace(config.http, api_key=(key,))
            return dataclasses.replace(config, http=http), f"${variable}"
    return config, None


def _unused_variables() -> list[str]:
    """vLLM's variables that are set and change nothing here."""
    vllms = {name for name in os.environ if name.startswith("VLLM_") and not name.startswith("VLLM_JAX_")}
    return sorted(vllms - {"VLLM_API_KEY"})


def _check_certificates(http: HttpConfig) -> None:
    """Reads the certificate early. Raises ConfigError."""
    if http.ssl_certfile is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(http.ssl_certfile, http.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--ssl-certfile {http.ssl_certfile}: {error}") from None
