"""The HTTP surface for reading: metrics, the page, JSON, health; and a reload where it is enabled."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Protocol

from prometheus_client import CollectorRegistry, Metric
from tornado.iostream import StreamClosedError
from tornado.web import Application

from ssis_exporter import __version__, api, landing
from ssis_exporter.baseline import Baseline
from ssis_exporter.config import Config
from ssis_exporter.errors import SsisExporterError
from ssis_exporter.exposition import Format, accepts_gzip, compress, negotiate, render
from ssis_exporter.handlers import Guard, Handler, NotFound, UnfitBodies, UnfitBody, log_request
from ssis_exporter.historyfile import Failure
from ssis_exporter.labels import clean_line
from ssis_exporter.model import ExecutionFacts, Reading
from ssis_exporter.pages import Pages, Readable, TooManyRequests
from ssis_exporter.scrape import scrape_budget

log = logging.getLogger(__name__)

PAGE_BUDGET = timedelta(seconds=5)
"""How long the page for people waits for a source."""

LARGE_BODY = 64 * 1024

TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"


class Past(Protocol):
    """What this surface needs of the history; from any thread."""

    def baseline(self, facts: ExecutionFacts) -> Baseline | None:
        """What is usual for a run's package; None where nothing is known."""

    def failures(self) -> Sequence[Failure]:
        """The newest failures, newest first."""


