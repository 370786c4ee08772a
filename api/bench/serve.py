"""``vllm-jax bench serve``: one load against one server, by its URL."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from api.bench.report import print_summary, require_plotting, write_json, write_plot
from api.bench.statistics import METRICS, Objectives, summarise
from api.bench.texts import TextMaker
from api.bench.workload import ArrivalConfig, DatasetConfig, make_workload
from vllm_jax import __version__
from vllm_jax.errors import ConfigError
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.loader import load_tokenizer
from vllm_jax.weights.hub import resolve_directory

_BUSY = 0.7
"""Fraction of a core above which the client's own work may show in what it measures."""


@dataclass(frozen=True)
class TargetConfig:
    """The server that is measured."""

    base_url: str | None = None
    """Where it is, for example http://localhost:8000. The default is made of --host and --port."""
    host: str = "127.0.0.1"
    """Its host."""
    port: int = 8000
    """Its port."""
    backend: Literal["openai", "openai-chat", "vllm"] = "openai"
    """"openai" (or "vllm"): /v1/completions; "openai-chat": /v1/chat/completions."""
    endpoint: str | None = None
    """Another path for the same kind of request."""
    model: str | None = None
    """Model name in the requests. The default is the first that /v1/models lists."""
    served_model_name: str | None = None
    """Model name in the requests, where --model is the directory of its tokenizer."""
    tokenizer: str | None = None
    """Directory or hub id of the model's tokenizer, for prompts of exact lengths. The default is the model
    itself where it is a local directory."""
    api_key: str | None = None
    """Key for the server. The default is the variable VLLM_JAX_API_KEY, then OPENAI_API_KEY."""
    insecure: bool = False
    """Do not check the server's certificate."""


@dataclass(frozen=True)
class RequestConfig:
    """What is in every request beside its text and length."""

    ignore_eos: bool = True
    """Send ignore_eos, so that every answer has the length that was asked for, and check that it has."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: float | None = None
    """Probability mass to sample from."""
    top_k: int | None = None
    """Most tokens to sample from; -1 or 0 are all."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """JSON object laid over every request's body; null takes a key away."""
    num_warmups: int = 0
    """Requests sent one by one before the measured ones."""


@dataclass(frozen=True)
class ReportConfig:
    """What is reported, and where to."""

    percentile_metrics: str = "ttft,tpot,itl,e2el"
    """Latencies in the table, comma-separated: ttft, tpot, itl, e2el."""
    metric_percentiles: str = "50,95,99"
    """Percentiles, comma-separated."""
    goodput: tuple[str, ...] = ()
    """Objectives in ms, for example ttft:500 tpot:50 e2el:5000: counts the requests that met them all."""
    save_result: bool = False
    """Write the figures as JSON."""
    save_detailed: bool = False
    """Write every request into the JSON, too; implies --save-result."""
    result_dir: str = "."
    """Directory of the JSON file."""
    result_filename: str | None = None
    """Its name; implies --save-result. The default has the label (or the model) and the time in it."""
    append_result: bool = False
    """Add the figures as one more line to that file, instead of writing it anew."""
    label: str | None = None
    """Name of this run, for the figures."""
    metadata: tuple[str, ...] = ()
    """More of it, for example version=0.3 tp=1: keys of the JSON."""
    plot: str | None = None
    """Draw latencies and load into this PNG (or SVG, PDF) file."""
    progress: bool = True
    """Show a progress bar."""

    def validate(self) -> None:
        """Raises ConfigError; the text names the flag."""
        unknown = set(self.shown) - set(METRICS)
        if unknown:
            raise ConfigError(
                f"--percentile-metrics: unknown {', '.join(sorted(unknown))}; there are {', '.join(METRICS)}"
            )
        _percentiles(self.metric_percentiles)
        if wrong := [pair for pair in self.metadata if not pair.partition("=")[1]]:
            raise ConfigError(f"--metadata must be KEY=VALUE, got {wrong[0]!r}")
        Objectives.parse(self.goodput)

    @property
    def shown(self) -> list[str]:
        """Short names of the latencies in the table."""
        names = [name.strip() for name in self.percentile_metrics.split(",")]
        return ["e2el" if name == "e2e" else name for name in names]

    @property
    def percentiles(self) -> list[float]:
        """The percentiles as numbers."""
        return _percentiles(self.metric_percentiles)


