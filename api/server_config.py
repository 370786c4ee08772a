"""Every setting of the HTTP server, in groups; the command line is generated from here.

Knows names, defaults, units and help texts (the docstring under a field is its ``--help``). The engine's
settings are in :mod:`vllm_jax.config`. Imports nothing heavy, so that ``--help`` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vllm_jax.errors import ConfigError


@dataclass(frozen=True)
class HttpConfig:
    """Where and how the server listens."""

    host: str = "localhost"
    """Address to listen on. The default is this machine only; 0.0.0.0 (or ::) opens it to the network."""
    port: int = 8000
    """TCP port; 0 takes a free one and prints it."""
    uds: str | None = None
    """Listen on this unix socket instead of host and port."""
    root_path: str = ""
    """Path prefix under which a proxy serves this server."""
    api_key: tuple[str, ...] = ()
    """Keys that clients may use; without any the server is open. Repeatable. Prefer the variable
    VLLM_JAX_API_KEY (or VLLM_API_KEY): flags show up in ps."""
    metrics_without_key: bool = False
    """/metrics needs no API key, as /health does not."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins whose pages may call the server (CORS), as words or a JSON list. None by default."""
    allowed_methods: tuple[str, ...] = ("*",)
    """Methods those pages may use."""
    allowed_headers: tuple[str, ...] = ("*",)
    """Headers those pages may send."""
    allow_credentials: bool = False
    """Those pages may send cookies and authorization."""
    middleware: tuple[str, ...] = ()
    """Import path of a class (ASGI middleware) or of an async function of request and call_next, put around
    all routes and the API keys. Repeatable, one path each time; the last one is the outermost."""
    ssl_keyfile: str | None = None
    """Private key; with --ssl-certfile the server speaks HTTPS."""
    ssl_certfile: str | None = None
    """Certificate chain."""
    ssl_ca_certs: str | None = None
    """Certificates that client certificates are checked against."""
    ssl_cert_reqs: int = 0
    """Client certificates: 0 not asked for, 1 optional, 2 required."""
    ssl_ciphers: str = "TLSv1"
    """OpenSSL cipher list."""
    h11_max_incomplete_event_size: int = 65536
    """Most bytes a request's URL (path and query), header names and header values may have together; more is
    answered with 431."""
    h11_max_header_count: int = 256
    """Most headers a request may have; more is answered with 431."""
    max_body_bytes: int = 32 * 1024 * 1024
    """Most bytes a request's body may have; more is answered with 413."""
    timeout_keep_alive: int = 75
    """Seconds that an idle connection is kept open. Longer than clients and proxies keep theirs, so that none
    sends its next request into a connection that is being closed."""
    sse_keep_alive_interval: float = 0.0
    """Seconds of silence after which a stream sends a comment, so that proxies keep it open; 0 is never."""
    shutdown_timeout: float = 30.0
    """Seconds that requests in flight get to finish after SIGTERM or SIGINT; then, or at a second signal,
    they are aborted. 0 aborts at once."""
    disable_fastapi_docs: bool = False
    """No /docs, /redoc and /openapi.json."""


@dataclass(frozen=True)
class ApiConfig:
    """What the OpenAI endpoints answer."""

    served_model_name: tuple[str, ...] = ()
    """Names the model answers to; the first is the one in the answers. The default is the model as given."""
    chat_template: str | None = None
    """Jinja chat template: a file or the template itself. The default is the model's own."""
    chat_template_content_format: Literal["auto", "string", "openai"] = "auto"
    """Message content as the template gets it: a string, or the list of parts; "auto" asks the template."""
    default_chat_template: bool = True
    """Use a generic template for a model that has none; without it, chats with such a model are refused."""
    default_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """JSON object of chat_template_kwargs that requests may override."""
    trust_request_chat_template: bool = False
    """Allow chat_template in requests. A template is a program that the server runs: trust your clients."""
    strict_params: bool = False
    """Refuse requests with fields that nobody knows, instead of naming them in the log."""
    tool_call_parser: Literal[
        "auto",
        "none",
        "hermes",
        "qwen3_coder",
        "llama3_json",
        "mistral",
        "pythonic",
        "openai",
        "deepseek",
        "json",
    ] = "auto"
    """Format of the model's tool calls, read where tool_choice is auto. "auto" asks the chat template; "json"
    fits a model that was taught none. Calls that a request requires need no parser."""
    enable_auto_tool_choice: bool = True
    """Read tool calls out of answers; without it they stay text where tool_choice is auto."""
    exclude_tools_when_tool_choice_none: bool = False
    """Keep tools out of the prompt where tool_choice is none."""
    reasoning_parser: Literal["auto", "none", "deepseek_r1", "qwen3", "gpt_oss"] = "auto"
    """Format of the model's reasoning, which goes to message.reasoning. "auto" asks the chat template."""
    response_role: str = "assistant"
    """Role of the answers."""
    return_tokens_as_token_ids: bool = False
    """Show tokens in logprobs as "token_id:N", which is unambiguous where their text is not."""
    enable_prompt_tokens_details: bool = False
    """Report usage.prompt_tokens_details.cached_tokens."""
    enable_per_request_metrics: bool = False
    """Tell in "metrics" how long the request took: in whole answers, and beside the usage of streams."""
    enable_force_include_usage: bool = False
    """Send usage on every stream, as if each asked for include_usage and continuous_usage_stats."""
    enable_request_id_headers: bool = False
    """Answer with the request's id in X-Request-Id."""
    enable_tokenizer_info_endpoint: bool = False
    """Serve /tokenizer_info: the special tokens and the chat template, which evaluation tools ask for."""
    responses_store_size: int = 1024
    """Most responses of /v1/responses that are kept in memory for retrieval and previous_response_id; 0 keeps
    none."""
    responses_store_bytes: int = 64 * 1024 * 1024
    """Most bytes they may have together; what was used longest ago goes first."""
    responses_store_ttl: float = 3600.0
    """Seconds after its last use that a response is kept at most."""
    max_background_responses: int = 64
    """Most responses that are made in the background at a time; more are answered with 503."""
    enable_reset_prefix_cache: bool = False
    """Let clients empty the prefix cache with POST /reset_prefix_cache, as benchmarks do. Not for servers
    that several parties share: it slows down everybody's next request."""


