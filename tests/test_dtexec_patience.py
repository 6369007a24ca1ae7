"""Files that never answer."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from ssis_exporter.sources.dtexec.patience import Patience, TookTooLong


class OddError(Exception):
    """Raised by a question."""


def fails() -> int:
    """A question whose answer is an error."""
    raise OddError


def test_answer_and_error_come_back() -> None:
    """
    What the question gives or raises is what the asker gets.
    """
    patience = Patience(30)

    assert 5 == patience.ask(lambda: 5)
    with pytest.raises(OddError):
        patience.ask(fails)
    assert 6 == patience.ask(lambda: 6)
    patience.close()
    patience.close()


def test_error_is_not_kept() -> None:
    """
    Nothing that failed, and no frame that knows secrets, waits for a garbage collection.
    """
    patience = Patience(30)
    gc.disable()
    try:
        try:
            patience.ask(fails)
        except OddError as exc:
            seen = weakref.ref(exc)
        kept = seen()
    finally:
        gc.enable()
        patience.close()

    assert kept is None


def test_time_is_for_all_questions_of_a_look_together() -> None:
    """
    When the time is used up nothing is asked any more, until the next look.
    """
    clock = iter([0.0, 3.0, 3.0, 3.0])
    patience = Patience(2, monotonic=lambda: next(clock))
    assert 1 == patience.ask(lambda: 1)

    with pytest.raises(TookTooLong):
        patience.ask(lambda: 2)
    patience.renew()
    assert 3 == patience.ask(lambda: 3)
    patience.close()


def test_hanging_question_is_left_behind() -> None:
    """
    Others are asked meanwhile; as many as may hang, and then nobody is asked until one has come back.
    """
    gate = threading.Event()
    came_back = threading.Event()

    def hang() -> None:
        gate.wait()
        came_back.set()

    patience = Patience(0.01, most_hanging=2)
    asked = []
    for _ in range(2):
        patience.renew()
        with pytest.raises(TookTooLong):
            patience.ask(hang)
    patience.renew()
    with pytest.raises(TookTooLong):
        patience.ask(lambda: asked.append(1))
    assert [] == asked

    hanging = patience._hanging[0]
    gate.set()
    assert came_back.wait(30)
    hanging.join(30)
    patience._seconds = 30
    patience.renew()
    assert 7 == patience.ask(lambda: 7)
    patience.close()
