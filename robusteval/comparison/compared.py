"""Two results, run by run and score by score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robusteval.comparison.cautions import Caution, gathered, unfinished
from robusteval.comparison.changes import Section, changes
from robusteval.comparison.expenses import Expense, expenses
from robusteval.comparison.lines import ScoreLine, corrected, score_lines
from robusteval.comparison.readings import Outcomes, rows_of, shared_columns
from robusteval.comparison.sides import By, Side, match
from robusteval.store import StoredRun


@dataclass(frozen=True)
class Pair:
    """A configuration of A and the one of B that faces it.

    Attributes:
        first, second: their runs.
        scores: of the deployed branches.
        costs: of training.
        changes: what differs before any number.
        cautions: what to know; numbers that they are about are not subtracted.
    """

    first: Side
    second: Side
    scores: tuple[ScoreLine, ...]
    costs: tuple[Expense, ...]
    changes: tuple[Section, ...]
    cautions: tuple[Caution, ...]

    @property
    def same_weights(self) -> bool:
        """Whether both are the very same networks."""
        return None not in self.first.weights and self.first.weights == self.second.weights

    @property
    def same(self) -> bool:
        """Whether both are the very same networks, and so are all numbers that could be subtracted."""
        return self.same_weights and not any(line.difference for line in self.scores)


@dataclass(frozen=True)
class Comparison:
    """A against B.

    Attributes:
        pairs: what faces each other.
        only_first, only_second: runs that face nobody.
        level: the coverage of each interval, and 1 less the probability of one wrong verdict among all.
        unreadable: why outcomes of single images could not be read; what they would have told is ``not tested``.
    """

    pairs: tuple[Pair, ...]
    only_first: tuple[StoredRun, ...]
    only_second: tuple[StoredRun, ...]
    level: float
    unreadable: tuple[str, ...]

    @property
    def tests(self) -> int:
        """How many tests the correction of p-values is over."""
        return sum(line.p is not None for pair in self.pairs for line in pair.scores)


def compare(
    first: Sequence[StoredRun],
    second: Sequence[StoredRun],
    *,
    by: By = "cell",
    beside: Sequence[StoredRun] = (),
    each_corruption: bool = False,
    level: float = 0.95,
) -> Comparison:
    """The runs of A and B, and how B's numbers differ from A's.

    Differences are B less A, of the same test images: the exact test of McNemar with Tango's interval for answers that
    are right or wrong, paired t for means over corruptions and for H-scores (delta method), t over seeds and images
    where a side has several seeds. Verdicts are by p-values after Holm's correction over all of them. Numbers that are
    not of the same thing (other images, attack, corruptions, task version, or doubtful ones) are given for both sides
    and never subtracted.

    Args:
        first: A's runs, e.g. from `robusteval.store.find_runs`.
        second: B's.
        by: which runs face each other; see `robusteval.comparison.match`.
        beside: other runs, among which the costs of teachers are looked up.
        each_corruption: whether the corruptions behind a mean have lines of their own; each is a test more.
        level: see `Comparison`; in (0, 1).

    Raises:
        UserError: ``by="side"``, and the runs of a side are no seeds of one configuration.
    """
    matching = match(first, second, by=by)
    outcomes = Outcomes()
    known = (*first, *second, *beside)
    pairs = [_pair(*sides, known, outcomes, each_corruption=each_corruption, level=level) for sides in matching.pairs]
    lines = iter(corrected([line for pair in pairs for line in pair.scores], level=level))
    pairs = [replace(pair, scores=tuple(next(lines) for _ in pair.scores)) for pair in pairs]
    return Comparison(tuple(pairs), matching.only_first, matching.only_second, level, outcomes.unreadable)


def _pair(
    first: Side,
    second: Side,
    known: Sequence[StoredRun],
    outcomes: Outcomes,
    *,
    each_corruption: bool,
    level: float,
) -> Pair:
    """The pair with its lines before their correction."""
    named, shown = shared_columns(first, second)
    ours, theirs = (rows_of(side, named, shown, known) for side in (first, second))
    lines = score_lines(ours, theirs, shown, outcomes, each_corruption=each_corruption, level=level)
    costs, about_costs = expenses(ours, theirs)
    cautions = gathered([*unfinished(first, second), *lines.cautions, *about_costs])
    return Pair(first, second, lines.scores, costs, changes(first, second, (ours, theirs)), cautions)
