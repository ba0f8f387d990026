"""OpenTelemetry traces of requests and attempts. OTEL_EXPORTER_OTLP_ENDPOINT switches them on; without it neither the
SDK nor the exporter is imported.

    API request ──traceparent──> engine request
         └──── stored with the job ────> its attempts, on whatever worker

All variables of OpenTelemetry's SDK have their effect, such as OTEL_TRACES_SAMPLER. A span has ids, a route, a status
and an outcome, and never a path, a query or a body.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, SpanKind
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
SERVICE_NAME = "OTEL_SERVICE_NAME"
HEADER = "traceparent"
# Health checks come every few seconds, and are of no interest.
UNTRACED = frozenset({"/healthz", "/readyz", "/metrics", "/health"})
# The span of the present request, in the form of the header (W3C Trace Context).
traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)


class Tracing:
    """Makes the spans of one process, and sends them in a thread of its own."""

    def __init__(self, service: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": os.environ.get(SERVICE_NAME, service)})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("tunesmith")
        self._form = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, name: str, parent: str | None) -> "Iterator[Span]":
        """The span of a request that this process answers. What it asks of others names it."""
        from opentelemetry.trace import SpanKind

        with self._span(name, parent, SpanKind.SERVER) as span:
            token = traceparent.set(self._header(span))
            try:
                yield span
            finally:
                traceparent.reset(token)

    def attempt(self, name: str, parent: str | None) -> "AbstractContextManager[Span]":
        """The span of an attempt at a job, below that of the request that made the job."""
        from opentelemetry.trace import SpanKind

        return self._span(name, parent, SpanKind.CONSUMER)

    def close(self) -> None:
        """Send what was not sent yet."""
        self._provider.shutdown()

    @contextmanager
    def _span(self, name: str, parent: str | None, kind: "SpanKind") -> "Iterator[Span]":
        """Begin a span. Of an exception it has no message, which may hold a row or a part of a request."""
        from opentelemetry.trace import StatusCode

        context = self._form.extract({HEADER: parent} if parent is not None else {})
        with self._tracer.start_as_current_span(
            name, context=context, kind=kind, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException:
                span.set_status(StatusCode.ERROR)
                raise

    def _header(self, span: "Span") -> str | None:
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._form.inject(carrier, set_span_in_context(span))
        return carrier.get(HEADER)


def start_tracing(service: str) -> Tracing | None:
    """Return the tracing of this process, or None if it is off."""
    return Tracing(service) if os.environ.get(VARIABLE) else None


def attempt_span(
    tracing: Tracing | None, parent: str | None, job_id: str, attempt: int, stage: str
) -> "AbstractContextManager[Span | None]":
    """The span of an attempt, or a context without effect if tracing is off."""
    return nullcontext() if tracing is None else _attempt_span(tracing, parent, job_id, attempt, stage)


@contextmanager
def _attempt_span(tracing: Tracing, parent: str | None, job_id: str, attempt: int, stage: str) -> "Iterator[Span]":
    with tracing.attempt(f"attempt {stage}", parent) as span:
        span.set_attributes({"tunesmith.job_id": job_id, "tunesmith.attempt": attempt, "tunesmith.stage": stage})
        yield span


class TracedRequests:
    """ASGI middleware: a span for each request, below that of the client if it names one."""

    def __init__(self, app: "ASGIApp", tracing: Tracing) -> None:
        self._app, self._tracing = app, tracing

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(HEADER.encode())
        with self._tracing.request(scope["method"], None if sent is None else sent.decode("latin-1")) as span:

            async def send_described(message: "Message") -> None:
                if message["type"] == "http.response.start":
                    _describe(span, scope, message["status"])
                await send(message)

            await self._app(scope, receive, send_described)


def _describe(span: "Span", scope: "Scope", status: int) -> None:
    """Name a span by its route, with the attributes of OpenTelemetry's conventions for HTTP."""
    from opentelemetry.trace import StatusCode

    route = getattr(scope.get("route"), "path", None)
    span.set_attributes({"http.request.method": scope["method"], "http.response.status_code": status})
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    if scope.get("request_id") is not None:
        span.set_attribute("tunesmith.request_id", scope["request_id"])
    if status >= 500:
        span.set_status(StatusCode.ERROR)
