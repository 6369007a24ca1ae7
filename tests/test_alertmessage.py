"""The message of Alertmanager: what is read of it, what is refused, which runs it nominates."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter.alertmessage import (
    Alert,
    AlertMessage,
    Disposition,
    NotAMessage,
    Selected,
    read_message,
    select,
)
from ssis_exporter.model import ExecutionKey, Nomination

BODIES = Path(__file__).parent / "data" / "alertmanager"
FOREIGN = sorted((BODIES / "foreign").glob("*.json"))
OURS = sorted(BODIES.glob("*.json"))

LABELS = {
    "alertname": "SSISRunawayPackage",
    "ssis_action": "stop",
    "source": "sqlprod01",
    "instance_id": "41287",
    "package_name": "Load_Fact_Sales",
    "folder": "Finance",
    "project": "DW",
}
STARTS_AT = "2026-11-22T14:48:36.584Z"


def alert(**changes: Any) -> dict[str, Any]:
    """One alert as Alertmanager writes it, with some fields changed; a field that is None is left out."""
    whole = {
        "status": "firing",
        "labels": LABELS,
        "annotations": {"summary": "it runs too long"},
        "startsAt": STARTS_AT,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example.com/graph",
        "fingerprint": "bce32cb70c90186e",
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def message(*alerts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A whole message, with some fields changed; a field that is None is left out."""
    whole = {
        "receiver": "ssis-stop",
        "status": "firing",
        "alerts": list(alerts) or [alert()],
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example.com",
        "version": "4",
        "groupKey": '{}:{alertname="SSISRunawayPackage"}',
        "truncatedAlerts": 0,
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def body(*alerts: dict[str, Any], **changes: Any) -> bytes:
    """The bytes of a message."""
    return json.dumps(message(*alerts, **changes)).encode()


def read(body_: bytes) -> AlertMessage:
    """The message in a body that must be one."""
    found = read_message(body_)
    assert isinstance(found, AlertMessage), found
    return found


def refused(body_: bytes) -> str:
    """Why a body that must be refused is refused."""
    found = read_message(body_)
    assert isinstance(found, NotAMessage), found
    assert 400 == found.code
    assert found.sentence.isprintable()
    assert len(found.sentence) <= 300
    return found.sentence


def selected(**changes: Any) -> Selected:
    """What the only alert of a message is to us."""
    (only,) = select(read(body(alert(**changes))))
    return only


def with_labels(**changes: str | None) -> dict[str, str]:
    """The labels, some changed; one that is None is left out."""
    return {name: value for name, value in (LABELS | changes).items() if value is not None}


def test_a_firing_alert_of_ours_nominates_its_run() -> None:
    """
    Source and instance id name the run; package, folder and project travel along so that they can refuse.
    """
    nomination = Nomination(
        key=ExecutionKey("sqlprod01", "41287"),
        package_name="Load_Fact_Sales",
        folder="Finance",
        project="DW",
        asked_since=datetime(2026, 11, 22, 14, 48, 36, 584000, tzinfo=UTC),
        origin="alertmanager ssis-stop bce32cb70c90186e",
        labels=LABELS,
    )

    assert Disposition.NOMINATED == selected().disposition
    assert nomination == selected().nomination


@pytest.mark.parametrize("name", ["source", "instance_id"])
@pytest.mark.parametrize("value", ["SQLProd01", "Load.dtsx", "0041287", "\uff14\uff11", "e\u0301", "\u00e9"])
def test_the_labels_name_the_run_letter_by_letter(name: str, value: str) -> None:
    """
    Neither case nor another way to write the same letter is evened out: what is not exactly a run's name names none.
    """
    nomination = selected(labels=with_labels(**{name: value})).nomination

    assert nomination is not None
    assert value == getattr(nomination.key, name)


def test_a_resolved_alert_of_ours_is_a_veto() -> None:
    """
    A resolved alert names the run that is to be left alone.
    """
    found = selected(status="resolved")

    assert Disposition.VETO == found.disposition
    assert found.nomination is not None
    assert ExecutionKey("sqlprod01", "41287") == found.nomination.key


@pytest.mark.parametrize(
    ("ends_at", "told"),
    [
        ("2026-11-22T15:00:00Z", datetime(2026, 11, 22, 15, 0, tzinfo=UTC)),
        (STARTS_AT, datetime(2026, 11, 22, 14, 48, 36, 584000, tzinfo=UTC)),
        ("2026-11-22T14:48:36.583Z", None),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
    ],
)
def test_an_end_before_the_beginning_tells_nothing(ends_at: str | None, told: datetime | None) -> None:
    """
    A veto whose moment nobody knows counts, and must not seem to be older than the alert that nominated.
    """
    (only,) = read(body(alert(status="resolved", endsAt=ends_at))).alerts

    assert told == only.ends_at


def test_the_status_of_the_group_means_nothing() -> None:
    """
    A group is firing when any alert in it is: only each alert's own status counts.
    """
    mixed = read(body(alert(status="resolved"), alert(), status="firing"))
    resolved = read(body(alert(), status="resolved"))

    assert [Disposition.VETO, Disposition.NOMINATED] == [one.disposition for one in select(mixed)]
    assert [Disposition.NOMINATED] == [one.disposition for one in select(resolved)]


@pytest.mark.parametrize("action", [None, "", "Stop", "stop ", "restart", "stop\n"])
def test_an_alert_without_the_marker_is_not_for_us(action: str | None) -> None:
    """
    Only the very label value `stop` makes an alert ours.
    """
    found = selected(labels=with_labels(ssis_action=action))

    assert Disposition.NOT_FOR_US == found.disposition
    assert found.nomination is None


@pytest.mark.parametrize("label", ["source", "instance_id"])
@pytest.mark.parametrize("value", [None, "", " ", " 41287", "41287 ", "41287\n", "41\x0087", "4\u202e1", "4" * 257])
def test_an_alert_that_cannot_name_a_run_is_incomplete(label: str, value: str | None) -> None:
    """
    Source and instance id must both be there, as one of our own labels could hold them.
    """
    found = selected(labels=with_labels(**{label: value}))

    assert Disposition.INCOMPLETE == found.disposition
    assert found.nomination is None
    assert label in found.reason


def test_annotations_select_nothing() -> None:
    """
    An annotation is prose: what looks like our labels in it is ignored.
    """
    found = selected(labels={"alertname": "Other"}, annotations=LABELS)

    assert Disposition.NOT_FOR_US == found.disposition


def test_what_the_alert_does_not_say_is_none_and_not_empty() -> None:
    """
    A label that is absent cannot refuse; one that is there and empty can.
    """
    absent = selected(labels=with_labels(folder=None, project=None)).nomination
    empty = selected(labels=with_labels(folder="")).nomination

    assert absent is not None
    assert empty is not None
    assert (None, None) == (absent.folder, absent.project)
    assert "" == empty.folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T14:48:36Z", datetime(2026, 11, 22, 14, 48, 36, tzinfo=UTC)),
        ("2026-11-22t14:48:36.5z", datetime(2026, 11, 22, 14, 48, 36, 500000, tzinfo=UTC)),
        ("2026-11-22T14:50:33.595236972Z", datetime(2026, 11, 22, 14, 50, 33, 595236, tzinfo=UTC)),
        ("2026-11-22T20:18:36.584+05:30", datetime(2026, 11, 22, 14, 48, 36, 584000, tzinfo=UTC)),
        ("2026-11-22T14:48:36-00:00", datetime(2026, 11, 22, 14, 48, 36, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+05:00", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999-08:00", datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_every_rfc_3339_time_is_read(text: str, expected: datetime) -> None:
    """
    Go writes milliseconds to nanoseconds, any offset, and a zero time; none of them may trip us.
    """
    assert expected == read(body(alert(startsAt=text))).alerts[0].starts_at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-22",
        "2026-11-22 14:48:36Z",
        "2026-11-22T14:48:36",
        "2026-11-22T14:48Z",
        "2026-13-22T14:48:36Z",
        "2026-11-22T25:48:36Z",
        "2026-11-22T14:48:36+99:99",
        "0000-01-01T00:00:00Z",
        "2026-11-22T14:48:36.Z",
        "٢٠٢٦-11-22T14:48:36Z",
        "1764686916",
    ],
)
def test_what_is_no_rfc_3339_time_is_refused(text: str) -> None:
    """
    A time that is only nearly one is refused with the place where it stands.
    """
    assert "not an RFC 3339 time - at `$.alerts[0].startsAt`" == refused(body(alert(startsAt=text)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "the body is not JSON"),
        (b"hello", "the body is not JSON"),
        (b"\xff\xfe{}", "the body is not UTF-8"),
        (b"\xef\xbb\xbf{}", "the body is not JSON"),
        ('{"version": "4"}'.encode("utf-16"), "the body is not UTF-8"),
        (b"[]", "the body is not a JSON object"),
        (b"null", "the body is not a JSON object"),
        (b"{}", 'the body is not an Alertmanager webhook message of version "4"'),
        (b'{"version": NaN}', "the body is not JSON"),
        (b'{"version": ' + b"9" * 5000 + b"}", "the body is not JSON"),
        (b'{"version": "4", "\\ud800": 1}', "a key of the body holds half of a surrogate pair"),
        (b'{"version": "4", "alerts": [{"\\ud800": 1}]}', "a key of the body holds half of a surrogate pair"),
        (b'{"version": "4", "version": "4"}', "a key stands twice in one object of the body"),
        (b"[" * 300_000, "the body is nested too deeply"),
        (b'{"version":"4","alerts":[],"x":' + b"[" * 300_000, "the body is nested too deeply"),
        (b'{"version":"4","alerts":[],"x":' + b'{"a":' * 100_000, "the body is nested too deeply"),
    ],
)
def test_what_is_no_message_is_refused_with_one_sentence(text: bytes, sentence: str) -> None:
    """
    What is wrong with a body is said plainly: the sentence ends up in Alertmanager's log.
    """
    assert sentence == refused(text)