class Served(Readable, Protocol):
    """What this surface needs of the exporter."""

    config: Config
    registry: CollectorRegistry
    ready: bool

    @property
    def past(self) -> Past | None:
        """What ended, where that is kept."""

    @property
    def source_names(self) -> tuple[str, ...]:
        """The configured sources."""

    def families(self, readings: Sequence[Reading]) -> Iterable[Metric]:
        """All families of one scrape; called on another thread."""

    def families_of_one(self, readings: Sequence[Reading]) -> Iterable[Metric]:
        """All families of one source, with those counters of the exporter's own that are about it."""

    async def reload(self) -> None:
        """Puts the configuration as it is now in force, or raises and keeps the old one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """The flags `--web.*` that shape the surface."""

    telemetry_path: str = "/metrics"
    timeout_margin: timedelta = timedelta(seconds=0.5)
    max_requests: int = 40
    """Collections in flight, beyond which a scrape gets 503; 0 for no limit."""

    enable_lifecycle: bool = False
    guard: Guard | None = None
    """Who may ask; everybody when there is none."""

    page_sections: Callable[[], tuple[str, ...]] = tuple
    """Further sections of the page as ready HTML. Called on a thread."""


def make_application(exporter: Served, settings: WebSettings) -> Application:
    """The application for the metrics listener."""
    given = {
        "exporter": exporter,
        "web": settings,
        "pages": Pages(exporter, max_requests=settings.max_requests),
    }
    return Application(
        [
            (UnfitBodies(), UnfitBody),
            (re.escape(settings.telemetry_path), MetricsHandler, given),
            ("/", PageHandler, given),
            ("/probe", ProbeHandler, given),
            ("/sd", DiscoveryHandler, given),
            (api.EXECUTIONS_PATH, ExecutionsHandler, given),
            (api.FAILURES_PATH, FailuresHandler, given),
            (r"/-/healthy", HealthyHandler, given),
            (r"/-/ready", ReadyHandler, given),
            (r"/-/reload", ReloadHandler, given),
        ],
        default_handler_class=NotFound,
        log_function=log_request,
        guard=settings.guard,
    )


class _Handler(Handler):
    def initialize(self, exporter: Served, web: WebSettings, pages: Pages) -> None:
        self.exporter = exporter
        self.web = web
        self.pages = pages

    async def send_chosen(
        self,
        content_type: str,
        make: Callable[[Sequence[Reading]], Iterable[bytes]],
        *,
        budget: timedelta,
        kind: tuple[object, ...] = (),
    ) -> None:
        """As `send_page`, for the sources that `collect[]` names, or all."""
        names = self.get_query_arguments("collect[]", strip=False) or None
        if names is not None and (unknown := [name for name in names if name not in self.exporter.source_names]):
            known = ", ".join(clean_line(name) for name in self.exporter.source_names)
            what = f"collect[]: there is no source {clean_line(unknown[0])}"
            self.refuse(HTTPStatus.BAD_REQUEST, f"{what}; known are {known}")
            return
        await self.send_page(content_type, make, names=names, budget=budget, kind=kind)

    async def send_page(
        self,
        content_type: str,
        make: Callable[[Sequence[Reading]], Iterable[bytes]],
        *,
        names: Sequence[str] | None,
        budget: timedelta,
        kind: tuple[object, ...] = (),
    ) -> None:
        """Reads the sources, and sends what `make` makes of them, compressed where taken."""
        gzip = accepts_gzip(self.request.headers.get("Accept-Encoding"))

        def made(readings: Sequence[Reading]) -> bytes:
            chunks = make(readings)
            return b"".join(compress(chunks) if gzip else chunks)

        try:
            async with self.pages.page((type(self), content_type, gzip, *kind), budget, names, made) as body:
                self.set_header("Content-Type", content_type)
                self.set_header("Vary", "Accept, Accept-Encoding")
                if gzip:
                    self.set_header("Content-Encoding", "gzip")
                self.set_header("Content-Length", len(body))
                if len(body) > LARGE_BODY:
                    # Sent with the head it would be copied once for each connection that shares it.
                    self.flush()
                # Until the last byte is sent: an answer counts as in flight as long as it takes memory.
                await self.finish(body)
        except TooManyRequests:
            self.refuse(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self.web.max_requests} collections are in flight already (--web.max-requests)",
            )
        except StreamClosedError:
            log.debug("%s left before its answer was sent", self.request.remote_ip)

    def budget(self) -> timedelta:
        """How long this scrape may wait for sources."""
        return scrape_budget(self.request.headers.get(TIMEOUT_HEADER), self.web.timeout_margin)


class _ReadingHandler(_Handler):
    async def get(self) -> None:
        raise NotImplementedError

    async def head(self) -> None:
        """As GET, without the body."""
        await self.get()


class MetricsHandler(_ReadingHandler):
    """`/metrics`."""

    async def get(self) -> None:
        """Every source's metrics under the scrape's deadline. A source that fails is `ssis_up` 0, never an error."""
        form = negotiate(self.request.headers.get("Accept"))
        await self.send_chosen(form.content_type, lambda readings: self._make(readings, form), budget=self.budget())

    def _make(self, readings: Sequence[Reading], form: Format) -> Iterable[bytes]:
        return render(self.exporter.families(readings), self.exporter.registry, form)


class ProbeHandler(_ReadingHandler):
    """`/probe`."""

    async def get(self) -> None:
        """One configured source, for a Prometheus that has each as a target of its own."""
        asked = self.get_query_arguments("source", strip=False)
        known = self.exporter.source_names
        if len(asked) != 1 or asked[0] not in known:
            names = ", ".join(clean_line(name) for name in known)
            unknown = f"there is no source {clean_line(asked[0])}" if len(asked) == 1 else ""
            what = unknown or "give one source as ?source=NAME"
            self.refuse(HTTPStatus.BAD_REQUEST, f"{what}; known are {names}")
            return
        form = negotiate(self.request.headers.get("Accept"))
        await self.send_page(
            form.content_type,
            lambda readings: render(self.exporter.families_of_one(readings), None, form),
            names=asked,
            budget=self.budget(),
        )


class DiscoveryHandler(_ReadingHandler):
    """`/sd`."""

    async def get(self) -> None:
        """
        The configured sources in Prometheus's HTTP service discovery format, each to be scraped at `/probe`.

        The target is this exporter as the request reached it. `instance` is the source's name: the address is the
        same for all of them.
        """
        kinds = {source.name: source.kind for source in self.exporter.config.sources}
        groups = [
            {
                "targets": [self.request.host],
                "labels": {
                    "__metrics_path__": "/probe",
                    "__param_source": name,
                    "__meta_ssis_kind": kinds.get(name, ""),
                    "instance": name,
                },
            }
            for name in self.exporter.source_names
        ]
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(groups))


class ExecutionsHandler(_ReadingHandler):
    """`/api/v1/executions`."""

    async def get(self) -> None:
        """What runs now, as JSON."""
        await self.send_chosen("application/json", self._make, budget=self.budget())

    def _make(self, readings: Sequence[Reading]) -> Iterable[bytes]:
        keep, past = self.exporter.config.keep_user_names, self.exporter.past
        if past is None:
            return [api.encode(api.document(readings, keep_user_names=keep))]
        return [api.encode(api.document(readings, keep_user_names=keep, usual=past.baseline))]


class FailuresHandler(_ReadingHandler):
    """`/api/v1/failures`."""

    async def get(self) -> None:
        """What failed last, as JSON; no source is asked."""
        past = self.exporter.past
        self.set_header("Content-Type", "application/json")
        self.finish(api.encode(api.failures(past.failures() if past is not None else ())))


class PageHandler(_ReadingHandler):
    """`/`."""

    async def get(self) -> None:
        """What runs now, for people."""
        if "Content-Security-Policy" not in (self.web.guard.headers if self.web.guard is not None else {}):
            self.set_header("Content-Security-Policy", landing.CONTENT_SECURITY_POLICY)
        refreshes = self.get_query_argument("refresh", "") == "on"
        await self.send_chosen(
            "text/html; charset=utf-8",
            lambda readings: self._make(readings, refreshes=refreshes),
            budget=min(self.budget(), PAGE_BUDGET),
            kind=(refreshes,),
        )

    def _make(self, readings: Sequence[Reading], *, refreshes: bool) -> Iterable[bytes]:
        around = landing.Surroundings(
            version=__version__,
            now=datetime.now(UTC),
            metrics_path=self.web.telemetry_path.lstrip("/"),
            keep_user_names=self.exporter.config.keep_user_names,
            usual=self.exporter.past.baseline if self.exporter.past is not None else None,
            refreshes=refreshes,
            sections=self.web.page_sections(),
        )
        return [landing.render(readings, around)]


class HealthyHandler(_ReadingHandler):
    """`/-/healthy`."""

    async def get(self) -> None:
        """200 while the process serves."""
        self.finish("ssis_exporter is healthy\n")


class ReadyHandler(_ReadingHandler):
    """`/-/ready`."""

    async def get(self) -> None:
        """200 once everything runs; 503 while it starts or ends. Says nothing of the sources: that is `ssis_up`."""
        if self.exporter.ready:
            self.finish("ssis_exporter is ready\n")
        else:
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "ssis_exporter is starting or ending")


class ReloadHandler(_Handler):
    """`/-/reload`."""

    async def post(self) -> None:
        """Reads the configuration again; 500 with the reason when it is wrong, and the old one stays."""
        if not self.web.enable_lifecycle:
            self.refuse(HTTPStatus.FORBIDDEN, "reloading by HTTP is off; turn it on with --web.enable-lifecycle")
            return
        if self.came_from_another_site():
            self.refuse(HTTPStatus.FORBIDDEN, "a page of another site may not reload this exporter")
            return
        try:
            await self.exporter.reload()
        except SsisExporterError as exc:
            self.refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"the old configuration stays in force: {exc}")
            return
        self.finish("the configuration was reloaded\n")

    async def put(self) -> None:
        """As POST."""
        await self.post()
