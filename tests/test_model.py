"""The values that travel between the parts."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from ssis_exporter.errors import SOURCE_ERROR_REASONS, SourceError
from ssis_exporter.model import ExecutionFacts, ExecutionKey, ExecutionStatus, Scope, Visibility


@pytest.mark.parametrize("then", list(Scope))
def test_full_sight_proves_an_end(then: Scope) -> None:
    """
    Who sees all and doesn't see the run knows that it ended, whatever showed it.
    """
    assert Visibility(Scope.ALL).proves_end_of_what_was_seen_under(Visibility(then, "roles: reader"))


@pytest.mark.parametrize("scope", [Scope.PARTIAL, Scope.OWN])
def test_the_same_partial_sight_proves_an_end(scope: Scope) -> None:
    """
    Exactly the rights that showed the run would show it still.
    """
    sight = Visibility(scope, "grants: 3")

    assert sight.proves_end_of_what_was_seen_under(Visibility(scope, "grants: 3"))


@pytest.mark.parametrize("scope", [Scope.PARTIAL, Scope.OWN])
def test_partial_sight_that_changed_proves_nothing(scope: Scope) -> None:
    """
    A run that vanished together with a right has not ended.
    """
    sight = Visibility(scope, "grants: 2")

    assert not sight.proves_end_of_what_was_seen_under(Visibility(scope, "grants: 3"))
    assert not sight.proves_end_of_what_was_seen_under(Visibility(Scope.ALL))


@pytest.mark.parametrize(("now", "then"), list(itertools.product([Scope.NONE, Scope.UNKNOWN], Scope)))
def test_no_sight_and_unknown_sight_prove_nothing(now: Scope, then: Scope) -> None:
    """
    Who sees nothing, or doesn't know what they see, knows of no end, even when nothing changed.
    """
    assert not Visibility(now).proves_end_of_what_was_seen_under(Visibility(then))


@pytest.mark.parametrize(("now", "then"), list(itertools.permutations([Scope.PARTIAL, Scope.OWN], 2)))
def test_another_scope_proves_nothing(now: Scope, then: Scope) -> None:
    """
    Between two scopes that are both less than all, the run may have gone out of sight.
    """
    assert not Visibility(now).proves_end_of_what_was_seen_under(Visibility(then))


def test_active_is_running_or_stopping() -> None:
    """
    Package code may be running in a run that runs and in one that is asked to stop; in no other.
    """
    active = {status for status in ExecutionStatus if status.is_active}

    assert {ExecutionStatus.RUNNING, ExecutionStatus.STOPPING} == active


def test_keys_of_different_sources_differ() -> None:
    """
    An instance id names a run only within its source.
    """
    assert ExecutionKey("sql01", "7") != ExecutionKey("sql02", "7")


def test_values_are_frozen() -> None:
    """
    What a source handed out cannot be changed by who reads it.
    """
    facts = ExecutionFacts(key=ExecutionKey("sql01", "7"), package_name="Load")

    with pytest.raises(dataclasses.FrozenInstanceError):
        facts.package_name = "Other"  # type: ignore[misc]


def test_every_source_error_has_a_listed_reason() -> None:
    """
    Each kind of source error counts under a reason that starts at 0.
    """
    reasons = [kind.reason for kind in SourceError.__subclasses__() if kind.__module__ == "ssis_exporter.errors"]

    assert sorted(SOURCE_ERROR_REASONS) == sorted(reasons)
    assert SourceError.reason in SOURCE_ERROR_REASONS
