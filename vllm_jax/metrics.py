"""What a Prometheus server may scrape: counts and times of the engine, under the names vLLM gave them.

Knows names, help texts, buckets and how a request's times become durations. Does not know who calls it:
the engine reports steps and requests, the server reports HTTP answers and serves :meth:`Metrics.expose`.
Each :class:`Metrics` has a registry of its own, so that two engines in one process do not collide.
All methods may be called from any thread.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from vllm_jax.outputs import FinishReason, RequestMetrics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Media type of :meth:`Metrics.expose`: the text format every scraper reads."""

_FIRST_TOKEN_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.08,
    0.15,
    0.3,
    0.6,
    1.0,
    2.5,
    5.0,
    10.0,
    20.0,
    60.0,
    240.0,
)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.075, 0.1, 0.2, 0.4, 0.75, 1.0, 2.5, 5.0, 20.0, 80.0)
_REQUEST_S = (0.05, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_SMALL_COUNTS = (0, 1, 2, 5, 10, 20, 50)
_FINISH_REASONS: tuple[FinishReason, ...] = ("stop", "length", "abort", "error")


class _WeightedHistogram(Collector):
    """A histogram that takes a step's observations at once: equal ones are many, and each costs a lock."""

    def __init__(self, name: str, text: str, labels: Mapping[str, str], buckets: tuple[float, ...]):
        self._name, self._text, self._labels, self._bounds = name, text, labels, buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: Mapping[float, int]) -> None:
        """Counts ``values[v]`` observations of each value ``v``."""
        with self._lock:
            for value, count in values.items():
                self._counts[bisect_left(self._bounds, value)] += count
                self._sum += value * count

    def collect(self) -> Iterator[Metric]:
        """The series, for the registry."""
        family = HistogramMetricFamily(self._name, self._text, labels=list(self._labels))
        with self._lock:
            ends = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
            buckets = list(zip(ends, accumulate(self._counts), strict=True))
            family.add_metric(list(self._labels.values()), buckets, self._sum)
        yield family


