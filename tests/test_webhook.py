"""The webhook's listener: who is let in, what is answered, and that nothing of it waits for a source."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from ssis_exporter import webhook as webhook_module
from ssis_exporter.addresses import Address
from ssis_exporter.admission import MAX_BODIES_BYTES
from ssis_exporter.credentials import Failures, Tokens, bearer, name_is_allowed
from ssis_exporter.errors import ConfigError, StorageError, TooManyPending
from ssis_exporter.handlers import MAX_BODY_BYTES
from ssis_exporter.listening import Listener
from ssis_exporter.model import Decision, ExecutionKey, Nomination, RefusalReason, StopOutcome
from ssis_exporter.stopconfig import StopConfig, StopTlsConfig
from ssis_exporter.webhook import (
    LIMITS,
    PATH,
    WebhookMetrics,
    make_admission,
    make_tls,
    make_webhook_application,
)
from tests.certs import Authority
from tests.serving import Answer, Served, read_all, serving, wait_until
from tests.stopping import Scene
from tests.test_alertmessage import BODIES, LABELS, alert, body

TOKEN = "3f1c0d5b7a9e4c2d8f6a1b0c9d8e7f6a"
OTHER_TOKEN = "a-second-token-for-the-rotation"


class FakeDecider:
    """Takes what it is given; fails or waits where a test says so."""

    def __init__(self) -> None:
        self.nominated: list[Nomination] = []
        self.vetoed: list[tuple[ExecutionKey, datetime | None]] = []
        self.fail_with: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    async def submit(self, nominations: Sequence[Nomination]) -> list[Decision]:
        await asyncio.to_thread(self.gate.wait)
        if self.fail_with is not None:
            raise self.fail_with
        self.nominated += nominations
        return [Decision(key=one.key, text="on disk") for one in nominations]

    async def veto(self, key: ExecutionKey, reason: str, *, ended_at: datetime | None = None) -> bool:
        if isinstance(self.fail_with, StorageError):
            raise self.fail_with
        self.vetoed.append((key, ended_at))
        return True


class Webhook:
    """A webhook that runs, what it decided with, and what it counted."""

    def __init__(self, served: Served, decider: FakeDecider, registry: CollectorRegistry) -> None:
        self.served = served
        self.decider = decider
        self._registry = registry

    def post(self, content: bytes = b"", **parts: Any) -> Answer:
        """The answer to one `request`."""
        return Answer.parse(self.served.ask(request(content, **parts)))

    def counted(self, code: int) -> float | None:
        """How many answers had this code."""
        return self._registry.get_sample_value("ssis_webhook_requests_total", {"code": str(code)})

    def alerts(self, disposition: str) -> float | None:
        """How many alerts were this to us."""
        return self._registry.get_sample_value("ssis_webhook_alerts_total", {"disposition": disposition})

    def value(self, name: str) -> float | None:
        """A metric without labels."""
        return self._registry.get_sample_value(name)


def request(
    content: bytes = b"",
    *,
    path: str = PATH,
    method: str = "POST",
    token: str | None = TOKEN,
    host: str = "127.0.0.1:10059",
    headers: Mapping[str, str | None] | None = None,
) -> bytes:
    """The bytes of one request as Alertmanager sends it; a header that is None is left out."""
    whole: dict[str, str | None] = {
        "Host": host,
        "User-Agent": "Alertmanager/0.25.0",
        "Content-Length": str(len(content)),
        "Authorization": f"Bearer {token}" if token is not None else None,
        "Content-Type": "application/json",
        "Connection": "close",
        **(headers or {}),
    }
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in whole.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


@contextlib.contextmanager
def webhook(
    config: StopConfig,
    *,
    body_seconds: float = 10.0,
    client: Callable[[], ssl.SSLContext] | None = None,
) -> Iterator[Webhook]:
    """The webhook of a configuration, on a free port of the loopback."""
    registry = CollectorRegistry()
    metrics = WebhookMetrics(registry)
    admission = make_admission(config, metrics)
    admission.body_seconds = body_seconds
    decider = FakeDecider()
    tls = make_tls(config.tls) if config.tls is not None else None
    context = client() if client is not None else None
    application = make_webhook_application(decider, admission, metrics)
    with serving(application, limits=LIMITS, tls=tls, client_context=context) as served:
        yield Webhook(served, decider, registry)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "stop.token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def config(token_file: Path) -> StopConfig:
    return StopConfig(token_files=(token_file,))


@pytest.fixture
def hook(config: StopConfig) -> Iterator[Webhook]:
    with webhook(config) as running:
        yield running


def test_a_message_is_accepted_and_answered_with_what_became_of_each_alert(hook: Webhook) -> None:
    """
    202 means: it is on disk and comes to an outcome; the answer says so for each alert in its order.
    """
    resolved = alert(status="resolved", endsAt="2026-11-22T15:00:00Z")
    other = alert(labels={"alertname": "Other"})
    answer = hook.post(body(alert(), resolved, other, truncatedAlerts=2))
    shown = json.loads(answer.body)

    assert 202 == answer.status
    assert "application/json" == answer.headers["content-type"]
    assert ["nominated", "veto", "not_for_us"] == [one["disposition"] for one in shown["alerts"]]
    assert None is shown["alerts"][0]["outcome"]
    assert "41287" == shown["alerts"][0]["instance_id"]
    assert True is shown["alerts"][1]["gave_up_a_stop"]
    assert [ExecutionKey("sqlprod01", "41287")] == [one.key for one in hook.decider.nominated]
    assert [(ExecutionKey("sqlprod01", "41287"), datetime.fromisoformat("2026-11-22T15:00:00Z"))] == hook.decider.vetoed
    assert (1, 1, 1, 0) == tuple(hook.alerts(name) for name in ("nominated", "veto", "not_for_us", "incomplete"))
    assert 2 == hook.value("ssis_webhook_truncated_alerts_total")
    assert 1 == hook.counted(202)


def test_a_refusal_is_accepted_too(config: StopConfig) -> None:
    """
    Resending cannot change a refusal, so it is a 2xx: a 4xx would come again for ever.
    """

    class Refuses(FakeDecider):
        async def submit(self, nominations: Sequence[Nomination]) -> list[Decision]:
            return [
                Decision(key=one.key, outcome=StopOutcome.REFUSED, reason=RefusalReason.NO_RULE, text="no rule")
                for one in nominations
            ]

    registry = CollectorRegistry()
    metrics = WebhookMetrics(registry)
    application = make_webhook_application(Refuses(), make_admission(config, metrics), metrics)
    with serving(application) as served:
        answer = Answer.parse(served.ask(request(body())))

    assert 202 == answer.status
    assert ("refused", "no_rule") == tuple(json.loads(answer.body)["alerts"][0][key] for key in ("outcome", "reason"))


@pytest.mark.parametrize("path", sorted(BODIES.glob("**/*.json")), ids=lambda path: path.stem)
def test_every_body_of_a_real_alertmanager_is_accepted(hook: Webhook, path: Path) -> None:
    """
    What a real Alertmanager sends is never a 4xx.
    """
    assert 202 == hook.post(path.read_bytes()).status


def test_a_ledger_that_cannot_be_written_is_503(hook: Webhook) -> None:
    """
    5xx exactly when it should come again: nothing was written down.
    """
    hook.decider.fail_with = StorageError("the disk is full")
    nominated = hook.post(body())
    vetoed = hook.post(body(alert(status="resolved")))

    assert (503, 503) == (nominated.status, vetoed.status)
    assert b"the ledger cannot be written; send it again\n" == nominated.body
    assert 2 == hook.counted(503)
    assert 0 == hook.alerts("nominated")


def test_no_room_for_more_is_503_and_a_veto_beside_it_counts(hook: Webhook) -> None:
    """
    Too much is being worked on: the message comes again, and a run whose alert was resolved is left alone at once.
    """
    hook.decider.fail_with = TooManyPending("200 runs are being worked on, and no more than 200 may be")
    resolved = alert(status="resolved", labels=LABELS | {"instance_id": "41291"})
    answer = hook.post(body(alert(), resolved))

    assert 503 == answer.status
    assert b"200 runs are being worked on, and no more than 200 may be; send it again\n" == answer.body
    assert ["41291"] == [key.instance_id for key, _ in hook.decider.vetoed]
    assert (1, 0) == (hook.counted(503), hook.alerts("nominated"))


def test_a_ledger_that_is_slow_is_503(config: StopConfig) -> None:
    """
    An answer comes in time, whatever the disk does; what was begun is finished, and found when the message comes again.
    """
    registry = CollectorRegistry()
    metrics = WebhookMetrics(registry)
    decider = FakeDecider()
    decider.gate.clear()
    application = make_webhook_application(decider, make_admission(config, metrics), metrics, decide_seconds=0.2)
    with serving(application) as served:
        answer = Answer.parse(served.ask(request(body())))
        decider.gate.set()
        wait_until(lambda: decider.nominated, "the end of what was begun")

    assert 503 == answer.status
    assert b"the ledger is slow; send it again\n" == answer.body


def test_a_ledger_that_hangs_piles_nothing_up(config: StopConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What is sent again and again while nothing can be decided is turned away at once, and not kept.
    """
    monkeypatch.setattr(webhook_module, "MOST_UNDECIDED", 3)

    class Hangs(FakeDecider):
        def __init__(self) -> None:
            super().__init__()
            self.begun = 0
            self.may_go_on: asyncio.Event | None = None

        async def submit(self, nominations: Sequence[Nomination]) -> list[Decision]:
            self.begun += 1
            self.may_go_on = self.may_go_on or asyncio.Event()
            await self.may_go_on.wait()
            raise StorageError("it failed after all")

    metrics = WebhookMetrics(CollectorRegistry())
    decider = Hangs()
    application = make_webhook_application(decider, make_admission(config, metrics), metrics, decide_seconds=0.05)
    with serving(application) as served:
        slow = [Answer.parse(served.ask(request(body()))).status for _ in range(10)]
        assert 3 == decider.begun
        assert decider.may_go_on is not None
        served.thread.call(decider.may_go_on.set)
        after = Answer.parse(served.ask(request(body())))

    assert [503] * 10 == slow
    assert b"the ledger cannot be written; send it again\n" == after.body
    assert 4 == decider.begun