@pytest.mark.parametrize("version", [None, 4, "3", "5", "", ["4"]])
def test_another_version_is_refused(version: object) -> None:
    """
    A body without version "4" may be anybody's: it is not guessed at.
    """
    assert 'the body is not an Alertmanager webhook message of version "4"' == refused(body(version=version))


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        (message(alerts=None), "alerts"),
        (message(alerts={}), "$.alerts"),
        (message(alerts=[[]]), "$.alerts[0]"),
        (message(truncatedAlerts=-1), "$.truncatedAlerts"),
        (message(truncatedAlerts="1"), "$.truncatedAlerts"),
        (message(truncatedAlerts=1.5), "$.truncatedAlerts"),
        (message(receiver=7), "$.receiver"),
        (message(receiver="r" * 5000), "$.receiver"),
        (message(alert(status="suppressed")), "$.alerts[0].status"),
        (message(alert(status=None)), "$.alerts[0]"),
        (message(alert(), alert(labels=None)), "$.alerts[1]"),
        (message(alert(startsAt=None)), "$.alerts[0]"),
        (message(alert(labels=[])), "$.alerts[0].labels"),
        (message(alert(labels={"a": 1})), "$.alerts[0].labels"),
        (message(alert(labels={"a": None})), "$.alerts[0].labels"),
        (message(alert(labels={"a": {"b": "c"}})), "$.alerts[0].labels"),
        (message(alert(labels={"": "x"})), "$.alerts[0].labels"),
        (message(alert(labels={"n" * 257: "x"})), "$.alerts[0].labels"),
        (message(alert(labels={"n": "x" * 4097})), "$.alerts[0].labels"),
        (message(alert(labels={f"n{number}": "x" for number in range(129)})), "$.alerts[0].labels"),
        (message(alert(labels={"n": "\ud800"})), "$.alerts[0].labels"),
        (message(alert(labels={"\udfff": "x"})), "$.alerts[0].labels"),
        (message(alert(fingerprint="\ud800")), "$.alerts[0].fingerprint"),
        (message(alert(fingerprint=7)), "$.alerts[0].fingerprint"),
    ],
)
def test_a_wrong_shape_is_refused_with_its_place(changed: dict[str, Any], where: str) -> None:
    """
    Every field that is used is checked, and the sentence says where the trouble stands.
    """
    assert where in refused(json.dumps(changed).encode())


