"""Trainings are timed in a clock that other processes do not turn, against a loop that tells when they disturb it."""

import time
from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch

from robusteval.check import calibration
from robusteval.check.calibration import FILE, STEPS, Stopwatch, Timing, relative, seconds
from robusteval.runtime import Runtime
from robusteval.store import StoredRun, names, read_record


@pytest.fixture
def runtime():
    return Runtime(device=torch.device("cpu"), threads=1, allocator="system")


def clock(*durations):
    """Readings of a clock between which these seconds pass."""
    return map(float, accumulate(durations, initial=0)).__next__


def ran(name, *, cost=True):
    return SimpleNamespace(id=name, cost=object() if cost else None)


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(2.0, 2.0, 15.0), (2.0, 2.4, 15.0), (2.4, 2.0, 15.0), (2.0, 2.6, None)]
)
def test_a_training_counts_where_the_machine_was_as_fast_after_it_as_before(before, after, expected):
    assert Timing(training=30.0, before=before, after=after).relative == expected


def test_the_last_epoch_ends_the_training_and_judging_is_not_timed(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "seconds", lambda runtime, clock: 2.0)
    watch = Stopwatch({"a": tmp_path}, runtime, clock(10.0, 20.0, 5000.0))
    watch.begin(ran("a"))  # at 0
    watch.epoch(None)  # at 10
    watch.epoch(None)  # at 30
    watch.measured(None, None)
    watch.end(ran("a"))
    assert read_record(tmp_path, FILE, Timing) == Timing(training=30.0, before=2.0, after=2.0)
    assert relative(StoredRun(tmp_path, ran("a"), (), ())) == 15.0


@pytest.mark.parametrize(("name", "cost"), [("a", False), ("resumed", True)])
def test_what_was_not_timed_whole_has_no_time(runtime, tmp_path, monkeypatch, name, cost):
    monkeypatch.setattr(calibration, "seconds", lambda runtime, clock: 2.0)
    watch = Stopwatch({"a": tmp_path}, runtime)
    watch.begin(ran(name))
    watch.epoch(None)
    watch.end(ran(name, cost=cost))
    assert FILE not in names(tmp_path)
    assert relative(StoredRun(tmp_path, ran(name), (), ())) is None


def test_waiting_for_the_processor_takes_none_of_its_time(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "seconds", lambda runtime, clock: 2.0)
    watch = Stopwatch({"a": tmp_path}, runtime)
    watch.begin(ran("a"))
    time.sleep(0.3)
    watch.epoch(None)
    assert watch.ended - watch.began < 0.1


def test_the_loop_is_as_many_times_its_quickest_step_and_leaves_the_randomness_alone(runtime):
    state = torch.get_rng_state()
    found = seconds(
        runtime, clock(*(one for step in (9.0, 7.0, 8.0, 30.0, 9.0, 9.0, 9.0, 7.5) for one in (step, 100.0)))
    )
    assert found == STEPS * 7.0
    assert torch.equal(torch.get_rng_state(), state)
