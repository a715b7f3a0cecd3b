"""Which figures a data set's section has."""

from __future__ import annotations

from collections.abc import Sequence

from robusteval.report.board.columns import Column
from robusteval.report.board.rows import Group
from robusteval.report.figures.curves import heat_map, training_curves
from robusteval.report.figures.plots import Plot
from robusteval.report.figures.radius import radius_plots
from robusteval.report.figures.tradeoffs import accuracies, cost_plot, tradeoff
from robusteval.report.text import clean

ATTACKS = 4
"""Under so many attacks accuracies are drawn: those that most rows were judged under."""


def figures(groups: Sequence[Group], shown: Sequence[Column]) -> list[Plot]:
    """The figures of a leaderboard, those first that sum it up; none where there is nothing to draw.

    Args:
        groups: of one data set, in order.
        shown: the leaderboard's columns.
    """
    attacks, omitted = _drawn(groups, [column for column in shown if column.kind == "attack"])
    cleans, corruptions = ([column for column in shown if column.kind == kind] for kind in ("clean", "corruption"))
    found = [tradeoff(groups, column) for column in shown if column.kind == "error"]
    found += [accuracies(groups, across, column, omitted) for column in attacks for across in (*cleans, *corruptions)]
    found += [cost_plot(groups, column) for column in (*corruptions, *attacks)]
    found += radius_plots(groups)
    found += [training_curves(groups, key) for key in ("loss", "accuracy")]
    found += [heat_map(groups, column) for column in corruptions]
    return [plot for plot in found if plot is not None]


def _drawn(groups: Sequence[Group], attacks: Sequence[Column]) -> tuple[list[Column], str]:
    """The attacks that are drawn, in order, and a sentence about the others."""
    judged = {column.key: sum(group.head.value(column.key) is not None for group in groups) for column in attacks}
    most = sorted(judged, key=lambda key: -judged[key])[:ATTACKS]
    omitted = [clean(column.label, 40) for column in attacks if column.key not in most and judged[column.key]]
    words = f" Not drawn, of fewer rows or later in the table: {', '.join(omitted)}." if omitted else ""
    return [column for column in attacks if column.key in most], words
