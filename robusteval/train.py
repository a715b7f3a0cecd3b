"""The training loop: batches to steps, metered, checkpointed, resumed bit for bit."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robusteval.branches import branch_names, set_momentum
from robusteval.checkpoints import Checkpoint, load, save
from robusteval.cost import Meter
from robusteval.data import ImageSet
from robusteval.errors import UserError
from robusteval.feed import Feed
from robusteval.hardware import autocast, choose_precision, device_name
from robusteval.method import TRAINING_ONLY, Batch, Method, Setting, detached
from robusteval.optimization import Averages, learning_rate, make_optimizer, named_state, reestimate, restore_state
from robusteval.progress import Progress, Silent
from robusteval.randomness import Stream
from robusteval.records import Cost, Epoch, Snapshot
from robusteval.shadow import add_bank, watching
from robusteval.store import write_tensors
from robusteval.training import Training

SHOWN = 3
"""Logs beside the progress of a training: the loss, which methods log first, and two of its parts."""


class Diverged(RuntimeError):
    """The loss or a weight is not a finite number any more; the run has failed and nothing of it is evaluated."""


class Trained(NamedTuple):
    """What training gives.

    Attributes:
        model: the wrapped model, with averaged weights where the options ask for them.
        history: the logs of every epoch.
        cost: totals over all parts of a resumed run.
        snapshots: what was kept on the way, in files of the folder (`snapshot_name`).
    """

    model: nn.Module
    history: tuple[Epoch, ...]
    cost: Cost
    snapshots: tuple[Snapshot, ...]


def wrapped(network: nn.Module, method: Method, training: Training, setting: Setting) -> nn.Module:
    """The network with all that its training adds to it, changed in place: what weights of a run are loaded into."""
    model = method.wrap(network, setting)
    add_bank(model, training.shadow_momenta)
    return model


def snapshot_name(epoch: int) -> str:
    """The file with the weights after so many epochs."""
    return f"snapshot-{epoch}.safetensors"


def train(
    network: nn.Module,
    method: Method,
    data: ImageSet,
    training: Training,
    *,
    seed: int,
    device: torch.device,
    teacher: nn.Module | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    ended: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """The network trained by the method.

    Args:
        network: float (B, 3, H, W) in [0, 1] to logits; changed in place.
        method: what a step does.
        data: the training images; the last, incomplete batch of an epoch is left out.
        training: optimizer, schedule, augmentation, ...
        seed: of order, augmentation and the method's draws (the caller seeds the initial weights).
        device: where to train.
        teacher: the trained network that the method learns from, if it does.
        folder: where checkpoints are written and looked for, and snapshots go; None trains without either.
        progress: is told of every step.
        ended: is told of every epoch; those since the last checkpoint are told again by a resumed training.

    Raises:
        Diverged: a loss or weight is not finite.
        UserError: fewer images than a batch holds; a damaged checkpoint.
    """
    return _Loop(network, method, data, training, seed, device, teacher, folder, progress or Silent(), ended).run()


class _Loop:
    """The state of one training: model, optimizer, averages, meter, logs, and the step it has reached."""

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        data: ImageSet,
        training: Training,
        seed: int,
        device: torch.device,
        teacher: nn.Module | None,
        folder: Path | None,
        progress: Progress,
        ended: Callable[[Epoch], None],
    ) -> None:
        if method.epochs_factor != 1:
            epochs = max(1, round(method.epochs_factor * training.epochs))
            warmup = training.warmup_epochs * epochs / training.epochs  # its share, as all else in the schedule
            training = replace(training, epochs=epochs, warmup_epochs=warmup)
        self.steps_per_epoch = len(data.labels) // training.batch_size
        if not self.steps_per_epoch:
            raise UserError(
                f"training.batch_size: {training.batch_size} is more than the {len(data.labels)} training images "
                f"of {data.name}; allowed: 1 to {len(data.labels)}"
            )
        self.steps = training.epochs * self.steps_per_epoch
        self.method, self.training, self.device = method, training, device
        self.folder, self.progress, self.ended = folder, progress, ended
        self.precision = choose_precision(training.precision, device)
        layout = torch.channels_last if training.channels_last else torch.contiguous_format
        self.network = network.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
        self.network.train()
        setting = Setting(
            classes=len(data.classes),
            images=len(data.labels),
            batch_size=training.batch_size,
            shape=(3, *data.images.shape[2:]),
            teacher=teacher,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(Stream.of(seed).at("parts").seed)  # the initial weights of predictors and their like
            self.model = wrapped(self.network, method, training, setting).to(device)
        self._set_momentum()
        self.optimizer = make_optimizer(self.model, training)
        self.averages = Averages(training, steps=self.steps)
        self.meter = Meter(self.network, device)
        self.feed = Feed(data, training, Stream.of(seed), device, method.pairing)
        self.step = 0
        self.history: list[Epoch] = []
        self.snapshots: list[Snapshot] = []
        self.sums: dict[str, Tensor] = {}

    def _set_momentum(self) -> None:
        """Gives every branch its momentum; a suite's table may name branches that only other methods have."""
        momentum = self.training.bn_momentum
        with detached(self.model):
            branches = branch_names(self.model)
            by_branch = dict.fromkeys(branches, momentum) if isinstance(momentum, float) else dict(momentum)
            set_momentum(self.model, {name: value for name, value in by_branch.items() if name in branches})

    def run(self) -> Trained:
        """Trains from the checkpoint, if there is one, to the end."""
        self._resume()
        self.progress.begin("train", self.steps)
        self.progress.advance(self.step)
        saved = told = time.monotonic()
        told_at, counted = self.step, False
        with self.meter.running(), watching(self.model):
            for seen, rows in self.feed.batches(self.step, self.steps, replays=self.method.replays):
                epoch, position = divmod(self.step, self.steps_per_epoch)
                self._train_step(seen, rows, fresh=not (position and counted))
                counted, note = True, ""
                if (passed := time.monotonic() - told) > 1:  # reading losses waits for the GPU: once a second only
                    rate = (self.step - told_at) * self.training.batch_size / passed
                    note = f"{self._losses(position + 1)}, {rate:.0f} images/s"
                    told, told_at = time.monotonic(), self.step
                if self.step % self.steps_per_epoch == 0:
                    self._end_epoch(epoch)  # before a checkpoint, which knows no half-ended epoch
                self.progress.advance(note=note)
                if time.monotonic() - saved > self.training.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
            self._save()
            self._finish()
        return Trained(self.model, tuple(self.history), self._cost(), tuple(self.snapshots))

    def _losses(self, steps: int) -> str:
        """The first few means of the epoch so far, e.g. ``loss 1.203 clean 0.911``; of its first steps, or so many."""
        return " ".join(f"{key} {float(self.sums[key]) / steps:.3f}" for key in [*self.sums][:SHOWN])

    def _train_step(self, seen: int, rows: Tensor, *, fresh: bool) -> None:
        """One optimizer step."""
        parts = rows.chunk(self.training.accumulate)
        with self.meter.timed("train"), self.meter.counting_flops(fresh=fresh):
            lr = learning_rate(
                self.step, steps=self.steps, steps_per_epoch=self.steps_per_epoch, training=self.training
            )
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            for i, part in enumerate(parts):
                share = len(part) / len(rows)
                self._log(self._method_step(self.feed.batch(seen, self.step, part, number=i), share), share)
            if self.training.grad_clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.training.grad_clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.averages.update(self.model, self.step)
        self.step += 1

    def _method_step(self, batch: Batch, share: float) -> dict[str, Tensor]:
        def backward(loss: Tensor) -> None:
            torch.autograd.backward(loss if share == 1 else loss * share)

        with autocast(self.precision, self.device):
            return self.method.step(self.model, batch, backward)

    def _log(self, logs: dict[str, Tensor], share: float) -> None:
        for key, value in logs.items():
            added = value.detach().float() * share
            self.sums[key] = self.sums[key] + added if key in self.sums else added

    def _check(self) -> None:
        """Fails when a weight or a logged sum is not finite: a loss that was NaN once stays in its sum."""
        for key, value in self.sums.items():
            if not torch.isfinite(value):
                epoch = (self.step - 1) // self.steps_per_epoch
                raise Diverged(f"{key} is not finite in epoch {epoch + 1} (by step {self.step} of {self.steps})")
        for name, value in self.model.state_dict().items():
            if not torch.isfinite(value).all():
                raise Diverged(f"{name} is not finite (by step {self.step} of {self.steps})")

    def _end_epoch(self, epoch: int) -> None:
        self._check()
        logs = {key: float(value) / self.steps_per_epoch for key, value in self.sums.items()}
        self.sums = {}
        self.history.append(Epoch(epoch=epoch + 1, logs=logs, lr=self.optimizer.param_groups[0]["lr"]))
        self.method.epoch(self.model, logs)
        self.ended(self.history[-1])
        if self.folder is not None and epoch + 1 in self.training.snapshot_epochs:
            sha256 = write_tensors(self.folder, snapshot_name(epoch + 1), self.model.state_dict(), {})
            self.snapshots.append(Snapshot(epoch=epoch + 1, weights_sha256=sha256, cost=self._cost()))

    def _finish(self) -> None:
        """Puts averaged weights, if the options ask for them, into the model; re-estimates its statistics."""
        if not self.averages.apply(self.model) and not self.training.precise_bn:
            return
        epoch = self.training.epochs  # an order and augmentation that training did not see
        rows = list(self.feed.order(epoch))[: self.training.bn_reestimate_batches]

        def run_step(numbered: tuple[int, Tensor]) -> None:
            number, positions = numbered
            with self.meter.timed("train"), self.meter.counting_flops(fresh=number == 0):
                for i, part in enumerate(positions.chunk(self.training.accumulate)):  # as in training
                    self._method_step(self.feed.batch(epoch, self.steps + number, part, number=i), 1.0)
                self.model.zero_grad(set_to_none=True)

        parts = self.model._modules.get(TRAINING_ONLY)
        before = copy.deepcopy(parts.state_dict()) if parts is not None else {}
        reestimate(self.model, enumerate(rows), run_step)
        if parts is not None:  # what they have learnt, counted or moved on to is training's, not of these steps
            parts.load_state_dict(before)
        self._check()

    def _cost(self) -> Cost:
        self.meter.settle()
        return Cost(
            wall_s=dict(self.meter.seconds),
            images=self.step * self.training.batch_size,
            forward=dict(self.meter.forward),
            backward=dict(self.meter.backward),
            flops=self.meter.flops,
            peak_memory_bytes=self.meter.peak_memory_bytes,
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            precision=self.precision,
        )

    def _save(self) -> None:
        """Writes a checkpoint; a run that has diverged fails here instead."""
        self._check()
        if self.folder is None:
            return
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": named_state(self.model, self.optimizer),
            "average": self.averages.weights,
            "sum": self.sums,
        }
        values = {
            "step": self.step,
            "averaged": self.averages.count,
            "history": [epoch.model_dump() for epoch in self.history],
            "snapshots": [snapshot.model_dump() for snapshot in self.snapshots],
            "meter": self.meter.state(),
            "made": self._made,
        }
        save(self.folder, Checkpoint(tensors, values))

    @property
    def _made(self) -> str:
        """What decides the last bits of every result here."""
        return f"{device_name(self.device)}, {torch.get_num_threads()} threads, {self.precision}"

    def _resume(self) -> None:
        found = load(self.folder) if self.folder is not None else None
        if found is None:
            return
        if found.values["made"] != self._made:
            raise UserError(
                f"{self.folder}: training began with {found.values['made']} and would go on with {self._made}, which "
                "rounds differently; go on as it began (--device, --threads), or remove the folder to begin anew"
            )
        self.model.load_state_dict(dict(found.tensors["model"]))
        restore_state(self.model, self.optimizer, found.tensors["optimizer"])
        self.averages.restore(self.model, found.tensors["average"], found.values["averaged"])
        self.sums = {name: value.to(self.device) for name, value in found.tensors["sum"].items()}
        self.history = [Epoch.model_validate(epoch) for epoch in found.values["history"]]
        self.snapshots = [Snapshot.model_validate(snapshot) for snapshot in found.values["snapshots"]]
        self.step = found.values["step"]
        self.meter.restore(found.values["meter"])
