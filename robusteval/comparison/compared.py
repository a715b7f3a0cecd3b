"""Two results, run by run and score by score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from robusteval.comparison.branches import Facing, Named, having, others
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
        scores: of the branches that were asked for, else of the deployed ones, whatever their names.
        others: of the other branches, by name; none where branches were asked for.
        costs: of training.
        changes: what differs before any number.
        cautions: what to know; numbers that they are about are not subtracted.
    """

    first: Side
    second: Side
    scores: tuple[ScoreLine, ...]
    others: tuple[Facing, ...]
    costs: tuple[Expense, ...]
    changes: tuple[Section, ...]
    cautions: tuple[Caution, ...]

    @property
    def same_weights(self) -> bool:
        """Whether both are the very same networks, if perhaps another branch of them."""
        return None not in self.first.weights and self.first.weights == self.second.weights

    @property
    def same_runs(self) -> bool:
        """Whether both are the very same trainings, so that nothing can differ but the branch."""
        ours, theirs = ([stored.folder.resolve() for stored in side.runs] for side in (self.first, self.second))
        return ours == theirs

    @property
    def same(self) -> bool:
        """Whether both are the very same branches, and so are all numbers that could be subtracted."""
        lines = [*self.scores, *(line for facing in self.others for line in facing.scores)]
        alike = self.same_weights and self.first.branch == self.second.branch
        return alike and not any(line.difference for line in lines)


@dataclass(frozen=True)
class Comparison:
    """A against B.

    Attributes:
        pairs: what faces each other.
        only_first, only_second: runs that face nobody.
        level: the coverage of each interval, and 1 less the probability of one wrong verdict among all scores of pairs,
            and of one among all of their other branches.
        unreadable: why outcomes of single images could not be read; what they would have told is ``not tested``.
    """

    pairs: tuple[Pair, ...]
    only_first: tuple[StoredRun, ...]
    only_second: tuple[StoredRun, ...]
    level: float
    unreadable: tuple[str, ...]

    @property
    def tests(self) -> int:
        """How many tests the correction of the pairs' p-values is over."""
        return sum(line.p is not None for pair in self.pairs for line in pair.scores)

    @property
    def tests_of_others(self) -> int:
        """How many tests the correction of the p-values of other branches is over."""
        return sum(line.p is not None for pair in self.pairs for facing in pair.others for line in facing.scores)


def compare(
    first: Sequence[StoredRun],
    second: Sequence[StoredRun],
    *,
    by: By = "cell",
    branches: Named = (None, None),
    beside: Sequence[StoredRun] = (),
    each_corruption: bool = False,
    level: float = 0.95,
) -> Comparison:
    """The runs of A and B, and how B's numbers differ from A's.

    Differences are B less A, of the same test images: the exact test of McNemar with Tango's interval for answers that
    are right or wrong, paired t for means over corruptions and for H-scores (delta method), t over seeds and images
    where a side has several seeds. Numbers that are not of the same thing (other images, attack, corruptions, task
    version, or doubtful ones) are given for both sides and never subtracted.

    Verdicts are by p-values after Holm's correction over a family of tests. There are two, since there are two
    questions: whether B is better than A, which the deployed branches answer (or those that were asked for), and how
    the other branches differ, which nobody may have asked. So no verdict on what is deployed depends on how many
    branches there are beside it; that any verdict of the two families is wrong has twice the probability of one.

    Args:
        first: A's runs, e.g. from `robusteval.store.find_runs`.
        second: B's.
        by: which runs face each other; see `robusteval.comparison.match`.
        branches: A's and B's BatchNorm branch; None is the deployed one. Runs without the branch are left out.
        beside: other runs, among which the costs of teachers are looked up.
        each_corruption: whether the corruptions behind a mean have lines of their own; each is a test more. Those of
            other branches have none.
        level: see `Comparison`; in (0, 1).

    Raises:
        UserError: ``by="side"``, and the runs of a side are no seeds of one configuration; no run of a side has the
            branch.
    """
    matching = match(having(first, branches[0], side="A"), having(second, branches[1], side="B"), by=by)
    outcomes = Outcomes()
    known = (*first, *second, *beside)
    sides = [(replace(a, chosen=branches[0]), replace(b, chosen=branches[1])) for a, b in matching.pairs]
    pairs = [_pair(a, b, known, outcomes, each_corruption=each_corruption, level=level) for a, b in sides]
    found = tuple(_corrected(pairs, level=level))
    return Comparison(found, matching.only_first, matching.only_second, level, outcomes.unreadable)


def _corrected(pairs: Sequence[Pair], *, level: float) -> Iterable[Pair]:
    """The pairs with verdicts: deployed branches are one family of tests, all others another."""
    scores = iter(corrected([line for pair in pairs for line in pair.scores], level=level))
    beside = [line for pair in pairs for facing in pair.others for line in facing.scores]
    of_others = iter(corrected(beside, level=level))
    for pair in pairs:
        now = tuple(next(scores) for _ in pair.scores)
        facing = (replace(one, scores=tuple(next(of_others) for _ in one.scores)) for one in pair.others)
        yield replace(pair, scores=now, others=tuple(facing))


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
    rows = ours[first.branch], theirs[second.branch]
    lines = score_lines(*rows, shown, outcomes, each_corruption=each_corruption, level=level)
    beside, about_branches = others(first, second, (ours, theirs), shown, outcomes, level=level)
    costs, about_costs = expenses(*rows)
    cautions = gathered([*unfinished(first, second), *lines.cautions, *about_branches, *about_costs])
    return Pair(first, second, lines.scores, beside, costs, changes(first, second, rows), cautions)
