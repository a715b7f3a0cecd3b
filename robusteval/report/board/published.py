"""Published numbers beside measured ones, only where both are of the same kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from robusteval.options import fraction
from robusteval.report.board.columns import Column
from robusteval.report.board.rows import Group, judged_on
from robusteval.report.board.scores import Score
from robusteval.stats import Interval, t_interval

Cards = Mapping[str, Mapping[str, Any]]
"""Method name -> what is known about it, as plain data; all texts untrusted.

Keys: title, authors, venue, year, url, summary, reference, deviations; ``published``: mappings with dataset,
architecture, metric, value, sd, source as in `robusteval.method.Published`, ``options``: all of the method's, and
``train_images``, ``test_images``: the sizes of the data set, None if unknown.
"""

ATTACKS = ("autoattack", "pgd")
"""The tasks whose numbers are published with a threat model."""


class Comparison(NamedTuple):
    """A published number and the measured one.

    Attributes:
        group: the row.
        column: what was measured.
        value, sd, source: what the paper reports.
        measured: the row's score.
        interval: of the measured value: over test images for a run, over seeds for a mean; None if unknown.
        remarks: what differs.
    """

    group: Group
    column: Column
    value: float
    sd: float | None
    source: str
    measured: Score
    interval: Interval | None
    remarks: tuple[str, ...]

    @property
    def difference(self) -> float:
        """Measured minus published."""
        assert self.measured.value is not None, "compared numbers were measured"
        return self.measured.value - self.value


def comparisons(groups: Sequence[Group], shown: Sequence[Column], cards: Cards) -> list[Comparison]:
    """Every published number that has a measured counterpart: same method with the same options, data, architecture."""
    found = []
    for group in groups:
        for entry in cards.get(group.head.stored.run.method, {}).get("published", ()):
            if _same_training(group, entry):
                for column in shown:
                    score = group.head.scores.get(column.key)
                    if score is not None and score.value is not None and _same_kind(entry["metric"], column):
                        found.append(_comparison(group, column, score, entry))
    return found


def _same_training(group: Group, entry: Mapping[str, Any]) -> bool:
    """Whether the runs are what the paper trained, as far as names, images and hyper-parameters tell."""
    run = group.head.stored.run
    return (
        (run.dataset, run.architecture) == (entry["dataset"], entry["architecture"])
        and run.options == entry["options"]
        and run.train_data.n == entry["train_images"]
        and run.train_data.verified
        and all(test.verified for test in judged_on(group.head.stored))
    )


def _same_kind(metric: str, column: Column) -> bool:
    """Whether a column measures what a paper's metric names."""
    where = dict(column.measured[2])
    if metric == "clean":
        return column.kind == "clean"
    if metric == "corruption":
        benchmark = (where.get("corruptions"), where.get("severities")) == (15, 5) and "names" not in where
        return column.kind == "corruption" and benchmark
    task, *threat = metric.split()
    if task not in ATTACKS or len(threat) != 2 or column.kind != "attack" or column.measured[0] != task:
        return False
    if task == "autoattack" and where.get("attack") != "standard":
        return False
    return where.get("norm") == threat[0] and fraction(where.get("epsilon")) == fraction(threat[1])


def _comparison(group: Group, column: Column, score: Score, entry: Mapping[str, Any]) -> Comparison:
    interval = None if score.low is None or score.high is None else Interval(score.low, score.high)
    if score.seeds > 1:
        values = [row.value(column.key) for row in group.rows if row.kind == "run" and row.deployed]
        interval = t_interval([value for value in values if value is not None], low=0.0, high=1.0)
    remarks = []
    if column.kind == "corruption" and dict(column.measured[2]).get("source") != "official":
        remarks.append("not the same files: corrupted images generated here, the paper's are the published ones")
    if column.kind == "attack" and column.measured[0] == "pgd":
        remarks.append("the paper's PGD may differ in steps and restarts")
    training = group.head.stored.run.training
    if training.get("ema") or training.get("swa_start"):
        remarks.append("averaged weights; the paper's number is of plain ones")
    if entry["test_images"] is not None and score.n < entry["test_images"]:
        remarks.append(f"measured on {score.n:,} of {entry['test_images']:,} test images")
    return Comparison(group, column, entry["value"], entry["sd"], entry["source"], score, interval, tuple(remarks))
