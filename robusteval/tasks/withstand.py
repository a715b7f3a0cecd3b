"""Attacks one after another, each on the images that those before it left standing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robusteval.attacks.doubts.subject import logits_of
from robusteval.attacks.search import Query, Search, Threat
from robusteval.data.sets import ImageSet
from robusteval.losses import margin
from robusteval.progress import Silent
from robusteval.tasks.portions import Portion, at_a_time, attack, portions, query_of
from robusteval.tasks.predict import right
from robusteval.tasks.task import Context, Outcomes


class Stage(NamedTuple):
    """An attack of several, with its name in records.

    ``threat`` is what it may do, where that is less than the others may. ``exact``: its passes are float32 whatever the
    context says; half precision is too coarse for a search that steps to the boundary itself. ``then``: searches that
    follow, towards other classes or from other starts; see `robusteval.attacks.search.run`.
    """

    name: str
    search: Search
    threat: Threat | None = None
    exact: bool = False
    then: tuple[Search, ...] = ()


def work(stages: Sequence[Stage]) -> int:
    """Steps that an image takes if nothing breaks it."""
    return sum(stage.search.steps * (1 + len(stage.then)) for stage in stages)


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


def withstand(
    model: nn.Module,
    data: ImageSet,
    stages: Sequence[Stage],
    threat: Threat,
    context: Context,
    *,
    where: str,
    key: str,
    keep: int = 0,
) -> Stand:
    """The images' fate, after ``advance`` was told of all steps (`work`) for each image.

    Args:
        model: the network.
        data: images and labels.
        stages: the attacks, in order.
        threat: what they may do; an example beyond it is an error.
        context: where and how.
        where: what the network is, for errors.
        key: of what is drafted; another one for every call of a task.
        keep: of so many images, from the first, the examples are handed back.

    Raises:
        OutsideTheBall: an attack is wrong.
        UserError: see `robusteval.tasks.predict.logits`.
    """
    assert len({stage.name for stage in stages}) == len(stages), "stages are told apart by their names"
    n, classes = len(data.labels), len(data.classes)
    standing = np.empty((1 + len(stages), n), dtype=np.bool_)
    examples = torch.empty(min(keep, n), *data.images.shape[1:])
    passes = np.zeros(len(stages), dtype=np.int64)

    def stands(images: Tensor, labels: Tensor) -> Tensor:
        if context.hardest:
            return torch.ones_like(labels, dtype=torch.bool)
        return right(model, images, labels, classes=classes, where=where, batch_size=context.batch_size)

    lanes = [(number, search) for number, stage in enumerate(stages) for search in (stage.search, *stage.then)]
    for portion in portions(data, context):
        few = max(keep - portion.rows.start, 0)
        part = context.draft.read(f"{key} {portion}") or _untouched(portion, stands(portion.x, portion.y), stages, few)
        context.progress.advance(sum(search.steps for _, search in lanes[: int(part["done"])]) * len(portion.y))
        while int(part["done"]) < len(lanes):
            done, alive = int(part["done"]), torch.from_numpy(part["standing"][-1]).to(context.device)
            number = lanes[done][0]
            together = max(at_a_time(context) // max(int(alive.sum()), 1), 1)
            searches = [search for at, search in lanes[done : done + together] if at == number]
            stage = stages[number]
            query = query_of(model, context, exact=stage.exact)
            made, held = _met(searches, query, portion, alive, stage.threat or threat, context, stands)
            left = alive.masked_scatter(alive, held)
            after, spent = part["standing"].copy(), part["passes"].copy()
            after[number + 1 :] = left.cpu().numpy()
            spent[number] += query.forward + query.backward
            kept = _kept(model, portion, torch.from_numpy(part["examples"]), made, alive, ~left)
            part = {"standing": after, "examples": kept, "passes": spent, "done": np.array(done + len(searches))}
            context.draft.write(f"{key} {portion}", part)
        standing[:, portion.rows] = part["standing"]
        examples[portion.rows] = torch.from_numpy(part["examples"])
        passes += part["passes"]
    outcomes = {stage.name: standing[1 + i] for i, stage in enumerate(stages)}
    return Stand(
        standing[0], standing[-1], outcomes, examples, {stage.name: int(passes[i]) for i, stage in enumerate(stages)}
    )


def _untouched(portion: Portion, clean: Tensor, stages: Sequence[Stage], keep: int) -> dict[str, npt.NDArray[Any]]:
    """What is drafted of a portion: who stood before and after each stage so far, examples, passes, searches done."""
    standing = np.tile(clean.cpu().numpy(), (1 + len(stages), 1))
    passes = np.zeros(len(stages), dtype=np.int64)
    return {"standing": standing, "examples": portion.x[:keep].cpu().numpy(), "passes": passes, "done": np.array(0)}


def _met(
    searches: Sequence[Search],
    query: Query,
    portion: Portion,
    alive: Tensor,
    threat: Threat,
    context: Context,
    stands: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The examples of images that are still alive, and which of these images stand after all of the searches.

    An image leaves at an example that its search takes for misclassified. Where the verdict is another, because it is
    made in batches of another shape, the image meets the searches that are left.
    """
    (search, *then), early = searches, not context.hardest
    by: list[Tensor] = []
    made = attack(search, query, portion, alive, threat, context, then=then, early=early, ended=by.append)
    held = stands(made, portion.y[alive])
    due = held & (by[0] < len(then))
    if early and bool(due.any()):
        left, again = searches[int(by[0][due].min()) + 1 :], alive.masked_scatter(alive, due)
        told = replace(context, progress=Silent())  # all steps were told of
        made[due], held[due] = _met(left, query, portion, again, threat, told, stands)
    return made, held


def _kept(
    model: nn.Module, portion: Portion, examples: Tensor, made: Tensor, alive: Tensor, broken: Tensor
) -> npt.NDArray[np.float32]:
    """The examples of the first images, with those of a new attack where it broke an image or came nearer to it."""
    rows = torch.nonzero(alive[: len(examples)]).squeeze(1)
    x, y, later = portion.x[rows], portion.y[rows], made[: len(rows)]
    earlier = examples.to(x.device)[rows]
    stronger = broken[rows] | _nearer(model, x, earlier, later, y)
    chosen = examples.clone()
    chosen[rows.cpu()] = torch.where(stronger.view(-1, 1, 1, 1), later, earlier).cpu()
    return chosen.numpy()


def _nearer(model: nn.Module, x: Tensor, earlier: Tensor, later: Tensor, y: Tensor) -> Tensor:
    """Where the later example is nearer to being misclassified; the image itself is further than anything else."""
    if not len(x):
        return torch.empty(0, dtype=torch.bool, device=x.device)
    was_image, is_image = ((points == x).flatten(1).all(dim=1) for points in (earlier, later))
    less = margin(logits_of(model, later), y) < margin(logits_of(model, earlier), y)
    return ~is_image & (was_image | less)
