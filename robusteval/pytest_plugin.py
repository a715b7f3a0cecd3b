"""The gate as a pytest fixture, for projects with networks of their own.

def test_the_network_is_as_robust_as_before(robusteval_check):
    robusteval_check(my_network(), baseline="baseline.json", data="cifar10-sample", tasks=["clean", "pgd"])

``pytest --robusteval-update`` writes the baseline. pytest loads this module at every start, whether or not a test uses
it: it imports nothing else of robusteval before that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from robusteval.check import Gate
    from robusteval.evaluation import Data, Tasks
    from robusteval.store import StoredRun
    from robusteval.subjects import Model

MARKER = "robusteval"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--robusteval-update``."""
    parser.getgroup("robusteval").addoption(
        "--robusteval-update",
        action="store_true",
        help="Write the baselines that the fixture robusteval_check compares with, and compare nothing.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known.

    Raises:
        UsageError: baselines are to be written, and by several processes (pytest-xdist), of which each would write
            what it read before the others wrote theirs.
    """
    if config.getoption("--robusteval-update") and config.getoption("dist", "no") != "no":
        raise pytest.UsageError(
            "--robusteval-update: processes would overwrite what others of them write; allowed with it: -n 0"
        )
    text = "compares a network or run with a baseline; what it is given are defaults of the fixture robusteval_check"
    config.addinivalue_line("markers", f"{MARKER}(**arguments): {text}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that use the fixture, so that ``-m robusteval`` chooses them."""
    for item in items:
        if "robusteval_check" in getattr(item, "fixturenames", ()) and item.get_closest_marker(MARKER) is None:
            item.add_marker(MARKER)


class Check(Protocol):
    """What the fixture is."""

    def __call__(
        self,
        subject: Model | Sequence[Model] | str | Path | StoredRun,
        *,
        baseline: str | Path | None = None,
        data: Data | None = None,
        tasks: Tasks | None = None,
        name: str | None = None,
        tolerance: float | Mapping[str, float] | None = None,
        false_alarms: float | None = None,
        limit: int | None = None,
        data_dir: str | Path | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> Gate:
        """The gate's findings, none of which is an error.

        With one network on each side, the baseline's and this one, it tells whether this very network is worse. If
        networks are trained anew before each check, give several, trained with different seeds, when the baseline is
        written: see `robusteval.check.drops`.

        Args:
            subject: a network, networks trained with different seeds, or a run or the folder of some.
            baseline: the file, relative to the folder of the test; each call has a cell of its own in it.
            data: as for `robusteval.evaluate`; ``cifar10-sample`` by default.
            tasks: as for `robusteval.evaluate`; ``clean`` by default.
            name: of the cell; by default the test's.
            tolerance: a drop that nobody minds: for all numbers, or by number or kind (clean, corruption, attack).
            false_alarms: how often, at most, networks that are as good fail.
            limit: only so many images, from the first.
            data_dir: folder with data sets.
            device: where.
            threads: on the CPU.

        Raises:
            Failed: a number fell, is missing or cannot be compared, there is no baseline, or something is wrong with
                what was given (`pytest.fail`, one message without a traceback).
            Skipped: with ``--robusteval-update``, after writing the baseline.
        """


@pytest.fixture
def robusteval_check(request: pytest.FixtureRequest) -> Check:
    """Compares a network or run with a baseline, and fails the test where a number fell beyond chance; see `Check`."""
    marker = request.node.get_closest_marker(MARKER)
    defaults: dict[str, Any] = dict(marker.kwargs) if marker else {}

    def check(subject: Any, **arguments: Any) -> Gate:
        from robusteval.check.fixture import Asked, fell, renewed
        from robusteval.errors import UserError

        given = {key: value for key, value in arguments.items() if value is not None}
        folder = request.node.path.parent
        try:
            asked = Asked.of({"name": request.node.name, **defaults, **given})
            if request.config.getoption("--robusteval-update"):
                pytest.skip(renewed(subject, asked, folder))
            gate, text = fell(subject, asked, folder)
        except UserError as error:
            pytest.fail(str(error), pytrace=False)
        if gate.red:
            pytest.fail(text, pytrace=False)
        return gate

    return check
