"""How long a request took, as its own answer tells it (``--enable-per-request-metrics``)."""

from __future__ import annotations

from vllm_jax.outputs import RequestMetrics


def timing(times: RequestMetrics | None, tokens: int) -> dict[str, float] | None:
    """Milliseconds of a request's phases, and the speed of its ``tokens`` output tokens.

    ``queue_time_ms`` is the wait to be scheduled, ``time_to_first_token_ms`` begins behind it,
    ``generation_time_ms`` with the first token; ``tokens_per_second`` is over the latter two together.
    ``mean_itl_ms`` needs two tokens. None where no token came.
    """
    if times is None or times.first_scheduled_time is None:
        return None
    scheduled, first, last = times.first_scheduled_time, times.first_token_time, times.last_token_time
    if first is None or last is None:
        return None
    found = {
        "queue_time_ms": 1000 * (scheduled - times.arrival_time),
        "time_to_first_token_ms": 1000 * (first - scheduled),
        "generation_time_ms": 1000 * (last - first),
    }
    if tokens > 1:
        found["mean_itl_ms"] = 1000 * (last - first) / (tokens - 1)
    if last > scheduled:
        found["tokens_per_second"] = tokens / (last - scheduled)
    return found
