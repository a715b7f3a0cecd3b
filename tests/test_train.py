import copy
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robusteval.checkpoints import CHECKPOINT, load
from robusteval.data import ImageSet
from robusteval.data.batches import epoch_batches
from robusteval.errors import UserError
from robusteval.manifest import Damaged
from robusteval.methods.advprop import AdvProp
from robusteval.methods.entprop import EntProp
from robusteval.methods.standard import Standard
from robusteval.optimization import learning_rate
from robusteval.progress import Silent
from robusteval.randomness import Stream
from robusteval.testing import CLASSES, TinyNet
from robusteval.train import Diverged, train
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
        def wrap(self, model):
            model.frozen.eval()
            return super().wrap(model)

    model = run(data, method=Teaching()).model
    assert not model.frozen.training
    assert model.bn1.training


def test_reestimation_is_paid_for(data):
    plain, averaged = (run(data, t).cost for t in (PLAIN, replace(PLAIN, ema=0.9, bn_reestimate_batches=2)))
    assert averaged.backward["main"] == plain.backward["main"] + 2 * 12
    assert averaged.flops == plain.flops * 11 // 9  # 2 steps more than 9


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
        def wrap(self, model):
            model.register_buffer("seen", torch.zeros(2))
            return super().wrap(model)

        def epoch(self, model, logs):
            model.seen += torch.tensor([1.0, logs["loss"]])

    training = replace(PLAIN, checkpoint_seconds=1e-9)
    for steps in (2, 3, 2):
        with pytest.raises(Killed):
            run(data, training, Counting(), folder=tmp_path, progress=KillAt(steps))
    result = run(data, training, Counting(), folder=tmp_path)
    assert result.model.seen.tolist() == pytest.approx([3, sum(e.logs["loss"] for e in result.history)])