def _percentiles(text: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = [-1.0]
    if not all(0 <= number <= 100 for number in numbers):
        raise ConfigError(f"--metric-percentiles must be numbers in 0..100, got {text}")
    return numbers


@dataclass(frozen=True)
class BenchServe:
    """The flags of ``vllm-jax bench serve``."""

    target: TargetConfig = field(default_factory=TargetConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    arrival: ArrivalConfig = field(default_factory=ArrivalConfig)
    request: RequestConfig = field(default_factory=RequestConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def validate(self) -> None:
        """Raises ConfigError; the text names the flag."""
        self.dataset.validate()
        self.arrival.validate()
        self.report.validate()
        if self.request.num_warmups < 0:
            raise ConfigError("--num-warmups must not be negative")


def bench_serve(config: BenchServe, console: Console | None = None) -> int:
    """Measures, prints and writes; 0 where every request was answered, else 1.

    Raises:
        ConfigError: a setting is wrong, the server cannot be reached, or a library is missing.
    """
    config.validate()
    console = console or Console()
    try:
        from api.bench import client
    except ImportError:
        raise ConfigError("bench serve needs aiohttp: pip install 'vllm-jax[bench]'") from None
    if config.report.plot is not None:
        require_plotting()
    where = config.target
    base_url = (where.base_url or f"http://{where.host}:{where.port}").rstrip("/").removesuffix("/v1")
    key = where.api_key or os.environ.get("VLLM_JAX_API_KEY") or os.environ.get("OPENAI_API_KEY")
    wanted = where.served_model_name or where.model
    model, root = served_model(base_url, wanted, key, verify=not where.insecure)
    tokenizer = _tokenizer(where.tokenizer, [where.model or model, model, root], console)
    chat = where.backend == "openai-chat"
    texts = TextMaker(tokenizer, add_special_tokens=not chat)
    items = make_workload(config.dataset, config.arrival, texts)
    target = client.Target(
        base_url=base_url,
        model=model,
        backend=where.backend,
        endpoint=where.endpoint,
        api_key=key,
        ignore_eos=config.request.ignore_eos,
        temperature=config.request.temperature,
        extra_body=_sampling(config.request) | config.request.extra_body,
        verify_tls=not where.insecure,
    )
    columns = (TextColumn("{task.description}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), disable=not config.report.progress)
    with bar:
        if config.request.num_warmups:
            # Texts of their own: warm-up must not leave the measured prompts in a prefix cache.
            other = dataclasses.replace(config.dataset, seed=config.dataset.seed + 1)
            if other.dataset_path is not None:
                other = DatasetConfig(random_input_len=32, random_output_len=16, seed=other.seed)
            warm = make_workload(other, ArrivalConfig(max_concurrency=1), texts)[: config.request.num_warmups]
            asyncio.run(client.send_all(target, warm, max_concurrency=1))
        task = bar.add_task(f"{len(items)} requests to {base_url}", total=len(items))
        busy = time.process_time()
        measurements, duration = asyncio.run(
            client.send_all(
                target,
                items,
                max_concurrency=config.arrival.max_concurrency,
                on_done=lambda _: bar.advance(task),
            )
        )
    busy = time.process_time() - busy
    summary = summarise(
        measurements,
        duration,
        percentiles=config.report.percentiles,
        objectives=Objectives.parse(config.report.goodput),
        ignore_eos=config.request.ignore_eos,
        exact_prompts=texts.exact and not chat,
    )
    title = f"{model} at {base_url}, {config.dataset.dataset_name}"
    print_summary(console, summary, config.report.shown, title)
    if busy > _BUSY * duration:
        console.print(
            f"[yellow]warning:[/yellow] this client used {busy / duration:.0%} of a core: "
            "latencies may be its own",
            highlight=False,
        )
    _write(config, model, base_url, summary, measurements, title, console)
    return 0 if summary.failed == 0 else 1


def served_model(
    base_url: str, wanted: str | None, key: str | None, *, verify: bool = True
) -> tuple[str, str]:
    """Name of the model to ask for, and what the server says it is made of ("root").

    Raises:
        ConfigError: the server cannot be reached, or lists no model and none was named.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(base_url + "/v1/models", headers=headers, timeout=10, verify=verify)
        listed = answer.raise_for_status().json()["data"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        if wanted is not None and not isinstance(error, httpx.TransportError | httpx.InvalidURL):
            return wanted, wanted
        raise ConfigError(
            f"no OpenAI-compatible server at {base_url}: {error}. Start one (vllm-jax serve) or name it with "
            "--base-url"
        ) from None
    for entry in listed:
        if wanted is None or entry.get("id") == wanted:
            return entry["id"], entry.get("root") or entry["id"]
    if wanted is None:
        raise ConfigError(f"{base_url}/v1/models lists no model: name one with --model")
    return wanted, wanted


def _sampling(request: RequestConfig) -> dict[str, Any]:
    given = {"top_p": request.top_p, "top_k": request.top_k}
    return {name: value for name, value in given.items() if value is not None}


def _tokenizer(wanted: str | None, guesses: list[str], console: Console) -> Tokenizer | None:
    if wanted is not None:
        return load_tokenizer(resolve_directory(wanted, weights=False))
    for guess in guesses:
        if Path(guess).is_dir():
            return load_tokenizer(guess)
    console.print(
        "[yellow]note:[/yellow] no tokenizer at hand (--tokenizer): lengths of prompts are approximate",
        highlight=False,
    )
    return None


def _write(
    config: BenchServe,
    model: str,
    base_url: str,
    summary: Any,
    measurements: Any,
    title: str,
    console: Console,
) -> None:
    report = config.report
    if report.save_result or report.save_detailed or report.append_result or report.result_filename:
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        name = report.result_filename or f"bench-{report.label or Path(model).name}-{now}.json"
        path = Path(report.result_dir) / name
        settings = {
            "date": now,
            "version": __version__,
            "model": model,
            "base_url": base_url,
            "backend": config.target.backend,
            **dataclasses.asdict(config.dataset),
            **{k: str(v) if v == float("inf") else v for k, v in dataclasses.asdict(config.arrival).items()},
            "extra_body": json.dumps(_sampling(config.request) | config.request.extra_body),
            "label": report.label,
            **dict(pair.split("=", 1) for pair in report.metadata),
        }
        details = measurements if report.save_detailed else []
        write_json(path, summary, settings, details, append=report.append_result)
        console.print(f"figures: {path}", highlight=False)
    if report.plot is not None:
        write_plot(Path(report.plot), measurements, title)
        console.print(f"picture: {report.plot}", highlight=False)
