"""Accuracy under attacks that were made through other methods' networks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from torch import nn

from robusteval.attacks.doubts import state_of
from robusteval.data.sets import ImageSet
from robusteval.errors import unknown
from robusteval.methods import METHODS
from robusteval.options import Count, options
from robusteval.progress import Silent
from robusteval.records import Measurement, Scalar
from robusteval.tasks.ball import Stepping
from robusteval.tasks.examination import UNCHECKED, Checked, subject_of, transferred
from robusteval.tasks.predict import judge
from robusteval.tasks.surrogate import FurthestAstray, judged
from robusteval.tasks.task import Context, Observation, accuracy


@options
class Transfer(Stepping, Checked):
    """Share of images that a branch gets right clean and under PGD through another method's deployed network.

    The other network is that of the run of the same architecture, data, training and seed in the same folder. The
    examples are made as in the task ``attack_matrix``. A branch that withstands white-box attacks better than these has
    gradients that mislead attacks (Athalye et al., 2018, arXiv:1802.00420, sec. 3.1). Where the source is the method
    itself, the examples are made on its own deployed branch. Bare checkpoints are not measured.

    Attributes:
        sources: the methods whose networks are attacked. One without such a run is recorded as missing, and measured
            by the next `robusteval run` that finds one.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "transfer"
    version: ClassVar[int] = 1

    sources: Annotated[tuple[str, ...], Field(min_length=1)] = ("standard", "pgd_at")
    limit: Count | None = None

    @model_validator(mode="after")
    def _known_and_distinct(self) -> Transfer:
        for source in self.sources:
            if source not in METHODS:
                raise unknown("sources", "method", source, METHODS)
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("sources: one is listed twice; allowed: each once")
        return self

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Robust accuracy of each network under each source's attack; see `Task`."""
        if context.origin is None:
            return
        data = data.first(self.limit)
        n = len(data.labels)
        clean = judge(models, data, replace(context, progress=Silent()))
        pgd = self.search(context.seed)
        steps = FurthestAstray(pgd).steps
        checked = min(self.checked, n)
        examination = len(models) * checked * pgd.steps
        context.progress.begin(self.name, len(self.sources) * (n * steps + examination))
        before = {branch: state_of(model) for branch, model in models.items()}
        for source in self.sources:
            surrogate = context.origin.sibling(source)
            if surrogate is None:
                yield from self._missing(source, models)
                context.progress.advance(n * steps + examination)
                continue
            # A draft is of this run's weights; that the source has others by now is for the key to tell.
            key = f"{self.name} {source} {_fingerprint(surrogate)}"
            verdicts = judged(surrogate, models, data, pgd, context, key=key, keep=checked)
            for branch, right in verdicts.right.items():
                where = self._where(branch, source)
                robust, verdict = clean[branch] & right, UNCHECKED
                if checked:
                    subject = subject_of(
                        models[branch],
                        data.first(checked),
                        context,
                        attacked=surrogate,
                        threat=self.threat,
                        robust=robust[:checked],
                        examples=verdicts.examples,
                        before=before[branch],
                        images=n,
                    )
                    verdict = transferred(subject, source, pgd)
                    context.progress.advance(checked * pgd.steps)
                yield verdict.of(accuracy(self.name, "robust_accuracy", robust, where), passes=verdicts.passes / n)

    def _missing(self, source: str, models: Mapping[str, nn.Module]) -> Iterator[Observation]:
        """What could not be measured without a run of the source."""
        note = f"there is no run of method {source} with this data set, architecture, training and seed yet"
        for branch in models:
            where = self._where(branch, source)
            yield Observation(
                Measurement(task=self.name, metric="robust_accuracy", value=None, n=0, where=where, note=note), None
            )

    def _where(self, branch: str, source: str) -> dict[str, Scalar]:
        return {"branch": branch, "made_on": source, **self.place}


def _fingerprint(network: nn.Module) -> str:
    """Sixteen hexadecimal digits that tell networks of one architecture apart by their weights."""
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
