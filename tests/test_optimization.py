import copy

import pytest
import torch
from torch import nn

from robusteval.branches import add_branches, use_branch
from robusteval.optimization import Averages, learning_rate, make_optimizer, named_state, reestimate, restore_state
from robusteval.testing import TinyNet
from robusteval.training import Training

PER_EPOCH, EPOCHS = 10, 8
STEPS = PER_EPOCH * EPOCHS


def scheduled(training):
    return [learning_rate(i, steps=STEPS, steps_per_epoch=PER_EPOCH, training=training) for i in range(STEPS)]


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS)),
        ("onecycle", lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.4, total_steps=STEPS, cycle_momentum=False)),
        ("step", lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [40, 60])),
        ("constant", lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
    ],
)
def test_schedules_are_those_of_torch(schedule, reference):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = reference(optimizer)
    expected = []
    for step in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < STEPS - 1:
            scheduler.step()
    mine = scheduled(Training(epochs=EPOCHS, lr=0.4, schedule=schedule))
    assert mine == pytest.approx(expected, abs=1e-9)


def test_warmup_rises_linearly_and_the_schedule_follows():
    rates = scheduled(Training(epochs=EPOCHS, lr=1.0, warmup_epochs=0.5))
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[-1] < 0.002
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_the_schedule_that_the_reference_code_of_arat_executes():
    """0.02 in the first epoch of 100, 0.1 up to the 76th, 0.01 up to the 91st, 0.001 to the end."""
    training = Training(
        epochs=100,
        schedule="step",
        milestones=(0.7575757575757576, 0.9090909090909091),
        warmup_epochs=1,
        warmup_lr=0.02,
    )
    rates = [learning_rate(step, steps=39_100, steps_per_epoch=391, training=training) for step in range(39_100)]
    by_epoch = [rates[epoch * 391 : (epoch + 1) * 391] for epoch in range(100)]
    expected = [0.02] + [0.1] * 75 + [0.01] * 15 + [0.001] * 9
    for rates, value in zip(by_epoch, expected, strict=True):
        assert rates == pytest.approx([value] * 391)
    with pytest.raises(ValueError, match="warmup_lr needs warmup_epochs above 0"):
        Training(warmup_lr=0.02)


def test_weight_decay_split():
    model = TinyNet()
    both = make_optimizer(model, Training(decay_norm_and_bias=True, weight_decay=0.1))
    assert [g["weight_decay"] for g in both.param_groups] == [0.1]
    split = make_optimizer(model, Training(decay_norm_and_bias=False, weight_decay=0.1))
    shapes = {g["weight_decay"]: {p.ndim for p in g["params"]} for g in split.param_groups}
    assert shapes == {0.1: {2, 4}, 0.0: {1}}
    assert sum(len(g["params"]) for g in split.param_groups) == sum(p.requires_grad for p in model.parameters())


def walk(model, optimizer, n):
    for i in range(n):
        optimizer.zero_grad()
        model(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(i))).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizer_state_round_trips(name):
    training = Training(optimizer=name, lr=0.01)
    torch.manual_seed(0)
    model = TinyNet().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, training)
    walk(model, optimizer, 3)
    other = copy.deepcopy(model)
    state = {k: v.clone(memory_format=torch.contiguous_format) for k, v in named_state(model, optimizer).items()}
    again = make_optimizer(other, training)
    restore_state(other, again, state)
    walk(model, optimizer, 2)
    walk(other, again, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def snapshots(training, steps):
    """The weight of a one-parameter model after each step is the step's number squared."""
    model, averages = nn.Linear(1, 1, bias=False), Averages(training, steps=steps)
    for step in range(steps):
        with torch.no_grad():
            model.weight.fill_(float(step**2))
        averages.update(model, step)
    last = model.weight.item()
    assert averages.apply(model)
    return model.weight.item(), last


def test_swa_is_the_plain_mean_of_its_snapshots():
    averaged, last = snapshots(Training(swa_start=0.5, swa_every_steps=3), 20)
    taken = [step**2 for step in range(10, 20, 3)]
    assert averaged == pytest.approx(sum(taken) / len(taken))
    assert last == 19**2


def test_ema_follows_its_recursion():
    expected = 0.0
    for step in range(1, 30):
        expected += max(0.1, 1 / (step + 1)) * (step**2 - expected)
    assert snapshots(Training(ema=0.9), 30)[0] == pytest.approx(expected)


def test_without_averaging_the_model_itself_is_applied():
    model, averages = nn.Linear(1, 1), Averages(Training(), steps=10)
    before = model.weight.item()
    averages.update(model, 9)
    assert not averages.apply(model)
    assert model.weight.item() == before


def test_a_late_start_still_takes_the_last_weights():
    averaged, last = snapshots(Training(swa_start=0.99), 20)
    assert averaged == last == 19**2


def test_reestimated_statistics_are_plain_means_over_the_batches_of_each_branch():
    layer = nn.Sequential(nn.BatchNorm2d(3)).train()
    add_branches(layer, ["aux"])
    batches = [torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(5)]

    def run_step(x):
        layer(x)
        with use_branch(layer, "aux"):
            layer(2 * x)

    layer(batches[0] + 7)  # statistics that must be forgotten, but serve until the first batch
    seen = []

    def watched(x):
        seen.append(layer[0].running_mean.clone())
        run_step(x)

    old = layer[0].running_mean.clone()
    reestimate(layer, batches, watched)
    assert torch.equal(seen[0], old)
    means = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    variances = torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0)
    torch.testing.assert_close(layer[0].running_mean, means)
    torch.testing.assert_close(layer[0].running_var, variances)
    torch.testing.assert_close(layer[0].aux_bn["aux"].running_mean, 2 * means)
    torch.testing.assert_close(layer[0].aux_bn["aux"].running_var, 4 * variances)
    assert layer[0].momentum == layer[0].aux_bn["aux"].momentum == 0.1
