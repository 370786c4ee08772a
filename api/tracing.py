"""OpenTelemetry: one span a request, with the times and counts of the engine. An optional extra.

Knows the attribute names of OpenTelemetry's conventions for generative AI (``gen_ai.*``, see
https://opentelemetry.io/docs/specs/semconv/gen-ai/) and W3C trace context. Does not know what is generated.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from api.serving.streams import Deltas
from vllm_jax.errors import ConfigError
from vllm_jax.outputs import RequestMetrics, RequestOutput
from vllm_jax.sampling_params import SamplingParams

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class RequestTracer:
    """Sends a span for every request to an OTLP collector, in the background.

    Args:
        endpoint: the collector's URL for traces over HTTP, for example ``http://localhost:4318/v1/traces``.

    Raises:
        ConfigError: the extra ``otel`` is not installed.
    """

    def __init__(self, endpoint: str):
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise ConfigError(
                f"--otlp-traces-endpoint needs the extra otel (pip install 'vllm-jax[otel]'): {error}"
            ) from None
        self._provider = TracerProvider(resource=Resource.create({"service.name": "vllm-jax"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("vllm_jax")
        self._propagator = TraceContextTextMapPropagator()

    def follow(
        self,
        stream: Deltas,
        headers: Mapping[str, str],
        *,
        request_id: str,
        model: str,
        params: SamplingParams,
        num_prompt_tokens: int,
    ) -> Deltas:
        """``stream``, with a span that ends when it does; the client's ``traceparent`` is its parent."""
        attributes: dict[str, Any] = {
            "gen_ai.request.id": request_id,
            "gen_ai.request.model": model,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.n": params.n,
            "gen_ai.usage.prompt_tokens": num_prompt_tokens,
        }
        if params.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = params.max_tokens
        span = self._tracer.start_span(
            "llm_request", context=self._propagator.extract(dict(headers)), attributes=attributes
        )
        return _TracedStream(stream, span)

    def close(self) -> None:
        """Sends what waits. Takes seconds where the collector does not answer."""
        self._provider.shutdown()


class _TracedStream(AsyncIterator[RequestOutput]):
    """A stream that notes what passes in a span."""

    def __init__(self, stream: Deltas, span: Span):
        self._stream = stream
        self._span = span
        self._num_tokens = 0
        self._reasons: dict[int, str] = {}
        self._times: RequestMetrics | None = None

    def __aiter__(self) -> _TracedStream:
        return self

    async def __anext__(self) -> RequestOutput:
        try:
            delta = await self._stream.__anext__()
        except StopAsyncIteration:
            self._end()
            raise
        except BaseException as error:
            self._fail(error)
            raise
        self._times = delta.metrics or self._times
        for output in delta.outputs:
            self._num_tokens += len(output.token_ids)
            if output.finish_reason is not None:
                self._reasons[output.index] = str(output.finish_reason)
        if delta.finished:
            self._end()
        return delta

    async def aclose(self) -> None:
        """Ends the span as aborted, if the request has not ended, and closes the stream."""
        await self._stream.aclose()
        self._end()

    def _fail(self, error: BaseException) -> None:
        from opentelemetry.trace import StatusCode

        if self._span.is_recording():
            self._span.set_status(StatusCode.ERROR, type(error).__name__)
        self._end()

    def _end(self) -> None:
        if not self._span.is_recording():
            return
        span, times = self._span, self._times
        span.set_attribute("gen_ai.usage.completion_tokens", self._num_tokens)
        reasons = [self._reasons[index] for index in sorted(self._reasons)] or ["abort"]
        span.set_attribute("gen_ai.response.finish_reasons", reasons)
        if times is not None:
            end = times.finished_time or time.monotonic()
            span.set_attribute("gen_ai.latency.e2e", end - times.arrival_time)
            if times.first_scheduled_time is not None:
                queued = times.first_scheduled_time - times.arrival_time
                span.set_attribute("gen_ai.latency.time_in_queue", queued)
            if times.first_token_time is not None:
                first = times.first_token_time - times.arrival_time
                span.set_attribute("gen_ai.latency.time_to_first_token", first)
        span.end()
