"""From measurements to figures: throughput, percentiles, goodput, and whether the token counts are right.

Pure functions of what was measured. Times come in seconds and leave in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from api.bench.client import Measurement
from vllm_jax.errors import ConfigError

METRICS = {
    "ttft": "Time to first token",
    "tpot": "Time per output token after the first",
    "itl": "Inter-token latency",
    "e2el": "End-to-end latency",
}
"""Short name -> what it is. The spelling "e2e" is accepted for "e2el"."""


@dataclass(frozen=True)
class Distribution:
    """Mean, median, standard deviation and percentiles of one metric, in milliseconds."""

    count: int
    mean: float
    median: float
    std: float
    percentiles: dict[float, float]

    @classmethod
    def of(cls, seconds: Sequence[float], percentiles: Sequence[float]) -> Distribution:
        """The distribution of ``seconds``; zeros where there is nothing. Percentiles interpolate linearly."""
        if not len(seconds):
            return cls(0, 0.0, 0.0, 0.0, dict.fromkeys(percentiles, 0.0))
        values = np.asarray(seconds, np.float64) * 1e3
        return cls(
            len(values),
            float(values.mean()),
            float(np.median(values)),
            float(values.std()),
            {p: float(np.percentile(values, p)) for p in percentiles},
        )


@dataclass(frozen=True)
class Counts:
    """Whether the servers' token counts add up.

    ``wrong`` are requests whose number of tokens is not the one that was asked for although EOS was ignored;
    ``wrong_prompt`` those whose prompt the server counts otherwise than the client; ``without_usage`` those
    whose stream carried no usage; ``more_chunks_than_tokens`` those that cannot be.
    """

    wrong: int = 0
    wrong_prompt: int = 0
    without_usage: int = 0
    more_chunks_than_tokens: int = 0

    @property
    def complaints(self) -> list[str]:
        """What is not in order, a sentence each."""
        said = {
            "requests whose number of output tokens is not what was asked for": self.wrong,
            "requests whose prompt has another length at the server": self.wrong_prompt,
            "streams without usage: their chunks were counted as tokens": self.without_usage,
            "streams with more chunks than tokens": self.more_chunks_than_tokens,
        }
        return [f"{number} {text}" for text, number in said.items() if number]


@dataclass(frozen=True)
class Summary:
    """The figures of one run. Throughputs are per second."""

    duration: float
    completed: int
    failed: int
    errors: list[str]
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    output_throughput: float
    total_token_throughput: float
    metrics: dict[str, Distribution]
    counts: Counts
    goodput: float | None = None
    """Requests a second that met every objective, or None without objectives."""
    max_in_flight: int = 0

    def as_json(self) -> dict[str, Any]:
        """Flat, with the usual names: ``mean_ttft_ms``, ``p99_itl_ms``..."""
        flat: dict[str, Any] = {
            "duration": self.duration,
            "completed": self.completed,
            "failed": self.failed,
            "errors": self.errors,
            "total_input_tokens": self.total_input_tokens,
            "total_output_tokens": self.total_output_tokens,
            "request_throughput": self.request_throughput,
            "output_throughput": self.output_throughput,
            "total_token_throughput": self.total_token_throughput,
            "request_goodput": self.goodput,
            "max_concurrent_requests": self.max_in_flight,
            "requests_with_wrong_output_tokens": self.counts.wrong,
            "requests_with_wrong_prompt_tokens": self.counts.wrong_prompt,
            "requests_without_usage": self.counts.without_usage,
        }
        for name, values in self.metrics.items():
            flat |= {f"mean_{name}_ms": values.mean, f"median_{name}_ms": values.median}
            flat |= {f"std_{name}_ms": values.std}
            flat |= {f"p{p:g}_{name}_ms": value for p, value in values.percentiles.items()}
        return flat


@dataclass(frozen=True)
class Objectives:
    """What a good request keeps to: metric -> milliseconds."""

    limits: dict[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, words: Sequence[str]) -> Objectives:
        """Reads ``ttft:500 tpot:50``. Raises ConfigError."""
        limits = {}
        for word in words:
            name, _, value = word.partition(":")
            name = "e2el" if name == "e2e" else name
            try:
                limits[name] = float(value)
            except ValueError:
                limits[name] = -1.0
            if name not in ("ttft", "tpot", "e2el") or not limits[name] > 0:
                raise ConfigError(f"--goodput takes ttft:MS, tpot:MS and e2el:MS, not {word!r}")
        return cls(limits)

    def met(self, request: Measurement) -> bool:
        """Whether one answered request keeps to all of them."""
        values: Mapping[str, float | None] = {
            "ttft": request.ttft,
            "tpot": request.tpot,
            "e2el": request.e2el,
        }
        return all((values[name] or 0.0) * 1e3 <= limit for name, limit in self.limits.items())


def summarise(
    measurements: Sequence[Measurement],
    duration: float,
    *,
    percentiles: Sequence[float] = (50.0, 95.0, 99.0),
    objectives: Objectives | None = None,
    ignore_eos: bool = True,
    exact_prompts: bool = False,
) -> Summary:
    """Puts the figures of a run together.

    Args:
        measurements: of every request.
        duration: seconds from the first sending to the last answer.
        percentiles: which to give.
        objectives: for the goodput.
        ignore_eos: every request should have come to all the tokens it asked for.
        exact_prompts: the prompts' lengths were counted as the server would.
    """
    good = [m for m in measurements if m.ok]
    bad = [m.error or "" for m in measurements if not m.ok]
    inputs = sum(m.prompt_tokens if m.prompt_tokens is not None else m.item.prompt_tokens or 0 for m in good)
    outputs = sum(m.output_tokens for m in good)
    times = {
        "ttft": [m.ttft for m in good],
        "tpot": [m.tpot for m in good if m.tpot is not None],
        "itl": [gap for m in good for gap in m.itls],
        "e2el": [m.e2el for m in good],
    }
    goodput = None
    if objectives is not None and objectives.limits:
        goodput = sum(map(objectives.met, good)) / duration
    return Summary(
        duration=duration,
        completed=len(good),
        failed=len(bad),
        errors=list(dict.fromkeys(bad))[:5],
        total_input_tokens=inputs,
        total_output_tokens=outputs,
        request_throughput=len(good) / duration,
        output_throughput=outputs / duration,
        total_token_throughput=(inputs + outputs) / duration,
        metrics={name: Distribution.of(values, percentiles) for name, values in times.items()},
        counts=_count(good, ignore_eos=ignore_eos, exact_prompts=exact_prompts),
        goodput=goodput,
        max_in_flight=most_in_flight(good),
    )


def most_in_flight(measurements: Sequence[Measurement]) -> int:
    """The largest number of requests that were under way at one time."""
    changes = sorted([(m.start, 1) for m in measurements] + [(m.end, -1) for m in measurements])
    return int(np.cumsum([change for _, change in changes]).max()) if changes else 0


def _count(good: Sequence[Measurement], *, ignore_eos: bool, exact_prompts: bool) -> Counts:
    def wrong_prompt(m: Measurement) -> bool:
        return exact_prompts and m.prompt_tokens not in (None, m.item.prompt_tokens)

    return Counts(
        wrong=sum(ignore_eos and m.output_tokens != m.item.max_tokens for m in good),
        wrong_prompt=sum(map(wrong_prompt, good)),
        without_usage=sum(m.completion_tokens is None for m in good),
        more_chunks_than_tokens=sum(len(m.token_times) > m.output_tokens for m in good),
    )