def test_what_nobody_foresaw_is_500_without_a_word(hook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
    """
    A failure inside tells the peer nothing, and the log everything but the credential.
    """
    hook.decider.fail_with = RuntimeError("a mistake of ours")
    answer = hook.post(body())

    assert (500, b"") == (answer.status, answer.body)
    assert "a mistake of ours" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"method": "GET"}, 405),
        ({"method": "HEAD"}, 405),
        ({"method": "PUT"}, 405),
        ({"method": "DELETE"}, 405),
        ({"method": "OPTIONS"}, 405),
        ({"method": "FOO"}, 405),
        ({"path": "/"}, 404),
        ({"path": "/metrics"}, 404),
        ({"path": "/webhook"}, 404),
        ({"path": "/webhook/alertmanager/"}, 404),
        ({"path": "//webhook/alertmanager"}, 404),
        ({"path": "/webhook/Alertmanager"}, 404),
        ({"path": "/webhook/alertmanager%0a"}, 404),
        ({"path": "http://127.0.0.1/webhook/alertmanager"}, 404),
        ({"headers": {"Content-Type": None}}, 415),
        ({"headers": {"Content-Type": "text/plain"}}, 415),
        ({"headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415),
        ({"headers": {"Content-Type": "application/jsonp"}}, 415),
        ({"headers": {"Content-Encoding": "gzip"}}, 415),
        ({"headers": {"Content-Type": "Application/JSON; charset=utf-8"}}, 202),
        ({"headers": {"Content-Length": None}}, 411),
        ({"headers": {"Content-Length": None, "Transfer-Encoding": "chunked"}}, 501),
        ({"headers": {"Transfer-Encoding": "chunked"}}, 501),
        ({"headers": {"Transfer-Encoding": "gzip"}}, 501),
        ({"headers": {"Content-Length": "-1"}}, 400),
        ({"headers": {"Content-Length": "1e3"}}, 400),
        ({"headers": {"Content-Length": "+5"}}, 400),
        ({"headers": {"Content-Length": "5, 6"}}, 400),
        ({"headers": {"Content-Length": str(MAX_BODY_BYTES + 1)}}, 413),
        ({"headers": {"Content-Length": "9" * 18}}, 413),
        ({"headers": {"Content-Length": "9" * 5000}}, 413),
        ({"headers": {"Origin": "http://127.0.0.1:10059"}}, 403),
        ({"headers": {"Origin": "null"}}, 403),
        ({"headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
        ({"headers": {"Sec-Fetch-Site": "same-site"}}, 403),
        ({"headers": {"Sec-Fetch-Site": "none"}}, 202),
        ({"host": "evil.example.com"}, 403),
        ({"host": "127.0.0.1.evil.example.com:10059"}, 403),
        ({"host": "10.0.0.1:10059"}, 403),
        ({"host": "localhost:10059"}, 202),
        ({"host": "[::1]:10059"}, 202),
        ({"token": None}, 401),
        ({"token": ""}, 401),
        ({"token": "wrong" * 8}, 401),
        ({"token": TOKEN[:-1]}, 401),
        ({"token": TOKEN[:16]}, 401),
        ({"token": TOKEN + "a"}, 401),
        ({"token": TOKEN.upper()}, 401),
        ({"token": "x" * 10_000}, 401),
        ({"token": "\xff" * 20}, 401),
        ({"headers": {"Authorization": TOKEN}}, 401),
        ({"headers": {"Authorization": f"Basic {TOKEN}"}}, 401),
        ({"headers": {"Authorization": f"bearer {TOKEN}"}}, 202),
        ({"token": None, "headers": {"Cookie": f"token={TOKEN}"}}, 401),
        ({"token": None, "path": f"{PATH}?token={TOKEN}"}, 401),
        # Who is not let in is not told what else is wrong.
        ({"token": None, "headers": {"Content-Length": str(MAX_BODY_BYTES + 1)}}, 401),
        ({"token": None, "headers": {"Content-Type": "text/plain"}}, 401),
    ],
)
def test_the_head_decides(hook: Webhook, changes: dict[str, Any], code: int) -> None:
    """
    Each thing that is wrong with a head has its own code, and is counted under it.
    """
    before = hook.counted(code)
    answer = hook.post(body(), **changes)

    assert code == answer.status
    assert before is not None
    assert before + 1 == hook.counted(code)
    assert "server" not in answer.headers
    assert (1 if code == 202 else 0) == len(hook.decider.nominated)
    if code in (401, 403):
        assert b"" == answer.body
    if code == 405:
        assert "POST" == answer.headers["allow"]
    if code == 401:
        assert "Bearer" == answer.headers["www-authenticate"]


def test_one_sentence_says_what_is_wrong_with_a_body(hook: Webhook) -> None:
    """
    400 with one plain sentence, because it lands in Alertmanager's log.
    """
    answer = hook.post(b'{"version": "5"}')

    assert 400 == answer.status
    assert b'the body is not an Alertmanager webhook message of version "4"\n' == answer.body
    assert 400 == hook.post(b"").status
    assert 2 == hook.counted(400)
    assert [] == hook.decider.nominated


def test_a_huge_body_is_refused_before_it_is_read(hook: Webhook) -> None:
    """
    413 comes at once, although the body that was announced never does.
    """
    with hook.served.connect() as peer:
        peer.sendall(request(headers={"Content-Length": str(10 * MAX_BODY_BYTES)}))
        answer = Answer.parse(read_all(peer))

    assert 413 == answer.status


def test_a_body_of_the_full_size_is_read(hook: Webhook) -> None:
    """
    One MiB is allowed, and what is in it counts.
    """
    padded = body(padding="x")
    padded = padded.replace(b'"x"', b'"' + b"x" * (MAX_BODY_BYTES - len(padded) + 1) + b'"')

    assert MAX_BODY_BYTES == len(padded)
    assert 202 == hook.post(padded).status


def test_a_slow_body_is_408(config: StopConfig) -> None:
    """
    The whole body has one deadline, which a dripping byte does not renew.
    """
    with webhook(config, body_seconds=0.3) as hook, hook.served.connect() as peer:
        peer.sendall(request(headers={"Content-Length": "1000"}) + b"{")
        answer = Answer.parse(read_all(peer))

        assert 408 == answer.status
        assert 1 == hook.counted(408)
        assert [] == hook.decider.nominated


def test_the_credential_is_demanded_before_the_body(hook: Webhook) -> None:
    """
    Who sends no credential is answered although the body never comes.
    """
    with hook.served.connect() as peer:
        peer.sendall(request(token=None, headers={"Content-Length": "1000"}))

        assert 401 == Answer.parse(read_all(peer)).status


def test_a_thousand_alerts_are_answered(hook: Webhook) -> None:
    """
    A thousand alerts are one message; the stopper is asked once for all of them. One more is refused.
    """
    many = [alert(labels=LABELS | {"instance_id": str(number)}) for number in range(1001)]
    answer = hook.post(body(*many[:1000]))

    assert 202 == answer.status
    assert 1000 == len(json.loads(answer.body)["alerts"])
    assert 1000 == hook.alerts("nominated")
    assert 400 == hook.post(body(*many)).status


def test_a_hundred_connections_at_once(hook: Webhook) -> None:
    """
    A hundred peers that announce a full body and never send it take almost no memory, and a message gets through.
    """
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(hook.served.connect()) for _ in range(100)]
            for number, peer in enumerate(peers):
                token = TOKEN if number % 2 else "wrong" * 8
                peer.sendall(request(token=token, headers={"Content-Length": str(MAX_BODY_BYTES)}) + b"{" * 4000)
            # The even ones are turned away; of the others as many wait as fit, and the rest is told to come again.
            turned_away = [Answer.parse(read_all(peer)).status for peer in peers[:20:2]]
            wait_until(lambda: hook.post(body()).status == 503, "no room for another body")
            told = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert {401} == set(turned_away)
    assert told < MAX_BODIES_BYTES
    wait_until(lambda: hook.post(body()).status == 202, "room again")


def test_bodies_together_are_bounded(hook: Webhook) -> None:
    """
    More than sixteen full bodies at once are told to come again, and the room they took is free again afterwards.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_BODIES_BYTES // MAX_BODY_BYTES):
            peer = stack.enter_context(hook.served.connect())
            peer.sendall(request(headers={"Content-Length": str(MAX_BODY_BYTES), "Expect": "100-continue"}))
            assert peer.recv(1000).startswith(b"HTTP/1.1 100")
        refused = hook.post(body())

    assert 503 == refused.status
    assert b"too much is being received at once; send it again\n" == refused.body
    wait_until(lambda: hook.post(body()).status == 202, "room again")


def test_answers_do_not_wait_for_each_other(hook: Webhook) -> None:
    """
    A message whose ledger write hangs does not keep others from being turned away or ignored.
    """
    hook.decider.gate.clear()
    with hook.served.connect() as waiting:
        waiting.sendall(request(body()))
        ignored = hook.post(body(alert(labels={"alertname": "Other"})))
        turned_away = hook.post(body(), token=None)
        hook.decider.gate.set()
        first = Answer.parse(read_all(waiting))

    assert (202, 401, 202) == (ignored.status, turned_away.status, first.status)


def test_tokens_can_be_rotated_without_a_restart(tmp_path: Path, token_file: Path) -> None:
    """
    Two files hold the old and the new token; what changes in a file counts from the next request on.
    """
    second = tmp_path / "next.token"
    second.write_text(OTHER_TOKEN)
    with webhook(StopConfig(token_files=(token_file, second))) as hook:
        both = [hook.post(body(), token=token).status for token in (TOKEN, OTHER_TOKEN)]
        replacement = tmp_path / "new"
        replacement.write_text("yet-another-token-1234567890")
        replacement.replace(token_file)
        after = [
            hook.post(body(), token=token).status for token in (TOKEN, OTHER_TOKEN, "yet-another-token-1234567890")
        ]
        second.unlink()
        without = [hook.post(body(), token=token).status for token in (OTHER_TOKEN, "yet-another-token-1234567890")]

    assert [202, 202] == both
    assert [401, 202, 202] == after
    assert [401, 202] == without


def test_a_token_file_that_becomes_useless_lets_nobody_in(
    config: StopConfig, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    An empty or short file is no token: neither the old text nor the empty one opens the door.
    """
    with webhook(config) as hook:
        for text in ("", "\n", "short", "x" * 5000, " padded-with-spaces-around "):
            token_file.write_text(text)
            assert 401 == hook.post(body(), token=text.strip() or None).status
            assert 401 == hook.post(body()).status
        token_file.write_text(TOKEN)
        assert 202 == hook.post(body()).status

    assert "nobody is let in by this token until it is right again" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("short", "the token has 5 characters and needs at least 16"),
        ("ä" * 20, "the token must be ASCII"),
        (" " * 5 + "x" * 20, "must not begin or end with a space"),
        ("two\nlines-of-a-long-token", "one line"),
    ],
)
def test_a_token_file_that_cannot_be_used_keeps_the_exporter_from_starting(
    tmp_path: Path, text: str, sentence: str
) -> None:
    """
    A weak or broken token is an error at the start, and the sentence does not hold it.
    """
    path = tmp_path / "stop.token"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        Tokens([path])

    assert sentence in str(raised.value)
    assert len(text) < 6 or text.strip() not in str(raised.value)