def test_a_key_that_stands_twice_is_refused_anywhere() -> None:
    """
    Two equal keys, also deep inside, could be read differently by two readers.
    """
    twice = body().replace(b'"instance_id": "41287"', b'"instance_id": "41287", "instance_id": "41291"')

    assert "a key stands twice in one object of the body" == refused(twice)


def test_a_thousand_alerts_are_read_and_one_more_is_refused() -> None:
    """
    The number of alerts is bounded.
    """
    assert 1000 == len(read(body(*[alert()] * 1000)).alerts)
    assert "$.alerts" in refused(body(*[alert()] * 1001))


def test_fields_that_come_later_are_fine() -> None:
    """
    Alertmanager adds fields; optional ones may be missing.
    """
    later = read(body(alert(silenced={"by": [1, 2]}), notification_reason="repeat interval elapsed", routeLabels={}))
    short = read(json.dumps({"version": "4", "alerts": [alert(annotations=None, fingerprint=None)]}).encode())

    assert 1 == len(later.alerts)
    assert Alert(firing=True, labels=LABELS, starts_at=short.alerts[0].starts_at) == short.alerts[0]
    assert ("", 0) == (short.receiver, short.truncated)


def test_truncated_alerts_are_counted() -> None:
    """
    What `max_alerts` cut off is told.
    """
    assert 3 == read(body(truncatedAlerts=3)).truncated


