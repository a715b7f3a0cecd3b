import copy
import re
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robusteval import store
from robusteval.checkpoints import CHECKPOINT, load
from robusteval.data import ImageSet
from robusteval.data.batches import epoch_batches
from robusteval.errors import UserError
from robusteval.manifest import Damaged
from robusteval.method import Setting, attach, attached
from robusteval.methods import METHODS
from robusteval.methods.advprop import AdvProp
from robusteval.methods.entprop import EntProp
from robusteval.methods.standard import Standard
from robusteval.optimization import learning_rate
from robusteval.progress import Silent
from robusteval.randomness import Stream
from robusteval.shadow import bank_of
from robusteval.testing import CLASSES, TinyNet
from robusteval.train import Diverged, snapshot_name, train
from robusteval.training import Training

CPU = torch.device("cpu")
N = 40


@pytest.fixture(scope="module")
def data():
    index = torch.arange(N)
    images = (Stream.of(5).uniform(index, 3, 8, 8) * 256).to(torch.uint8)
    return ImageSet(
        name="made-up",
        split="train",
        images=images,
        labels=index % CLASSES,
        classes=tuple("abcde"),
        digest="0" * 64,
        verified=False,
    )


def network(seed=0):
    torch.manual_seed(seed)
    return TinyNet()


PLAIN = Training(epochs=3, batch_size=12, lr=0.05, crop_padding=0, flip=False, precision="float32")


def run(data, training=PLAIN, method=None, **where):
    return train(network(), method or Standard(), data, training, seed=1, device=CPU, **where)


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