def test_a_token_file_that_is_not_there_keeps_the_exporter_from_starting(tmp_path: Path) -> None:
    """
    The sentence names the file.
    """
    with pytest.raises(ConfigError, match=r"missing\.token"):
        Tokens([tmp_path / "missing.token"])


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer  ", None),
        ("Bearer abc", "abc"),
        ("BEARER abc", "abc"),
        ("Bearer  abc ", "abc"),
        ("Bearer a b", "a b"),
        ("Basic abc", None),
        ("Bearerabc", None),
    ],
)
def test_what_counts_as_a_bearer_token(header: str | None, token: str | None) -> None:
    """
    The scheme in any case, a space, the token; nothing else.
    """
    assert token == bearer(header)


def test_failed_attempts_are_slowed_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """
    Ten at once are answered at once, then one a second; the log has one line a minute. Nobody is locked out by it.
    """
    now = [100.0]
    failures = Failures(monotonic=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        first = [failures.failed("127.0.0.1", "a wrong credential") for _ in range(12)]
        now[0] += 1
        then = [failures.failed("127.0.0.1", "a wrong credential") for _ in range(2)]
        now[0] += 60
        failures.failed("127.0.0.1", "no credential")

    assert [False] * 10 + [True] * 2 == first
    assert [False, True] == then
    assert 2 == len(caplog.records)
    assert "(14 since the last such line)" in caplog.messages[1]


def test_without_a_credential_loopback_is_open_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """
    On loopback a credential may be left out; a browser is kept out all the same.
    """
    with webhook(StopConfig()) as hook:
        assert 202 == hook.post(body(), token=None).status
        assert 403 == hook.post(body(), token=None, headers={"Origin": "http://evil.example.com"}).status
        assert 403 == hook.post(body(), token=None, host="evil.example.com").status

    assert "every account of this machine may nominate runs" in caplog.text


def open_to_others(**changes: Any) -> StopConfig:
    """A configuration that the checks of the configuration file would not let pass."""
    config = StopConfig()
    for name, value in ({"listen_address": "0.0.0.0:10059"} | changes).items():
        msgspec.structs.force_setattr(config, name, value)
    return config


def test_an_address_for_others_is_refused_once_more(token_file: Path) -> None:
    """
    Whatever made the configuration: without TLS and a credential nothing listens for other machines.
    """
    tls = StopTlsConfig(cert_file=token_file, key_file=token_file)
    metrics = WebhookMetrics(CollectorRegistry())
    for config in (open_to_others(), open_to_others(token_files=(token_file,)), open_to_others(tls=tls)):
        with pytest.raises(ConfigError, match="can be reached from other machines"):
            make_admission(config, metrics)


def test_tls_and_a_token(tmp_path: Path, token_file: Path) -> None:
    """
    Encrypted, on any name that the certificate has; the host name is the certificate's business then.
    """
    authority = Authority()
    cert, key = authority.sign().write(tmp_path)
    config = StopConfig(token_files=(token_file,), tls=StopTlsConfig(cert_file=cert, key_file=key))
    with webhook(config, client=authority.client_context) as hook:
        assert 202 == hook.post(body(), host="etl01.corp.example:10059").status
        assert 401 == hook.post(body(), token=None).status
        assert 403 == hook.post(body(), headers={"Origin": "http://evil.example.com"}).status


@pytest.mark.parametrize("certificate", [None, {}])
@pytest.mark.parametrize("allowed", [(), ("alertmanager.corp.example",)])
def test_no_certificate_has_no_allowed_name(certificate: dict[str, str] | None, allowed: tuple[str, ...]) -> None:
    """
    Also where any name would do.
    """
    assert not name_is_allowed(certificate, allowed)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("alertmanager.corp.example",), 202),
        (("other.corp.example", "10.1.2.3"), 202),
        (("spiffe://corp/alertmanager",), 202),
        (("other.corp.example",), 403),
        (("x.alertmanager.corp.example", "alertmanager.corp.example.evil"), 403),
        ((), 403),
    ],
)
def test_client_certificates_and_their_names(
    tmp_path: Path, token_file: Path, names: tuple[str, ...], code: int
) -> None:
    """
    A client certificate must carry one of the allowed names, exactly; the token is demanded as well.
    """
    authority = Authority()
    cert, key = authority.sign().write(tmp_path)
    (tmp_path / "ca.pem").write_text(authority.cert)
    tls = StopTlsConfig(
        cert_file=cert,
        key_file=key,
        client_ca_file=tmp_path / "ca.pem",
        client_allowed_sans=("alertmanager.corp.example", "10.1.2.3", "spiffe://corp/alertmanager"),
    )
    client = authority.sign(names=names)
    with webhook(
        StopConfig(token_files=(token_file,), tls=tls), client=lambda: client.client_context(tmp_path, authority.cert)
    ) as hook:
        assert code == hook.post(body()).status
        assert {202: 401, 403: 403}[code] == hook.post(body(), token=None).status


