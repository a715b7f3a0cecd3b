"""Robust accuracy: attacks one after another, each on the images that those before it left standing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robusteval.attacks.doubts import Subject, examine, state_of
from robusteval.attacks.doubts.subject import logits_of
from robusteval.attacks.geometry import check_inside
from robusteval.attacks.objectives import Objective
from robusteval.attacks.search import GPU_SLOTS, SLOTS, Query, Search, Threat, run
from robusteval.data.sets import ImageSet
from robusteval.losses import margin
from robusteval.randomness import Stream
from robusteval.records import Scalar
from robusteval.tasks.predict import right, to_input
from robusteval.tasks.task import Context, Observation, Outcomes, accuracy

EXAMINATION = 200
"""Steps of PGD that the examination of a number costs for each image, about."""

FILLS = 16
"""Images are taken in portions of so many times the slots: a portion lies on the device as float32, and is drafted."""


def robust_accuracy(
    task: str,
    models: Mapping[str, nn.Module],
    data: ImageSet,
    context: Context,
    *,
    stages: Sequence[Stage],
    threat: Threat,
    where: Mapping[str, Scalar],
    limit: int | None = None,
    checked: int = 0,
    losses: Sequence[Objective] = (),
) -> Iterator[Observation]:
    """The robust accuracy of each network attacked through itself, with its verdict.

    Args:
        task: its name, for records and for the display.
        models: branch name to network.
        data: the images.
        context: where and how.
        stages: the attacks, in order.
        threat: what they may do.
        where: what else distinguishes the number; branches are added.
        limit: only so many images are attacked, from the first; None for all.
        checked: on so many of these, from the first, the number is examined (`robusteval.attacks.doubts`).
        losses: what the attacks drive up, for the examination.
    """
    attacked = data.first(limit)
    n = len(attacked.labels)
    checked = min(checked, n)
    context.progress.begin(task, len(models) * (n * work(stages) + checked * EXAMINATION))
    for branch, model in models.items():
        before = state_of(model)
        stand = withstand(
            Target(model, branch), attacked, stages, threat, context, key=f"{task} {branch}", keep=checked
        )
        place = {"branch": branch, "attack_branch": branch, **where}
        measurement, outcomes = accuracy(task, "robust_accuracy", stand.robust, place)
        update: dict[str, Any] = {"passes": sum(stand.passes.values()) / n, "note": _course(stand)}
        if checked:
            few = attacked.first(checked)
            update["reasons"] = examine(
                Subject(
                    model=model,
                    attacked=model,
                    x=to_input(few.images, context.device),
                    y=few.labels.to(context.device),
                    index=torch.arange(checked, device=context.device),
                    classes=len(data.classes),
                    threat=threat,
                    robust=torch.from_numpy(stand.robust[:checked]).to(context.device),
                    examples=stand.examples.to(context.device),
                    rng=Stream.of(context.seed).at("doubts"),
                    search=stages[0].search,
                    losses=tuple(losses),
                    precision=context.precision,
                    others={other: network for other, network in models.items() if other != branch},
                    before=before,
                    images=n,
                    available=data.available,
                )
            )
            doubtful = any(reason.level == "doubt" for reason in update["reasons"])
            update["trust"] = "flagged" if doubtful else "ok"
            context.progress.advance(checked * EXAMINATION)
        yield Observation(measurement.model_copy(update=update), outcomes)


def _course(stand: Stand) -> str:
    """How many images were left after each part of an ensemble; nothing where there is one."""
    left = {name.partition(" ")[0]: int(outcomes.sum()) for name, outcomes in stand.after.items()}
    if len(left) == 1:
        return ""
    return "still right: " + ", ".join(f"{count} after {part}" for part, count in left.items())


def steps_of_a_batch(context: Context) -> int:
    """How many steps of PGD, which are three passes of an image, judging a batch costs: units of tasks that do both."""
    return max(context.batch_size // 3, 1)


def work(stages: Sequence[Stage]) -> int:
    """Steps that an image takes if nothing breaks it."""
    return sum(stage.search.steps for stage in stages)


class Stage(NamedTuple):
    """An attack of several, with its name in records: parts of one kind share the first word of it.

    ``threat`` is what it may do, where that is less than the others may. ``exact``: its passes are float32 whatever the
    context says; half precision is too coarse for a search that steps to the boundary itself.
    """

    name: str
    search: Search
    threat: Threat | None = None
    exact: bool = False


@dataclass(frozen=True, eq=False)
class Stand:
    """What became of the images.

    Attributes:
        clean: which images the network gets right unchanged.
        robust: which of these it gets right after every stage, too.
        after: by stage: which images were still standing after it.
        examples: what the attacks handed back for the first images, float32 (k, 3, H, W) on the CPU: the example that
            broke an image; where none did, the one nearest to being misclassified; the image itself where it was wrong
            unchanged.
        passes: by stage: images passed forward and backward by it, padding included.
    """

    clean: Outcomes
    robust: Outcomes
    after: Mapping[str, Outcomes]
    examples: Tensor
    passes: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Target:
    """A network under attack.

    Attributes:
        model: the network that is judged.
        where: what it is, for errors.
        attacked: the network that the attacks see, where it is another one (a transfer attack).
    """

    model: nn.Module
    where: str
    attacked: nn.Module | None = None


def withstand(
    target: Target,
    data: ImageSet,
    stages: Sequence[Stage],
    threat: Threat,
    context: Context,
    *,
    key: str,
    keep: int = 0,
) -> Stand:
    """The images' fate, after ``advance`` was told of all steps (`work`) for each image.

    Args:
        target: the network.
        data: images and labels.
        stages: the attacks, in order.
        threat: what they may do; an example beyond it is an error.
        context: where and how.
        key: of what is drafted; another one for every call of a task.
        keep: of so many images, from the first, the examples are handed back.

    Raises:
        OutsideTheBall: an attack is wrong.
        UserError: see `robusteval.tasks.predict.logits`.
    """
    assert len({stage.name for stage in stages}) == len(stages), "stages are told apart by their names"
    n = len(data.labels)
    standing = np.zeros((1 + len(stages), n), dtype=np.bool_)
    examples = torch.empty(min(keep, n), *data.images.shape[1:])
    passes = np.zeros(len(stages), dtype=np.int64)
    portion = FILLS * (query_of(target.model, context).rows or SLOTS)
    for first in range(0, n, portion):
        rows = slice(first, min(first + portion, n))
        part = _portion(
            target,
            data,
            rows,
            stages,
            threat,
            context,
            key=f"{key} {rows.start}-{rows.stop}",
            keep=max(keep - first, 0),
        )
        standing[:, rows] = part["standing"]
        examples[rows] = torch.from_numpy(part["examples"])
        passes += part["passes"]
    after = {stage.name: standing[1 + i] for i, stage in enumerate(stages)}
    spent = {stage.name: int(passes[i]) for i, stage in enumerate(stages)}
    return Stand(standing[0], standing[-1], after, examples, spent)


def _portion(
    target: Target,
    data: ImageSet,
    rows: slice,
    stages: Sequence[Stage],
    threat: Threat,
    context: Context,
    *,
    key: str,
    keep: int,
) -> dict[str, npt.NDArray[Any]]:
    """The fate of some images, drafted after every stage: who stood before and after each, examples, passes."""
    x, y = to_input(data.images[rows], context.device), data.labels[rows].to(context.device)
    index = torch.arange(rows.start, rows.stop, device=context.device)

    def stands(images: Tensor, labels: Tensor) -> Tensor:
        if context.hardest:
            return torch.ones_like(labels, dtype=torch.bool)
        classes, size = len(data.classes), context.batch_size
        return right(target.model, images, labels, classes=classes, where=target.where, batch_size=size)

    part = context.draft.read(key)
    if part is None:
        standing = np.zeros((1 + len(stages), len(y)), dtype=np.bool_)
        standing[0] = stands(x, y).cpu().numpy()
        passes = np.zeros(len(stages), dtype=np.int64)
        part = {"standing": standing, "examples": x[:keep].cpu().numpy(), "passes": passes, "done": np.array(0)}
    context.progress.advance(work(stages[: int(part["done"])]) * len(y))
    for number in range(int(part["done"]), len(stages)):
        alive = torch.from_numpy(part["standing"][number]).to(context.device)
        context.progress.advance((len(y) - int(alive.sum())) * work(stages[number : number + 1]))
        search, own = stages[number].search, stages[number].threat or threat
        exact = replace(context, precision="float32") if stages[number].exact else context
        query = query_of(target.attacked or target.model, exact)
        slots = query.rows or SLOTS
        made = run(
            search,
            query,
            x[alive],
            y[alive],
            index[alive],
            slots=slots,
            early=not context.hardest,
            stepped=context.progress.advance,
        )
        check_inside(x[alive], made, norm=own.norm, epsilon=own.epsilon)
        standing = part["standing"].copy()
        standing[number + 1] = alive.masked_scatter(alive, stands(made, y[alive])).cpu().numpy()
        examples = part["examples"].copy()
        kept = torch.nonzero(alive[:keep]).squeeze(1)
        earlier = torch.from_numpy(examples).to(x.device)[kept]
        broken = torch.from_numpy(~standing[number + 1]).to(x.device)[kept]
        stronger = broken | _nearer(target.model, x[kept], earlier, made[: len(kept)], y[kept])
        chosen = torch.where(stronger.view(-1, 1, 1, 1), made[: len(kept)], earlier)
        examples[kept.cpu().numpy()] = chosen.cpu().numpy()
        passes = part["passes"].copy()
        passes[number] = query.forward + query.backward
        part = {"standing": standing, "examples": examples, "passes": passes, "done": np.array(number + 1)}
        context.draft.write(key, part)
    return part


def _nearer(model: nn.Module, x: Tensor, earlier: Tensor, later: Tensor, y: Tensor) -> Tensor:
    """Where the later example is nearer to being misclassified; the image itself is further than anything else."""
    if not len(x):
        return torch.empty(0, dtype=torch.bool, device=x.device)
    was_image, is_image = ((points == x).flatten(1).all(dim=1) for points in (earlier, later))
    less = margin(logits_of(model, later), y) < margin(logits_of(model, earlier), y)
    return ~is_image & (was_image | less)


def query_of(model: nn.Module, context: Context) -> Query:
    """The network as attacks ask it, with a new count of passes; on a GPU all batches have one shape."""
    rows = None if context.device.type == "cpu" else GPU_SLOTS
    return Query(model, precision=context.precision, rows=rows)
