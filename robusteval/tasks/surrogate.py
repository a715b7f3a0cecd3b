"""Examples that an attack makes through one network, judged by others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robusteval.attacks import PgdSearch
from robusteval.attacks.objectives import negative_margin
from robusteval.attacks.search import Query, State
from robusteval.data.sets import ImageSet
from robusteval.tasks.portions import Portion, attack, portions, query_of
from robusteval.tasks.predict import right
from robusteval.tasks.task import Context, Outcomes


@dataclass(frozen=True)
class FurthestAstray:
    """A `Search` that takes every step of a `PgdSearch` and hands back the iterate with the least margin.

    The first iterate that the attacked network errs on has barely crossed that network's boundary, and need not have
    crossed another's. This one has gone furthest beyond it. It is misclassified iff any iterate is, so the attacked
    network itself is right on exactly the images that the search which stops early leaves standing.

    Attributes:
        pgd: the attack; images that are wrong unchanged are attacked like the others.
    """

    pgd: PgdSearch

    @property
    def steps(self) -> int:
        """See `Search`; one more than the attack's, to look at its last iterate."""
        return self.pgd.steps + 1

    def begin(self, query: Query, state: State) -> State:
        """See `Search`."""
        none = torch.full(state["y"].shape, -torch.inf, device=state["y"].device)
        return self.pgd.begin(query, state) | {"lead": none}

    def step(self, query: Query, state: State) -> State:
        """See `Search`; no image is ever done before its time."""
        point, y = state["point"], state["y"]
        logits, gradient = query.gradient(point, lambda logits: self.pgd.value(logits, state))
        # What is no number counts as furthest astray: whoever judges the example refuses it.
        lead = negative_margin(logits, y).nan_to_num(nan=torch.inf)
        further = lead > state["lead"]
        example = torch.where(further.view(-1, *[1] * (point.ndim - 1)), point, state["example"])
        following = self.pgd.threat.ball(state["x"]).step(point, gradient, self.pgd.size)
        return state | {"point": following, "example": example, "lead": torch.maximum(lead, state["lead"])}


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What networks made of the examples.

    Attributes:
        right: by network: on which images' examples it is right. Whether it is right on the images is another question.
        passes: images passed forward and backward by the attack, padding included.
        examples: those of the first images, float32 (k, 3, H, W) on the CPU.
    """

    right: Mapping[str, Outcomes]
    passes: int
    examples: Tensor


def judged(
    attacked: nn.Module,
    judges: Mapping[str, nn.Module],
    data: ImageSet,
    pgd: PgdSearch,
    context: Context,
    *,
    key: str,
    keep: int = 0,
) -> Verdicts:
    """What networks make of the examples of all images (`FurthestAstray`), after ``advance`` was told of each step.

    Args:
        attacked: the network that the attack goes through.
        judges: name to network that is asked about the examples.
        data: images and labels.
        pgd: the attack.
        context: where and how.
        key: of what is drafted; another one for every call of a task.
        keep: of so many images, from the first, the examples are handed back.

    Raises:
        OutsideTheBall: the attack is wrong.
        UserError: see `robusteval.tasks.predict.logits`.
    """
    passes, examples = 0, []
    found = {name: np.zeros(len(data.labels), dtype=np.bool_) for name in judges}
    for portion in portions(data, context):
        place = f"{key} {portion}"
        part = context.draft.read(place)
        if part is None:
            part = _judged(attacked, judges, portion, pgd, context, classes=len(data.classes), keep=keep)
            context.draft.write(place, part)
        else:
            context.progress.advance(len(portion.y) * FurthestAstray(pgd).steps)
        for name, outcomes in zip(found, part["right"], strict=True):
            found[name][portion.rows] = outcomes
        examples.append(torch.from_numpy(part["examples"]))
        passes += int(part["passes"])
    return Verdicts(found, passes, torch.cat(examples))


def _judged(
    attacked: nn.Module,
    judges: Mapping[str, nn.Module],
    portion: Portion,
    pgd: PgdSearch,
    context: Context,
    *,
    classes: int,
    keep: int,
) -> dict[str, npt.NDArray[Any]]:
    """For some images, which network is right on which example, (judges, n), the attack's passes, first examples."""
    query = query_of(attacked, context)
    everything = torch.ones_like(portion.y, dtype=torch.bool)
    made = attack(FurthestAstray(pgd), query, portion, everything, pgd.threat, context)
    verdicts = [
        right(model, made, portion.y, classes=classes, where=name, batch_size=context.batch_size).cpu().numpy()
        for name, model in judges.items()
    ]
    kept = made[: max(keep - portion.rows.start, 0)].cpu().numpy()
    return {"right": np.stack(verdicts), "passes": np.array(query.forward + query.backward), "examples": kept}
