"""A run's figures for people and programs: a table, a JSON file, a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.bench.client import Measurement
from api.bench.statistics import METRICS, Summary
from vllm_jax.errors import ConfigError


def print_summary(console: Console, summary: Summary, shown: Sequence[str], title: str) -> None:
    """A table of the throughputs, one of the latencies, and whatever is not in order."""
    console.print(title, style="bold", highlight=False, markup=False)
    totals = Table(show_header=False, box=None)
    totals.add_column()
    totals.add_column(justify="right")
    rows: list[tuple[str, str]] = [
        ("Requests answered", str(summary.completed)),
        ("Requests failed", str(summary.failed)),
        ("Duration (s)", f"{summary.duration:.2f}"),
        ("Input tokens", f"{summary.total_input_tokens:,}"),
        ("Output tokens", f"{summary.total_output_tokens:,}"),
        ("Most requests at a time", str(summary.max_in_flight)),
        ("Requests a second", f"{summary.request_throughput:.2f}"),
        ("Output tokens a second", f"{summary.output_throughput:.1f}"),
        ("All tokens a second", f"{summary.total_token_throughput:.1f}"),
    ]
    if summary.goodput is not None:
        rows.append(("Goodput (requests a second)", f"{summary.goodput:.2f}"))
    for row in rows:
        totals.add_row(*row)
    console.print(totals)
    latencies = Table(show_edge=False)
    latencies.add_column("ms")
    for name in ("mean", "median", "std"):
        latencies.add_column(name, justify="right")
    percentiles = list(next(iter(summary.metrics.values())).percentiles)
    for p in percentiles:
        latencies.add_column(f"p{p:g}", justify="right")
    for name in shown:
        values = summary.metrics[name]
        numbers = [values.mean, values.median, values.std, *(values.percentiles[p] for p in percentiles)]
        latencies.add_row(METRICS[name], *(f"{number:.2f}" for number in numbers))
    console.print(latencies)
    for complaint in summary.counts.complaints:
        console.print(f"[yellow]warning:[/yellow] {complaint}", highlight=False)
    for error in summary.errors:
        console.print(f"[red]failed:[/red] {escape(error)}", highlight=False)


def write_json(
    path: Path,
    summary: Summary,
    settings: dict[str, Any],
    details: Sequence[Measurement],
    *,
    append: bool = False,
) -> None:
    """Settings and figures, and where ``details`` are given, every request; appended as one line, or alone.

    Raises:
        ConfigError: the file cannot be written.
    """
    content = settings | summary.as_json()
    if details:
        content["requests"] = [
            {
                "at": m.item.at,
                "ok": m.ok,
                "error": m.error,
                "prompt_tokens": m.prompt_tokens,
                "output_tokens": m.output_tokens if m.ok else 0,
                "finish_reason": m.finish_reason,
                "ttft_ms": m.ttft * 1e3 if m.ok else None,
                "e2el_ms": m.e2el * 1e3 if m.ok else None,
                "itls_ms": [round(gap * 1e3, 3) for gap in m.itls],
                "text": m.text,
            }
            for m in details
        ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=None if append else 1) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def require_plotting() -> None:
    """Raises ConfigError where matplotlib is missing: before the run, not after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("--plot needs matplotlib: pip install 'vllm-jax[bench]'") from None


def write_plot(path: Path, measurements: Sequence[Measurement], title: str) -> None:
    """Four panels: both latencies' distributions, requests in flight and tokens a second over time.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    good = [m for m in measurements if m.ok]
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    (first, gaps), (flight, rate) = figure.subplots(2, 2)
    _draw_distribution(first, [m.ttft for m in good], "time to first token (ms)")
    _draw_distribution(gaps, [gap for m in good for gap in m.itls], "inter-token latency (ms)")
    if good:
        zero = min(m.start for m in good)
        changes = sorted([(m.start - zero, 1) for m in good] + [(m.end - zero, -1) for m in good])
        flight.step([t for t, _ in changes], np.cumsum([c for _, c in changes]), where="post")
        tokens = np.array([t - zero for m in good for t in m.token_times])
        seconds = max(tokens.max(), 1e-3)
        counts, edges = np.histogram(tokens, bins=min(100, max(10, int(seconds))), range=(0, seconds))
        rate.step(edges[:-1], counts / np.diff(edges), where="post")
    flight.set(xlabel="time (s)", ylabel="requests in flight", ylim=(0, None))
    rate.set(xlabel="time (s)", ylabel="chunks a second", ylim=(0, None))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--plot {path}: {error}") from None


def _draw_distribution(axes: Any, seconds: Sequence[float], label: str) -> None:
    values = np.sort(np.asarray(seconds, np.float64)) * 1e3
    axes.plot(values, np.arange(1, len(values) + 1) / max(1, len(values)))
    axes.set(xlabel=label, ylabel="fraction of all", ylim=(0, 1))
    axes.grid(alpha=0.3)