def test_the_sentence_does_not_repeat_control_characters() -> None:
    """
    The sentence goes into logs: it is one line, and short.
    """
    assert refused(body(alert(status="x\n\x1b[2J" * 1000)))


@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: path.stem)
def test_bodies_of_others_are_read_and_ignored(path: Path) -> None:
    """
    Real bodies without our labels are messages, and nominate nothing.
    """
    found = select(read(path.read_bytes()))

    assert found
    assert {Disposition.NOT_FOR_US} == {one.disposition for one in found}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("firing", {"41287": Disposition.NOMINATED}),
        ("grouped", {"41287": Disposition.NOMINATED, "41291": Disposition.NOMINATED}),
        ("repeat", {"41287": Disposition.NOMINATED, "41291": Disposition.NOMINATED}),
        ("mixed", {"41287": Disposition.VETO, "41291": Disposition.NOMINATED}),
        ("resolved", {"41291": Disposition.VETO}),
        ("refired", {"41291": Disposition.NOMINATED}),
        ("truncated", {"60000": Disposition.NOMINATED, "60001": Disposition.NOMINATED}),
        ("truncated-resolved-takes-a-place", {"60000": Disposition.VETO, "60001": Disposition.NOMINATED}),
        ("group-by-all-labels", {"50013": Disposition.NOMINATED}),
        ("subroute", {"52001": Disposition.NOMINATED}),
        ("peer-a", {"41287": Disposition.NOMINATED}),
        ("peer-b", {"41287": Disposition.NOMINATED}),
    ],
)
def test_real_bodies_with_our_labels(name: str, expected: dict[str, Disposition]) -> None:
    """
    What a real Alertmanager sends for our alerts names exactly the runs in it.
    """
    found = select(read((BODIES / f"{name}.json").read_bytes()))

    assert {one.alert.labels["instance_id"]: one.disposition for one in found} == expected
    assert {one.nomination.key.source for one in found if one.nomination is not None} == {"sqlprod01"}


def test_refiring_keeps_the_fingerprint_and_moves_the_start() -> None:
    """
    A fingerprint is a hash of the labels: it says nothing of when, so nothing rests on it.
    """
    first = read((BODIES / "grouped.json").read_bytes()).alerts[1]
    again = read((BODIES / "refired.json").read_bytes()).alerts[0]

    assert again.fingerprint == first.fingerprint
    assert again.starts_at > first.starts_at


def test_every_kept_body_is_tested() -> None:
    """
    No body lies in the folder without a test.
    """
    assert {
        "firing",
        "grouped",
        "repeat",
        "mixed",
        "resolved",
        "refired",
        "truncated",
        "truncated-resolved-takes-a-place",
        "group-by-all-labels",
        "subroute",
        "peer-a",
        "peer-b",
    } == {path.stem for path in OURS}
    assert 18 == len(FOREIGN)
