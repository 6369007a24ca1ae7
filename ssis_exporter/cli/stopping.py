"""Puts the parts of stopping together: the ledger, the stopper, and the listeners through which it is asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from ssis_exporter.admission import Admission
from ssis_exporter.certificates import ServerTls
from ssis_exporter.config import SourceConfig
from ssis_exporter.control import Control
from ssis_exporter.credentials import Tokens
from ssis_exporter.errors import ConfigError, ListenError, StorageError
from ssis_exporter.exporter import Exporter
from ssis_exporter.hold import Hold
from ssis_exporter.ledger import Ledger
from ssis_exporter.listening import Listener
from ssis_exporter.model import ExecutionFacts, ExecutionKey, Nomination, StopMode
from ssis_exporter.policy import Breaker, Policy
from ssis_exporter.silences import Silences
from ssis_exporter.stopconfig import StopConfig
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.stopper import Stopper, StopSettings
from ssis_exporter.storage import StorageMetrics
from ssis_exporter.storagefolder import Storage
from ssis_exporter.webhook import LIMITS, WebhookMetrics, make_admission, make_tls, make_webhook_application

log = logging.getLogger(__name__)


LOOK_TIMEOUT = timedelta(seconds=30)
"""How long one look, or one request to a source, is waited for at least."""

LOOK_FACTOR = 3
"""Times the time limit of the slowest source: a look may wait behind one that runs, and may have to connect first."""


def stop_settings(config: StopConfig | None, sources: Iterable[SourceConfig] = ()) -> StopSettings:
    """The settings of a section `stop`, for these sources; without one, everything is refused."""
    if config is None:
        return StopSettings(mode=StopMode.OFF)
    return StopSettings(
        mode=StopMode(config.mode),
        policy=Policy(config.rules),
        breaker=Breaker(stops=config.breaker.stops, window=config.breaker.window),
        max_runs_per_message=config.max_runs_per_message,
        request_ttl=config.request_ttl,
        confirm_timeout=config.confirm_timeout,
        look_timeout=max([LOOK_TIMEOUT, *(LOOK_FACTOR * source.settings.time_limit for source in sources)]),
    )


class Stopping:
    """
    The ledger and the stopper of one storage folder, and the two listeners: Alertmanager's and the operator's.

    `start` claims the folder, which whoever made `storage` releases; `drain` stops listening; `close` lets go of
    everything and leaves on disk what is open.
    """

    def __init__(
        self,
        config: StopConfig,
        *,
        storage: Storage,
        storage_metrics: StorageMetrics,
        exporter: Exporter,
        metrics: StopMetrics,
        typical: Callable[[ExecutionFacts], timedelta | None] = lambda _facts: None,
        was_seen: Callable[[ExecutionKey], bool] = lambda _key: False,
        takes_up: bool = True,
    ) -> None:
        """`takes_up` False leaves what the ledger has open to the next `serve`."""
        self._config: StopConfig | None = config
        self._exporter = exporter
        self._started_with = config
        self._ledger = Ledger(storage, metrics=storage_metrics)
        self.stopper = Stopper(
            stop_settings(config, exporter.config.sources),
            ledger=self._ledger,
            hold=Hold(storage.folder),
            worker=exporter.worker,
            metrics=metrics,
            source_names=lambda: exporter.source_names,
            typical=typical,
            was_seen=was_seen,
            silences=self._silenced,
            takes_up=takes_up,
        )
        self._control = Control(self.stopper, storage.folder)
        self._metrics = WebhookMetrics(exporter.registry)
        self._admission: Admission | None = None
        self._tls: ServerTls | None = None
        self._webhook: Listener | None = None

    def stopped_by_us(self, key: ExecutionKey) -> bool:
        """Whether this run was asked to stop, or may have been; from any thread."""
        return key in self._ledger.ours

    @property
    def certificate_expires_at(self) -> datetime | None:
        """When the certificate of Alertmanager's listener ends; None without TLS."""
        return self._tls.expires_at if self._tls is not None else None

    async def start(self) -> None:
        """Claims the folder and takes up what is open. Raises `StorageInUse` when another exporter works with it."""
        await self.stopper.start()

    async def listen(self) -> None:
        """Lets Alertmanager and the operator in. Raises `ListenError`, `ConfigError`."""
        config = self._started_with
        if config.tls is not None:
            self._tls = make_tls(config.tls)
            self._tls.load()
        self._admission = make_admission(config, self._metrics)
        application = make_webhook_application(self.stopper, self._admission, self._metrics)
        webhook = Listener(application, [config.address], tls=self._tls, limits=LIMITS, setting="stop.listen_address")
        await webhook.start()
        self._webhook = webhook
        for address in webhook.addresses:
            log.info("stop requests of Alertmanager are taken on %s, %s", address, _told(config))
        try:
            await self._control.start()
        except (StorageError, ListenError, ConfigError) as exc:
            # Nothing rests on it: hold works through its file, and everything else can wait for the disk.
            log.warning("the commands stop, explain and resume cannot reach this service: %s", exc)

    def reconfigure(self, config: StopConfig | None) -> None:
        """Puts a new section `stop` in force; what cannot change while it runs is told."""
        self.stopper.reconfigure(stop_settings(config, self._exporter.config.sources))
        self._config = config
        if config is None:
            log.warning("the section stop is gone: everything is refused from now on")
            return
        started = self._started_with
        if (config.listen_address, config.tls) != (started.listen_address, started.tls):
            log.warning("stop.listen_address and stop.tls change with the next start")
        if config.token_files != started.token_files:
            self._replace_tokens(config.token_files)

    def _replace_tokens(self, files: tuple[Path, ...]) -> None:
        if self._admission is None or not files:
            log.warning("a webhook without stop.token_files begins with the next start")
            return
        try:
            self._admission.tokens = Tokens(files)
        except ConfigError as exc:
            log.warning("the tokens stay as they were: %s", exc)
        else:
            self._started_with = msgspec.structs.replace(self._started_with, token_files=files)

    async def drain(self, seconds: float) -> None:
        """Answers what has been asked and takes nothing more."""
        webhook, self._webhook = self._webhook, None
        if webhook is not None:
            await webhook.drain(seconds)
        await self._control.close(seconds)

    @property
    def is_left_behind(self) -> bool:
        """Whether the disk did not let `close` end its work."""
        return self._ledger.is_left_behind

    async def close(self) -> None:
        """Lets go of everything; may be called twice."""
        await self.drain(0)
        await self.stopper.close()
        await self._ledger.close()

    async def _silenced(self, nomination: Nomination) -> bool:
        url = self._config.alertmanager_url if self._config is not None else None
        return url is not None and await Silences(url).silenced(nomination)


def _told(config: StopConfig) -> str:
    match config.mode:
        case "dry-run":
            return "as a dry run: nothing is stopped"
        case "armed":
            return "armed: what a rule allows is stopped"