class Metrics:
    """All instruments of one engine; ``model_name`` and ``engine`` are labels of every ``vllm:`` series."""

    def __init__(self, model_name: str, engine: str = "0"):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._labels = {"model_name": model_name, "engine": engine}

        self._running = self._gauge("num_requests_running", "Sequences in the running batch.")
        self._waiting = self._gauge("num_requests_waiting", "Sequences that wait to be scheduled.")
        self._waiting_by_reason = Gauge(
            "vllm:num_requests_waiting_by_reason",
            "Sequences that wait to be scheduled, by what they wait for.",
            [*self._labels, "reason"],
            registry=self.registry,
        ).labels(**self._labels, reason="capacity")
        self._kv_usage = self._gauge(
            "kv_cache_usage_perc", "Fraction of the KV blocks in use; 1 is all of them."
        )

        self._prefix_queries = self._counter("prefix_cache_queries", "Prompt tokens looked up in the cache.")
        self._prefix_hits = self._counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self._rejections = self._counter("admission_rejections", "Requests refused because too many wait.")
        self._preemptions = self._counter("num_preemptions", "Sequences that lost their KV blocks.")
        self._prompt_tokens = self._counter(
            "prompt_tokens", "Prompt tokens of requests that began to answer."
        )
        self._cached_tokens = self._counter("prompt_tokens_cached", "Those of them from the prefix cache.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self._compilations = self._counter(
            "compilations", "Device programs compiled after the server was ready; each is a stall."
        )
        success = Counter(
            "vllm:request_success",
            "Sequences finished, by the reason.",
            [*self._labels, "finished_reason"],
            registry=self.registry,
        )
        self._finished = {r: success.labels(**self._labels, finished_reason=r) for r in _FINISH_REASONS}

        self._iteration_tokens = self._histogram(
            "iteration_tokens_total", "Prompt tokens and sampled tokens of a step.", _STEP_TOKENS
        )
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "From arrival to first token.", _FIRST_TOKEN_S
        )
        self._itl = _WeightedHistogram(
            "vllm:inter_token_latency_seconds", "Between two tokens of a sequence.", self._labels, _TOKEN_S
        )
        self.registry.register(self._itl)
        self._tpot = self._histogram(
            "request_time_per_output_token_seconds", "Decode time of a request by its later tokens.", _TOKEN_S
        )
        self._e2e = self._histogram(
            "e2e_request_latency_seconds", "From arrival to the last token.", _REQUEST_S
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "From arrival to the first step.", _REQUEST_S
        )
        self._inference = self._histogram("request_inference_time_seconds", "First step to end.", _REQUEST_S)
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "First step to first token.", _REQUEST_S
        )
        self._decode = self._histogram(
            "request_decode_time_seconds", "First token to last token.", _REQUEST_S
        )
        self._request_prompt = self._histogram(
            "request_prompt_tokens", "Prompt tokens of a request.", _TOKENS
        )
        self._request_generation = self._histogram(
            "request_generation_tokens", "Tokens generated for a request, over all its sequences.", _TOKENS
        )
        self._request_longest = self._histogram(
            "request_max_num_generation_tokens", "Tokens of the longest sequence of a request.", _TOKENS
        )
        self._request_n = self._histogram("request_params_n", "The n of requests.", _SMALL_COUNTS[1:])
        self._request_max_tokens = self._histogram(
            "request_params_max_tokens", "Most tokens a sequence of a request could have had.", _TOKENS
        )
        self._request_preemptions = self._histogram(
            "request_num_preemptions", "Preemptions a request went through.", _SMALL_COUNTS
        )
        self._request_prefill_computed = self._histogram(
            "request_prefill_kv_computed_tokens", "Prompt tokens of a request computed, not cached.", _TOKENS
        )

        self._publish_what_never_changes()

        self._http_requests = Counter(
            "http_requests", "HTTP answers.", ["method", "handler", "status"], registry=self.registry
        )
        self._http_seconds = Histogram(
            "http_request_duration_seconds",
            "From the request's headers to the last byte of the answer.",
            ["method", "handler"],
            buckets=_REQUEST_S,
            registry=self.registry,
        )

    # --- what the engine reports -----------------------------------------------------------------

    def set_cache_config(self, **config: object) -> None:
        """Publishes the KV cache's settings as labels of ``vllm:cache_config_info``; called once at start."""
        labels = {key: str(value) for key, value in config.items()}
        Gauge(
            "vllm:cache_config_info", "Settings of the KV cache.", [*labels, "engine"], registry=self.registry
        ).labels(**labels, engine=self._labels["engine"]).set(1)

    def on_step(
        self, *, running: int, waiting: int, kv_cache_usage: float, num_tokens: int, preemptions: int = 0
    ) -> None:
        """After each scheduling round: queues (sequences), KV use (0..1), tokens of the step, preemptions."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._waiting_by_reason.set(waiting)
        self._kv_usage.set(kv_cache_usage)
        if num_tokens:
            self._iteration_tokens.observe(num_tokens)
        if preemptions:
            self._preemptions.inc(preemptions)

    def on_prefix_lookup(self, *, queries: int, hits: int) -> None:
        """After an admission: prompt tokens looked up in the prefix cache, and found there."""
        self._prefix_queries.inc(queries)
        self._prefix_hits.inc(hits)

    def on_first_token(self, *, seconds: float, prompt_tokens: int, cached_tokens: int) -> None:
        """When a request gets its first token, ``seconds`` after its arrival."""
        self._ttft.observe(seconds)
        self._prompt_tokens.inc(prompt_tokens)
        self._cached_tokens.inc(cached_tokens)

    def on_generated(self, count: int, gaps: Mapping[float, int]) -> None:
        """A step brought ``count`` tokens; ``gaps[s]`` of them came ``s`` seconds after the one before.

        The first token of a sequence has no gap.
        """
        self._generation_tokens.inc(count)
        self._itl.observe(gaps)

    def on_sequence_finished(self, reason: FinishReason) -> None:
        """One sequence has ended."""
        self._finished[reason].inc()

    def on_request_finished(
        self,
        times: RequestMetrics,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        generation_tokens: list[int],
        max_tokens: int,
    ) -> None:
        """A request has ended, with ``generation_tokens[i]`` tokens in sequence i, ``max_tokens`` at most.

        Durations follow from ``times``; a request that was aborted before a stage has none for it.
        """
        total, longest = sum(generation_tokens), max(generation_tokens, default=0)
        self._request_prompt.observe(prompt_tokens)
        self._request_generation.observe(total)
        self._request_longest.observe(longest)
        self._request_n.observe(len(generation_tokens))
        self._request_max_tokens.observe(max_tokens)
        self._request_preemptions.observe(times.num_preemptions)
        self._request_prefill_computed.observe(prompt_tokens - cached_tokens)

        end = times.last_token_time if times.last_token_time is not None else times.finished_time
        if end is not None:
            self._e2e.observe(end - times.arrival_time)
        if times.first_scheduled_time is None:
            return
        self._queue.observe(times.first_scheduled_time - times.arrival_time)
        if end is not None:
            self._inference.observe(end - times.first_scheduled_time)
        if times.first_token_time is None or end is None:
            return
        decode = end - times.first_token_time
        self._prefill.observe(times.first_token_time - times.first_scheduled_time)
        self._decode.observe(decode)
        if longest > 1:
            self._tpot.observe(decode / (longest - 1))

    def on_admission_rejection(self) -> None:
        """A request was refused because too many wait."""
        self._rejections.inc()

    def on_compilation(self, count: int = 1) -> None:
        """``count`` device programs were compiled although the server was ready."""
        self._compilations.inc(count)

    # --- what the server reports -----------------------------------------------------------------

    def on_http(self, *, method: str, handler: str, status: int, seconds: float) -> None:
        """One HTTP answer is complete; ``handler`` is the route's pattern, not the raw path."""
        self._http_requests.labels(method, handler, f"{status // 100}xx").inc()
        self._http_seconds.labels(method, handler).observe(seconds)

    def expose(self) -> bytes:
        """All series in the Prometheus text format; see :data:`CONTENT_TYPE`."""
        return generate_latest(self.registry)

    # --- construction ----------------------------------------------------------------------------

    def _publish_what_never_changes(self) -> None:
        """Series that dashboards and gateways ask for, of what this engine does not have."""
        sleep = Gauge(
            "vllm:engine_sleep_state",
            "1 at the state the engine is in; it is always awake.",
            [*self._labels, "sleep_state"],
            registry=self.registry,
        )
        for state in ("awake", "weights_offloaded", "discard_all"):
            sleep.labels(**self._labels, sleep_state=state).set(state == "awake")
        lora = {"max_lora": "0", "waiting_lora_adapters": "", "running_lora_adapters": ""}
        Gauge(
            "vllm:lora_requests_info",
            "Adapters that run and wait, in the labels: there are none. The value is the time of the start.",
            list(lora),
            registry=self.registry,
        ).labels(**lora).set_to_current_time()

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, list(self._labels), registry=self.registry).labels(**self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, list(self._labels), registry=self.registry).labels(
            **self._labels
        )

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(f"vllm:{name}", text, list(self._labels), registry=self.registry, buckets=buckets)
        return family.labels(**self._labels)
