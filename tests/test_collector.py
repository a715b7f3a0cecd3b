"""The pause of the garbage collector."""

from __future__ import annotations

import gc

import pytest

from robusteval.collector import paused


def test_the_collector_runs_again_whatever_was_raised() -> None:
    with pytest.raises(KeyError), paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_a_pause_in_a_pause_ends_with_the_outer_one() -> None:
    @paused()
    def inner() -> bool:
        return gc.isenabled()

    with paused():
        assert not inner()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_who_has_stopped_it_finds_it_stopped() -> None:
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