def test_the_loop_against_a_plain_one(data):
    """Standard training written out with torch's own optimizer, in full precision."""
    reference = network().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        [p for p in reference.parameters() if p.requires_grad], lr=1, momentum=0.9, weight_decay=5e-4
    )
    x, step, losses = data.images.float() / 255, 0, []
    for epoch in range(3):
        total = 0.0
        for rows in epoch_batches(N, 12, Stream.of(1).at("order", epoch), drop_last=True):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps=9, steps_per_epoch=3, training=PLAIN)
            loss = F.cross_entropy(reference(x[rows]), data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, step = total + loss.item(), step + 1
        losses.append(total / 3)
    result = run(data)
    for (name, a), b in zip(reference.state_dict().items(), result.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert [e.logs["loss"] for e in result.history] == pytest.approx(losses, rel=1e-5)
    assert [e.epoch for e in result.history] == [1, 2, 3]
    assert result.cost.images == result.cost.forward["main"] == result.cost.backward["main"] == 3 * 3 * 12
    assert set(result.cost.wall_s) == {"train", "data"}


def test_a_frozen_part_stays_as_it_was(data):
    before = network().frozen.weight
    assert torch.equal(run(data).model.frozen.weight, before)


def test_order_and_augmentation_are_functions_of_the_seed(data):
    training = replace(PLAIN, crop_padding=2, flip=True, cutout=3)
    same(run(data, training).model, run(data, training).model)
    other = train(network(), Standard(), data, training, seed=2, device=CPU).model
    assert not torch.equal(other.conv1.weight, run(data, training).model.conv1.weight)


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(data):
    """With BatchNorm out of the way: it sees the parts, everything else the batch."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(192, CLASSES)

        def forward(self, x):
            return self.head(x.flatten(1))

    weights = []
    for parts in (1, 3, 5):  # 12 images in 5 parts: of 3, 3, 3 and 3
        torch.manual_seed(0)
        out = train(Linear(), Standard(), data, replace(PLAIN, accumulate=parts), seed=1, device=CPU)
        weights.append(out.model.head.weight)
        assert out.history[0].logs["loss"] > 0
    torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2])


class Killed(BaseException):
    pass


class KillAt(Silent):
    """Raises in the middle of training, after a number of steps of this process."""

    def __init__(self, steps):
        self.left = steps + 1  # the first call reports the steps of earlier processes

    def advance(self, amount=1, note=""):
        self.left -= 1
        if self.left < 0:
            raise Killed


CASES = {
    "standard": (Standard(), {}),
    "advprop": (AdvProp(steps=2), {"crop_padding": 2, "flip": True}),
    "entprop": (EntProp(steps=2, k=0.4), {"precision": "bfloat16"}),
    "ema": (EntProp(), {"ema": 0.9, "bn_reestimate_batches": 2}),
    "swa": (Standard(), {"swa_start": 0.4, "swa_every_steps": 2}),
    "adamw": (Standard(), {"optimizer": "adamw", "accumulate": 2, "grad_clip": 0.5, "decay_norm_and_bias": False}),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_at_any_step_and_resumed_is_bit_identical(data, name, tmp_path):
    method, changes = CASES[name]
    training = replace(PLAIN, checkpoint_seconds=1e-9, **changes)
    straight = run(data, training, method)
    for kill_after in (1, 2, 4):
        with pytest.raises(Killed):
            run(data, training, method, folder=tmp_path, progress=KillAt(kill_after))
    resumed = run(data, training, method, folder=tmp_path)
    same(straight.model, resumed.model)
    assert straight.history == resumed.history
    assert straight.cost.flops == resumed.cost.flops
    assert straight.cost.backward == resumed.cost.backward


def taught(method):
    """An untrained network for methods that learn from one."""
    teacher = method.teacher()
    if teacher is None:
        return None
    setting = Setting(classes=CLASSES, images=N, batch_size=12, shape=(3, 8, 8))
    return teacher.deploy(teacher.wrap(network(1).train(), setting))


FEW_STEPS = {"steps": 2, "random_start": True}
HARDER = {
    "arat": {"attack_bn": "train"},
    "advprop": {"attack_bn": "train"},
    "fast_advprop": {"budget_matched": True},
    "free_at": {"replays": 3},
    "invariance_pair": {"every": 1, "partner_bn": "aux"},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_resumes_bit_for_bit(data, name, tmp_path):
    """Killed in the middle of an epoch and of replays, with all that training can keep beside the network."""
    known = {field.name for field in fields(METHODS[name])}
    options = {key: value for key, value in (FEW_STEPS | HARDER.get(name, {})).items() if key in known}
    method = METHODS[name](**options)
    training = replace(
        PLAIN,
        epochs=2,
        checkpoint_seconds=1e-9,
        crop_padding=2,
        flip=True,
        ema=0.5,
        bn_reestimate_batches=1,
        bn_momentum={"main": 0.2, "aux": 0.05},
        shadow_momenta=(0.5,),
        snapshots=1,
        accumulate=1 if name == "free_at" else 2,
    )
    straight = run(data, training, method, teacher=taught(method), folder=tmp_path / "straight")
    with pytest.raises(Killed):
        run(data, training, method, teacher=taught(method), folder=tmp_path / "cut", progress=KillAt(4))
    assert load(tmp_path / "cut").values["step"] == 4
    resumed = run(data, training, method, teacher=taught(method), folder=tmp_path / "cut")
    same(straight.model, resumed.model)
    assert straight.history == resumed.history
    assert len(straight.snapshots) == 1
    first, second = (
        [(cost.images, cost.forward, cost.backward, cost.flops) for cost in (one.cost, one.snapshots[0].cost)]
        for one in (straight, resumed)
    )
    assert first == second
    assert straight.snapshots[0].weights_sha256 == resumed.snapshots[0].weights_sha256


def test_a_flipped_bit_in_a_checkpoint_is_found(data, tmp_path):
    training = replace(PLAIN, checkpoint_seconds=1e-9)
    with pytest.raises(Killed):
        run(data, training, folder=tmp_path, progress=KillAt(3))
    path = tmp_path / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"checkpoint\.safetensors: damaged"):
        run(data, training, folder=tmp_path)


class Poisoned(Standard):
    """The gradient of one step is infinite: its loss is finite, the weights after it are not."""

    at: ClassVar[int] = 4

    def step(self, model, batch, backward):
        logs = super().step(model, batch, backward)
        model.count = getattr(model, "count", 0) + 1
        if model.count == self.at:
            model.head.weight.grad.fill_(float("inf"))
        return logs


def test_a_run_that_diverges_stops_and_never_becomes_a_checkpoint(data, tmp_path):
    training = replace(PLAIN, checkpoint_seconds=1e-9)
    with pytest.raises(Diverged, match=r"head\.weight is not finite \(by step 4 of 9\)"):
        run(data, training, Poisoned(), folder=tmp_path)
    assert load(tmp_path).values["step"] == 3
    same(run(data, training, folder=tmp_path).model, run(data, training).model)  # and the run can go on


def test_a_loss_that_is_not_finite_is_found_without_checkpoints(data):
    with pytest.raises(Diverged, match=r"loss is not finite in epoch 2 \(by step 6 of 9\)"):
        run(data, method=Poisoned())


def test_weights_that_overflow_in_the_last_step_fail_too(data):
    class Last(Poisoned):
        at: ClassVar[int] = 9

    with pytest.raises(Diverged, match=r"head\.weight is not finite \(by step 9 of 9\)"):
        run(data, method=Last())


def test_a_run_goes_on_only_where_it_began(data, tmp_path, monkeypatch):
    training = replace(PLAIN, checkpoint_seconds=1e-9)
    with pytest.raises(Killed):
        run(data, training, folder=tmp_path, progress=KillAt(2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    with pytest.raises(UserError, match=r"began with cpu, \d threads, float32 and would go on with cpu, 7 threads"):
        run(data, training, folder=tmp_path)


def test_what_wrap_put_into_eval_mode_stays_there(data):
    class Teaching(Standard):
        def wrap(self, model, setting):
            model.frozen.eval()
            return super().wrap(model, setting)

    model = run(data, method=Teaching()).model
    assert not model.frozen.training
    assert model.bn1.training


def test_reestimation_is_paid_for(data):
    plain, averaged = (run(data, t).cost for t in (PLAIN, replace(PLAIN, ema=0.9, bn_reestimate_batches=2)))
    assert averaged.backward["main"] == plain.backward["main"] + 2 * 12
    assert averaged.flops == plain.flops * 11 // 9  # 2 steps more than 9


def test_reestimation_passes_the_parts_that_training_does(data):
    class Sized(Standard):
        sizes: ClassVar[list] = []

        def step(self, model, batch, backward):
            self.sizes.append(len(batch.x))
            return super().step(model, batch, backward)

    run(data, replace(PLAIN, epochs=1, accumulate=2, precise_bn=True, bn_reestimate_batches=2), Sized())
    assert Sized.sizes == [6] * (2 * 3 + 2 * 2)


def test_averaged_weights_get_statistics_of_their_own(data):
    """The statistics of averaged weights are means over training batches passed through those very weights."""
    training = replace(PLAIN, swa_start=0.01, bn_reestimate_batches=2)
    model = run(data, training).model
    probe = copy.deepcopy(model).train()
    for m in (probe.bn1, probe.bn2):
        m.reset_running_stats()
        m.momentum = None
    rows = list(epoch_batches(N, 12, Stream.of(1).at("order", 3), drop_last=True))[:2]
    with torch.no_grad():
        for r in rows:
            probe(data.images[r].float() / 255)
    torch.testing.assert_close(model.bn2.running_mean, probe.bn2.running_mean)
    torch.testing.assert_close(model.bn2.running_var, probe.bn2.running_var)


def test_fewer_images_than_a_batch_is_refused(data):
    with pytest.raises(UserError, match=r"training\.batch_size: 64 is more than the 40 training images"):
        run(data, replace(PLAIN, batch_size=64))


def test_what_the_epoch_hook_keeps_in_the_model_survives_a_resume(data, tmp_path):
    class Counting(Standard):
        def wrap(self, model, setting):
            model.register_buffer("seen", torch.zeros(2))
            return super().wrap(model, setting)

        def epoch(self, model, logs):
            model.seen += torch.tensor([1.0, logs["loss"]])

    training = replace(PLAIN, checkpoint_seconds=1e-9)
    for steps in (2, 3, 2):
        with pytest.raises(Killed):
            run(data, training, Counting(), folder=tmp_path, progress=KillAt(steps))
    result = run(data, training, Counting(), folder=tmp_path)
    assert result.model.seen.tolist() == pytest.approx([3, sum(e.logs["loss"] for e in result.history)])


class Replaying(Standard):
    """Shows which images each step was given."""

    seen: ClassVar[list] = []

    @property
    def replays(self):
        return 4

    def step(self, model, batch, backward):
        self.seen.append(batch.index.tolist())
        return super().step(model, batch, backward)


def test_replays_give_a_batch_several_times_and_cost_no_more_steps(data):
    Replaying.seen.clear()
    trained = run(data, method=Replaying())
    order = [rows.tolist() for epoch in range(3) for rows in epoch_batches(
        N, 12, Stream.of(1).at("order", epoch), drop_last=True
    )]  # fmt: skip
    assert Replaying.seen == [order[step // 4] for step in range(9)]
    assert len(trained.history) == 3
    assert trained.cost.backward == {"main": 9 * 12}


@pytest.mark.parametrize("at", [2, 3, 6])
def test_replays_resume_in_the_middle_of_a_batch(data, tmp_path, at):
    straight = run(data, method=Replaying()).model
    with pytest.raises(KeyboardInterrupt):
        run(data, replace(PLAIN, checkpoint_seconds=1e-9), Replaying(), folder=tmp_path, progress=Interrupting(at))
    Replaying.seen.clear()
    same(straight, run(data, method=Replaying(), folder=tmp_path).model)
    assert len(Replaying.seen) == 9 - at + 1  # the step of the interruption had no checkpoint yet


class Interrupting(Silent):
    """Ctrl-C after so many steps."""

    def __init__(self, steps):
        self.left = steps + 1  # training announces where it begins

    def advance(self, amount=1, note=""):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_momentum_by_branch_decides_the_running_statistics_of_each(data):
    first = run(data, replace(PLAIN, bn_momentum={"aux": 0.5, "unknown": 0.3}), AdvProp()).model
    second = run(data, replace(PLAIN, bn_momentum=0.5), AdvProp()).model
    assert (first.bn1.momentum, first.bn1.aux_bn["aux"].momentum) == (0.1, 0.5)
    assert (second.bn2.momentum, second.bn2.aux_bn["aux"].momentum) == (0.5, 0.5)
    assert not torch.equal(first.bn2.running_mean, second.bn2.running_mean)


def test_momentum_does_not_change_the_weights_of_plain_training(data):
    slow, fast = (run(data, replace(PLAIN, bn_momentum=m)).model for m in (0.01, 0.9))
    assert torch.equal(slow.conv2.weight, fast.conv2.weight)
    assert not torch.equal(slow.bn2.running_var, fast.bn2.running_var)


def test_precise_statistics_are_plain_means_over_training_batches(data):
    model = run(data, replace(PLAIN, precise_bn=True, bn_reestimate_batches=3)).model
    probe = copy.deepcopy(run(data).model).train()
    assert torch.equal(probe.conv1.weight, model.conv1.weight)
    seen = []
    probe.bn2.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        for rows in epoch_batches(N, 12, Stream.of(1).at("order", 3), drop_last=True):
            probe(data.images[rows].float() / 255)
    means = torch.stack([x.mean((0, 2, 3)) for x in seen])
    variances = torch.stack([x.var((0, 2, 3)) for x in seen])
    torch.testing.assert_close(model.bn2.running_mean, means.mean(0))
    torch.testing.assert_close(model.bn2.running_var, variances.mean(0))


def test_snapshots_are_the_weights_on_the_way_with_their_cost(data, tmp_path):
    training = replace(PLAIN, epochs=9, snapshots=3)
    assert training.snapshot_epochs == (1, 2, 4)
    straight = run(data, training, folder=tmp_path / "straight")
    for snapshot in straight.snapshots:
        shorter = replace(PLAIN, epochs=9, schedule="constant")
        assert snapshot.cost.backward == {"main": snapshot.epoch * 36}
        assert snapshot.cost.flops * 9 == straight.cost.flops * snapshot.epoch
        assert shorter.snapshot_epochs == ()
    tensors, _ = store.read_tensors(tmp_path / "straight", snapshot_name(2))
    part = run(data, replace(PLAIN, epochs=2), folder=tmp_path / "two")  # another schedule, other weights
    assert not torch.equal(tensors["conv1.weight"], part.model.conv1.weight)
    flat = run(data, replace(training, schedule="constant"), folder=tmp_path / "flat")
    part = run(data, replace(PLAIN, epochs=2, schedule="constant"))
    tensors, _ = store.read_tensors(tmp_path / "flat", snapshot_name(2))
    assert all(torch.equal(tensors[key], value) for key, value in part.model.state_dict().items())
    assert [snapshot.epoch for snapshot in flat.snapshots] == [1, 2, 4]


def test_snapshots_survive_a_resume(data, tmp_path):
    training = replace(PLAIN, epochs=4, snapshots=2)
    straight = run(data, training, folder=tmp_path / "straight").snapshots
    with pytest.raises(KeyboardInterrupt):
        run(data, replace(training, checkpoint_seconds=1e-9), folder=tmp_path / "cut", progress=Interrupting(7))
    resumed = run(data, training, folder=tmp_path / "cut").snapshots
    assert [(s.epoch, s.weights_sha256) for s in resumed] == [(s.epoch, s.weights_sha256) for s in straight]
    assert [s.epoch for s in resumed] == [1, 2]


def test_a_budget_matched_method_trains_for_fewer_epochs(data):
    class Dear(Standard):
        epochs_factor = 0.5

    assert len(run(data, replace(PLAIN, epochs=5), Dear()).history) == 2
    # A warm-up that is longer than the shortened training shrinks with it.
    warm = run(data, replace(PLAIN, epochs=4, warmup_epochs=3, schedule="constant"), Dear()).history
    assert [epoch.lr for epoch in warm] == pytest.approx([0.05 * 3 / 4, 0.05], abs=0.01)


def test_parts_beside_the_network_are_trained_stored_and_not_deployed(data, tmp_path):
    class Predicting(Standard):
        def wrap(self, model, setting):
            attach(super().wrap(model, setting), guess=nn.Linear(3 * 8 * 8, setting.classes))
            return model

        def step(self, model, batch, backward):
            logs = super().step(model, batch, backward)
            backward(F.cross_entropy(attached(model, "guess")(batch.x.flatten(1)), batch.y))
            return logs

    first, second = (run(data, method=Predicting(), folder=tmp_path / name).model for name in "ab")
    same(first, second)
    assert "training_only.guess.weight" in first.state_dict()
    assert list(Predicting().deploy(first).state_dict()) == list(TinyNet().state_dict())
    assert "training_only.guess.weight" in first.state_dict()  # deploy leaves the model as it was
    torch.manual_seed(0)
    untrained = Predicting().wrap(TinyNet(), Setting(classes=5, images=N, batch_size=12, shape=(3, 8, 8)))
    assert not torch.equal(untrained.training_only.guess.weight, first.training_only.guess.weight)


def test_reestimation_leaves_the_parts_beside_the_network_as_training_left_them(data):
    counted = run(data, replace(PLAIN, ema=0.5, bn_reestimate_batches=2), EntProp(k=0.5)).model
    assert int(attached(counted, "selections").counts.sum()) == 9 * 6


def test_the_shadow_bank_holds_what_other_momenta_would_have_given(data, tmp_path):
    training = replace(PLAIN, shadow_momenta=(0.5, 0.01))
    banked = run(data, training).model
    for momentum in (0.5, 0.01):
        other = run(data, replace(PLAIN, bn_momentum=momentum)).model
        assert torch.equal(other.conv2.weight, banked.conv2.weight)
        for layer, (mean, var) in bank_of(banked).statistics(momentum).items():
            assert torch.equal(other.get_buffer(f"{layer}.running_mean"), mean)
            assert torch.equal(other.get_buffer(f"{layer}.running_var"), var)
    with pytest.raises(KeyboardInterrupt):
        run(data, replace(training, checkpoint_seconds=1e-9), folder=tmp_path, progress=Interrupting(5))
    same(banked, run(data, training, folder=tmp_path).model)


def test_losses_and_throughput_are_told_once_a_second(data, monkeypatch):
    """Against a clock that a step of training moves by 0.4 s: told after steps 3, 6 and 9 of 9, 3 an epoch."""
    now, notes = [100.0], []

    class Clocked(Standard):
        def step(self, model, batch, backward):
            now[0] += 0.4
            number = round((now[0] - 100) / 0.4)
            return super().step(model, batch, backward) | {"loss": torch.tensor(float(number)), "z": torch.tensor(2.0)}

    class Noting(Silent):
        def advance(self, amount=1, note=""):
            notes.append(note)

    monkeypatch.setattr("robusteval.train.time", SimpleNamespace(monotonic=lambda: now[0]))
    result = run(data, method=Clocked(), progress=Noting())
    told = [re.sub(r"accuracy \S+", "accuracy", note) for note in notes[1:]]  # the first reports the start
    rate = f"{3 * 12 / 1.2:.0f} images/s"
    means = [f"loss {mean:.3f} accuracy z 2.000, {rate}" for mean in (2, 5, 8)]  # of the epoch: steps 1-3, 4-6, 7-9
    assert told == ["", "", means[0], "", "", means[1], "", "", means[2]]
    assert [epoch.logs["loss"] for epoch in result.history] == [2, 5, 8]


def test_epochs_are_told_as_they_end_and_again_after_a_kill(data, tmp_path):
    told = []
    with pytest.raises(Killed):
        run(data, folder=tmp_path, progress=KillAt(7), ended=told.append)  # in the third epoch, without a checkpoint
    assert [one.epoch for one in told] == [1, 2]
    result = run(data, folder=tmp_path, ended=told.append)
    assert told[2:] == list(result.history)
    assert told[:2] == list(result.history)[:2]