def test_who_shows_no_certificate_or_a_strangers(tmp_path: Path) -> None:
    """
    No certificate is 401, and counted; one that another authority signed ends the handshake.
    """
    authority = Authority()
    cert, key = authority.sign().write(tmp_path)
    (tmp_path / "ca.pem").write_text(authority.cert)
    tls = StopTlsConfig(cert_file=cert, key_file=key, client_ca_file=tmp_path / "ca.pem")
    stranger = Authority().sign()
    with webhook(StopConfig(tls=tls), client=authority.client_context) as hook:
        answer = hook.post(body())

        assert (401, b"") == (answer.status, answer.body)
        assert "www-authenticate" not in answer.headers
        assert 1 == hook.counted(401)
    with webhook(StopConfig(tls=tls), client=lambda: stranger.client_context(tmp_path, authority.cert)) as hook:
        with pytest.raises((OSError, IndexError)):
            hook.post(body())

        assert [] == hook.decider.nominated


def test_a_certificate_without_names_to_check(tmp_path: Path) -> None:
    """
    Without `client_allowed_sans` every certificate of the authority will do.
    """
    authority = Authority()
    cert, key = authority.sign().write(tmp_path)
    (tmp_path / "ca.pem").write_text(authority.cert)
    tls = StopTlsConfig(cert_file=cert, key_file=key, client_ca_file=tmp_path / "ca.pem")
    client = authority.sign(names=())
    with webhook(StopConfig(tls=tls), client=lambda: client.client_context(tmp_path, authority.cert)) as hook:
        assert 202 == hook.post(body(), token=None).status


