"""The worker: one call at a time, looks shared, nothing a driver does ends it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import timedelta

import pytest

from ssis_exporter.errors import SourceBroken, SourceMissing, SourceUnreachable, StopDenied
from ssis_exporter.model import Snapshot
from ssis_exporter.sources.interface import Source
from ssis_exporter.sources.worker import Look, SourceWorker
from ssis_exporter.testing import FakeSource

DEADLINE = 20.0


@pytest.fixture
def source() -> FakeSource:
    return FakeSource("a")


@pytest.fixture
def worker(source: FakeSource) -> Iterator[SourceWorker]:
    made = SourceWorker(source)
    yield made
    source.gate.set()
    made.close(DEADLINE)


def begun(source: FakeSource) -> None:
    """Waits until one more look has begun."""
    assert source.began.acquire(timeout=DEADLINE)


def runs_in(look: Look) -> int:
    """How many runs a look saw; it must have seen."""
    assert isinstance(look.outcome, Snapshot)
    return len(look.outcome.executions)


def test_a_look_gives_the_snapshot(worker: SourceWorker, source: FakeSource) -> None:
    """
    A look gives what the source saw.
    """
    source.start("1")

    assert 1 == runs_in(worker.look().result(DEADLINE))


def test_a_source_knows_how_long_this_looks_scrape_waits(worker: SourceWorker, source: FakeSource) -> None:
    """
    What an earlier scrape could wait for is nothing to a look that is not for a scrape.
    """
    waits = []
    for look in (lambda: worker.look(timedelta(seconds=3)), worker.look_afresh, worker.look):
        look().result(DEADLINE)
        waits.append(source.asked_within)

    assert [timedelta(seconds=3), None, None] == waits


def test_the_source_is_called_on_a_thread_of_its_own(worker: SourceWorker) -> None:
    """
    Every call runs on the worker's one thread, never on the caller's.
    """
    threads = {worker.call(lambda _: threading.get_ident()).result(DEADLINE) for _ in range(5)}

    assert 1 == len(threads)
    assert threading.get_ident() not in threads


def test_a_hundred_who_ask_at_the_same_time_cause_one_call(worker: SourceWorker, source: FakeSource) -> None:
    """
    While a look runs, whoever asks joins it.
    """
    source.gate.clear()
    first = worker.look()
    begun(source)
    others = [worker.look() for _ in range(99)]
    source.gate.set()
    looks = {id(look.result(DEADLINE)) for look in [first, *others]}

    assert 1 == len(looks)
    assert 1 == source.calls


def test_the_next_look_is_a_new_call(worker: SourceWorker, source: FakeSource) -> None:
    """
    A look that has ended is not handed out again.
    """
    worker.look().result(DEADLINE)
    source.start("1")

    assert 1 == runs_in(worker.look().result(DEADLINE))


def test_a_fresh_look_never_joins_one_that_began_before(worker: SourceWorker, source: FakeSource) -> None:
    """
    What a stop decides on begins after it was asked for; those who ask for it together share it.
    """
    source.gate.clear()
    old = worker.look()
    begun(source)
    fresh = worker.look_afresh()
    also_fresh = worker.look_afresh()
    joins_old = worker.look()
    source.gate.set()

    assert joins_old is old
    assert fresh is also_fresh
    assert fresh is not old
    assert fresh.result(DEADLINE) is not old.result(DEADLINE)
    assert 2 == source.calls


def test_calls_run_one_after_the_other(worker: SourceWorker, source: FakeSource) -> None:
    """
    A call waits until the look before it has ended.
    """
    source.gate.clear()
    look = worker.look()
    begun(source)
    call = worker.call(lambda _: "called")

    assert not call.done()
    source.gate.set()
    assert "called" == call.result(DEADLINE)
    assert look.done()


def test_a_waiter_cannot_take_the_answer_from_the_others(worker: SourceWorker, source: FakeSource) -> None:
    """
    A look that many wait for cannot be cancelled by one of them.
    """
    source.gate.clear()
    look = worker.look()

    assert not look.cancel()
    source.gate.set()
    assert 0 == runs_in(look.result(DEADLINE))


def test_a_source_error_is_an_answer(worker: SourceWorker, source: FakeSource) -> None:
    """
    What the source could not do comes as its own error; the next look may work again.
    """
    source.fail_with = SourceMissing("a: gone")
    failed = worker.look().result(DEADLINE)
    source.fail_with = None

    assert source.fail_with is None
    assert "a: gone" == str(failed.outcome)
    assert 0 == runs_in(worker.look().result(DEADLINE))


class BadlyMade(BaseException):
    """What a driver must never raise, and some do."""


@pytest.mark.parametrize("error", [ValueError("odd"), BadlyMade("odd"), SystemExit("odd"), KeyboardInterrupt("odd")])
def test_whatever_a_driver_raises_is_a_broken_source(
    worker: SourceWorker, source: FakeSource, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """
    An error nobody foresaw, even one that is no `Exception`, is an answer, is logged once, and ends nothing.
    """
    source.fail_with = error  # type: ignore[assignment]
    broken = worker.look().result(DEADLINE).outcome
    source.fail_with = None
    recovered = worker.look().result(DEADLINE)

    assert isinstance(broken, SourceBroken)
    assert f"a: {type(error).__name__}: odd" == str(broken)
    assert error is broken.__cause__
    assert [f"source a failed in a way nobody foresaw: {type(error).__name__}: odd"] == [
        record.getMessage() for record in caplog.records if record.levelname == "ERROR"
    ]
    assert 0 == runs_in(recovered)


def test_a_call_raises_where_it_is_awaited(worker: SourceWorker) -> None:
    """
    The error of a call reaches who called, as it is.
    """

    def refuse(_: Source) -> None:
        raise StopDenied("a: no right")

    with pytest.raises(StopDenied, match="a: no right"):
        worker.call(refuse).result(DEADLINE)


def test_a_waiting_worker_holds_on_to_no_answer(worker: SourceWorker) -> None:
    """
    The next call may be long in coming, and there are as many workers as servers.
    """

    class Large:
        """What a call found."""

    answer = worker.call(lambda _: Large())
    found = weakref.ref(answer.result(DEADLINE))
    del answer

    deadline = time.monotonic() + DEADLINE
    while found() is not None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert None is found()


def test_a_look_that_hangs_tells_for_how_long(source: FakeSource) -> None:
    """
    The time of the call that runs is told; none runs before and after.
    """
    clock = [100.0]
    worker = SourceWorker(source, monotonic=lambda: clock[0])
    before = worker.busy_for()
    source.gate.clear()
    look = worker.look()
    begun(source)
    clock[0] += 30
    during = worker.busy_for()
    source.gate.set()
    took = look.result(DEADLINE).took
    after = worker.busy_for()
    worker.close(DEADLINE)

    assert (timedelta(), timedelta(seconds=30), timedelta()) == (before, during, after)
    assert timedelta(seconds=30) == took


def test_close_ends_the_thread_and_the_source(worker: SourceWorker, source: FakeSource) -> None:
    """
    Closing closes the source on its thread, once, and may be called twice; a worker never used closes as well.
    """
    worker.look().result(DEADLINE)

    assert worker.close(DEADLINE)
    assert worker.close(DEADLINE)
    assert 1 == source.closed
    assert SourceWorker(FakeSource("unused")).close(DEADLINE)


def test_what_waits_when_it_is_closed_is_answered(worker: SourceWorker, source: FakeSource) -> None:
    """
    Nobody waits for ever for a worker that closes: looks get an error, calls raise it, later ones too.
    """
    source.gate.clear()
    running = worker.look()
    begun(source)
    waiting = worker.look_afresh()
    call: Future[str] = worker.call(lambda _: "never")
    in_time = worker.close(0.0)
    later = worker.look_afresh().result(DEADLINE)

    assert not in_time
    assert isinstance(waiting.result(DEADLINE).outcome, SourceUnreachable)
    assert isinstance(later.outcome, SourceUnreachable)
    with pytest.raises(SourceUnreachable):
        call.result(DEADLINE)
    source.gate.set()
    assert 0 == runs_in(running.result(DEADLINE))
    assert worker.close(DEADLINE)
    assert 1 == source.closed


def test_a_call_that_takes_long_is_asked_to_give_up(
    worker: SourceWorker, source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Closing does not wait for a call that hangs where the source can let it fail.
    """
    monkeypatch.setattr(source, "give_up", source.gate.set)
    source.gate.clear()
    running = worker.look()
    begun(source)

    assert worker.close(DEADLINE)
    assert running.done()
    assert 1 == source.closed


def test_a_source_that_fails_to_close_is_logged(
    worker: SourceWorker, source: FakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    """
    An error while closing is for the log; the worker ends all the same.
    """

    def fail() -> None:
        raise OSError("stuck")

    source.close = fail  # type: ignore[method-assign]
    worker.look().result(DEADLINE)

    assert worker.close(DEADLINE)
    assert "source a could not be closed" in caplog.messages