@dataclass(frozen=True)
class LogConfig:
    """What is logged, to stderr."""

    uvicorn_log_level: Literal["debug", "info", "warning", "error", "critical", "trace"] = "info"
    """Level of all logs."""
    log_format: Literal["text", "json"] = "text"
    """One line of text a record, or one JSON object with time, level, logger, message and request_id."""
    otlp_traces_endpoint: str | None = None
    """URL of an OpenTelemetry collector, for example http://localhost:4318/v1/traces: a span is sent for
    every request. Needs the extra otel."""
    disable_uvicorn_access_log: bool = False
    """No line for every HTTP request."""
    disable_access_log_for_endpoints: str | None = None
    """Comma-separated paths without access log, for example /health,/metrics."""
    enable_log_requests: bool = False
    """Log every request's id, sampling parameters and the start of its prompt."""
    max_log_len: int | None = None
    """Most characters (or token ids) of a prompt in the log. The default is all of them."""


@dataclass(frozen=True)
class ServerConfig:
    """Everything the server needs beside the engine."""

    http: HttpConfig = field(default_factory=HttpConfig)
    api: ApiConfig = field(default_factory=ApiConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def validate(self) -> None:
        """Checks what can be checked before anything is started.

        Raises:
            ConfigError: a value is out of its range, or two contradict; the text names the flag.
        """
        http = self.http
        if not 0 <= http.port <= 65535:
            raise ConfigError(f"--port must be in 0..65535, got {http.port}")
        if any(not key.strip() for key in http.api_key):
            raise ConfigError("--api-key must not be empty")
        if (http.ssl_keyfile is None) != (http.ssl_certfile is None):
            raise ConfigError("--ssl-keyfile and --ssl-certfile go together")
        if http.ssl_cert_reqs not in (0, 1, 2):
            raise ConfigError(f"--ssl-cert-reqs must be 0, 1 or 2, got {http.ssl_cert_reqs}")
        at_least = {
            "--h11-max-incomplete-event-size": (http.h11_max_incomplete_event_size, 1024),
            "--h11-max-header-count": (http.h11_max_header_count, 8),
            "--max-body-bytes": (http.max_body_bytes, 1024),
            "--timeout-keep-alive": (http.timeout_keep_alive, 1),
            "--sse-keep-alive-interval": (http.sse_keep_alive_interval, 0),
            "--shutdown-timeout": (http.shutdown_timeout, 0),
            "--responses-store-size": (self.api.responses_store_size, 0),
            "--responses-store-bytes": (self.api.responses_store_bytes, 1024),
            "--responses-store-ttl": (self.api.responses_store_ttl, 0),
            "--max-background-responses": (self.api.max_background_responses, 0),
        }
        for flag, (value, least) in at_least.items():
            if not least <= value < float("inf"):
                raise ConfigError(f"{flag} must be at least {least}, got {value}")
        if any(not name.strip() for name in self.api.served_model_name):
            raise ConfigError("--served-model-name must not be empty")
        if "*" in http.allowed_origins and http.allow_credentials:
            raise ConfigError("--allow-credentials needs named --allowed-origins, not '*'")
        if self.log.max_log_len is not None and self.log.max_log_len < 0:
            raise ConfigError(f"--max-log-len must not be negative, got {self.log.max_log_len}")