def test_plain_http_to_a_listener_with_tls(tmp_path: Path, token_file: Path) -> None:
    """
    Nothing is answered in the clear.
    """
    cert, key = Authority().sign().write(tmp_path)
    config = StopConfig(token_files=(token_file,), tls=StopTlsConfig(cert_file=cert, key_file=key))
    with webhook(config) as hook, hook.served.connect() as peer:
        peer.sendall(request(body()))

        assert b"HTTP" not in read_all(peer)


async def stopper_answers(folder: Path) -> tuple[float, list[str]]:
    """How long a real stopper takes to answer while a source hangs, and what it answers."""
    async with Scene(folder, sources=("sqlprod01", "other")) as scene:
        scene.workers["sqlprod01"].hangs = True
        registry = CollectorRegistry()
        metrics = WebhookMetrics(registry)
        application = make_webhook_application(scene.stopper, make_admission(StopConfig(), metrics), metrics)
        listener = Listener(application, [Address("127.0.0.1", 0)], limits=LIMITS)
        await listener.start()
        try:
            began = time.monotonic()
            codes = []
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.ports[0])
                writer.write(request(body(), token=None))
                codes.append((await reader.read()).split()[1].decode())
                writer.close()
            return time.monotonic() - began, codes
        finally:
            scene.workers["sqlprod01"].go_on()
            await listener.drain(1.0)


def test_accepted_messages_are_answered_while_a_source_hangs(tmp_path: Path) -> None:
    """
    The answer waits for the ledger, never for a source: five messages, each well within a second.
    """
    took, codes = asyncio.run(stopper_answers(tmp_path))
    print(f"five messages were answered within {took:.3f} s while the source hung")

    assert ["202"] * 5 == codes
    assert took < 5
