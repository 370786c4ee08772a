"""Reserves the address before the model is loaded, so that a port in use is said at once."""

from __future__ import annotations

import errno
import os
import socket
import stat

from api.server_config import HttpConfig
from vllm_jax.errors import ConfigError


def reserve(http: HttpConfig) -> list[socket.socket]:
    """Bound sockets, not listening yet: clients are turned away until the server is ready.

    A name such as "localhost" may stand for several addresses (127.0.0.1 and ::1): all are taken, as far as
    the machine has them.

    Raises:
        ConfigError: the address is in use or cannot be had.
    """
    if http.uds is not None:
        return [_bind_unix(http.uds)]
    host = http.host or "0.0.0.0"
    try:
        found = socket.getaddrinfo(host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}") from None
    addresses = sorted({(family, address) for family, _, _, _, address in found})
    bound: list[socket.socket] = []
    port = http.port
    problem: OSError | None = None
    for family, address in addresses:
        try:
            bound.append(_bind(family, (address[0], port, *address[2:])))
        except OSError as error:
            problem = error
            if error.errno == errno.EADDRINUSE:
                break
            continue
        port = bound[0].getsockname()[1]
    else:
        if bound:
            return bound
    for sock in bound:
        sock.close()
    assert problem is not None
    if problem.errno == errno.EADDRINUSE:
        raise ConfigError(f"port {port} on {host} is in use; choose another with --port") from None
    raise ConfigError(f"cannot listen on {host} port {port}: {problem.strerror}") from None


def listen(sockets: list[socket.socket]) -> None:
    """Opens the reserved sockets. Raises ConfigError if another process took the port meanwhile."""
    for sock in sockets:
        try:
            sock.listen(2048)
        except OSError as error:
            raise ConfigError(f"cannot listen on {sock.getsockname()}: {error.strerror}") from None


def url(http: HttpConfig, sockets: list[socket.socket]) -> str:
    """Where a client on this machine reaches the server."""
    if http.uds is not None:
        return f"unix:{http.uds}"
    scheme = "https" if http.ssl_certfile else "http"
    host = "localhost" if http.host in ("", "0.0.0.0", "::") else http.host
    if ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}:{sockets[0].getsockname()[1]}{http.root_path}"


def _bind(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without it a restarted server would have to wait for the connections of the last one to time out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            if _answers(path):
                raise ConfigError(f"--uds {path} is in use")
            os.unlink(path)  # left behind by a server that is gone
        sock.bind(path)
    except (OSError, ConfigError) as error:
        sock.close()
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--uds {path}: {error.strerror}") from None
    return sock


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0
