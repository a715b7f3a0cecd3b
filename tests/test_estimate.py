"""Estimates of a dry run, against what the work then really costs."""

import time

import pytest
import torch

from robusteval import estimate as module
from robusteval.attacks.folding import folded
from robusteval.config import parse_suite
from robusteval.cost import FlopCount
from robusteval.estimate import estimate
from robusteval.planning import plan
from robusteval.progress import Silent
from robusteval.restoring import network
from robusteval.runner import run_job
from robusteval.runtime import Runtime
from robusteval.tasks import Context, Corruption, Pgd

RUNTIME = Runtime(torch.device("cpu"), torch.get_num_threads(), "system")


def jobs(out, *methods, tasks=(), epochs=2, limit=128, seeds=(0,)):
    table = {
        "name": "tiny",
        "training": {"epochs": epochs, "batch_size": 32, "precision": "float32"},
        "methods": list(methods),
        "tasks": list(tasks),
        "seeds": list(seeds),
    }
    return plan(parse_suite(table, "tiny"), out, limit=limit)


def test_training_flops_are_those_that_training_then_counts(tmp_path):
    chosen = jobs(tmp_path, {"name": "standard"}, {"name": "advprop"}, epochs=1)
    for job, cost in zip(chosen, estimate(chosen, RUNTIME), strict=True):
        counted = run_job(job, RUNTIME, Silent()).cost
        assert counted is not None
        # Plain passes do not need the gradient of the input, which the law counts: 1 % of ResNet-8.
        assert cost.flops == pytest.approx(counted.flops, rel=0.02)
        assert not list(tmp_path.rglob("checkpoint*"))


def test_task_flops_are_those_of_the_whole_task(tmp_path):
    """Of an attack, those of one that breaks nothing: images that break early cost less."""
    tasks = [{"name": "pgd", "steps": 4, "checked": 0}]
    (job,) = jobs(tmp_path, {"name": "standard"}, tasks=tasks, limit=64)
    training = module._training(job, RUNTIME)
    (total,) = estimate([job], RUNTIME)
    model = network(job.cell, job.train).eval()
    with FlopCount() as count:
        context = Context(device=torch.device("cpu"), seed=0, deployed="main", batch_size=100, hardest=True)
        list(Pgd(steps=4, checked=0).measure({"main": model}, job.test, context))
    with FlopCount() as looks:  # by which an attack finds out how layers can be merged; no steps, so not foreseen
        folded(model, torch.zeros(2, 3, 32, 32))
    assert total.flops - training.flops == pytest.approx(count.flops - looks.flops, rel=1e-9)


def test_a_task_that_is_probed_stops_early_and_is_extrapolated(tmp_path, monkeypatch):
    """Of 75 corruptions two are made; each takes 10 ms here, so all take at least 0.75 s."""
    seen = []

    def corrupt(images, name, severity, **_):
        seen.append((name, severity))
        time.sleep(0.01)
        return images

    monkeypatch.setattr("robusteval.tasks.corruption.corrupt", corrupt)
    (job,) = jobs(tmp_path, {"name": "standard"}, tasks=[{"name": "corruption", "source": "generated"}], limit=50)
    cost = module._judging(job, Corruption(source="generated"), RUNTIME)
    assert len(seen) == 4  # two timed, two counted
    assert 0.75 < cost.seconds < 30


def test_probes_are_shared_where_the_cost_is_the_same(tmp_path, monkeypatch):
    trained, judged = [], []
    training, judging = module._training, module._judging
    monkeypatch.setattr(module, "_training", lambda *given: trained.append(given) or training(*given))
    monkeypatch.setattr(module, "_judging", lambda *given: judged.append(given) or judging(*given))
    methods = [{"name": "standard"}, {"name": "mixup"}, {"name": "advprop", "steps": 1}, {"name": "entprop"}]
    chosen = jobs(tmp_path, *methods, tasks=[{"name": "clean"}], epochs=1, limit=32, seeds=(0, 1))
    assert len(estimate(chosen, RUNTIME)) == 8
    assert (len(trained), len(judged)) == (4, 2)  # by method; by number of branches


def test_what_is_done_costs_nothing_and_what_is_trained_is_not_trained_again(tmp_path):
    (job,) = jobs(tmp_path, {"name": "standard"}, limit=32)
    run_job(job, RUNTIME, Silent())
    assert estimate(jobs(tmp_path, {"name": "standard"}, limit=32), RUNTIME) == [(0, 0)]
    (job,) = jobs(tmp_path, {"name": "standard"}, tasks=[{"name": "clean"}], limit=32)
    (cost,) = estimate([job], RUNTIME)
    assert cost == (module._judging(job, job.missing[0], RUNTIME).flops, pytest.approx(cost.seconds))


def test_a_probe_leaves_out_the_unit_that_warms_up(monkeypatch):
    moments = iter([0.0, 10.0, 11.0, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    probe = module._Probe(3)
    probe.begin("train", 40)
    probe.advance(0)
    probe.advance()
    probe.advance()
    with pytest.raises(module._Enough):
        probe.advance()
    assert probe.whole.seconds == 40


def test_a_stage_of_one_unit_is_timed_whole(monkeypatch):
    moments = iter([0.0, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    probe = module._Probe(3)
    probe.begin("clean", 1)
    with pytest.raises(module._Enough):
        probe.advance()
    assert probe.whole.seconds == 10


def test_a_task_without_the_parts_that_it_needs_costs_nothing(tmp_path):
    tasks = [{"name": "branches", "limit": 8, "attack_limit": 8, "steps": 1}, {"name": "teacher", "limit": 8}]
    (job,) = jobs(tmp_path, {"name": "bn_free"}, tasks=tasks, limit=32)
    alone = module._training(job, RUNTIME)
    (cost,) = estimate([job], RUNTIME)
    assert cost.flops == alone.flops


def test_a_task_is_shown_the_parts_that_it_looks_for(tmp_path):
    teacher, student = jobs(
        tmp_path, {"name": "counterbalancing_teacher"}, tasks=[{"name": "teacher", "limit": 8}], limit=32
    )
    costs = estimate([teacher, student], RUNTIME)
    assert costs[0].flops == pytest.approx(module._training(teacher, RUNTIME).flops)
    assert costs[1].flops > 1.01 * module._training(student, RUNTIME).flops


def test_snapshots_are_judged_too(tmp_path):
    few = {"name": "standard"}
    more = {"name": "standard", "training": {"epochs": 8, "snapshots": 3}}
    tasks = [{"name": "clean"}]
    (once,), (often,) = (jobs(tmp_path, one, tasks=tasks, epochs=8, limit=32) for one in (few, more))
    training = module._training(once, RUNTIME).flops
    first, second = (estimate([job], RUNTIME)[0].flops - training for job in (once, often))
    assert second == pytest.approx(4 * first)
