"""Clean accuracy of networks whose score is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from pydantic import ValidationError
from torch import nn

from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.stats import wilson
from robusteval.tasks import Clean, Context


def test_scores_are_the_known_ones(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    found = {str(o.measurement.where["branch"]): o for o in Clean().measure(known, data, context)}
    assert list(found) == ["reads", "constant", "linear"]
    reads, constant, linear = (found[name].measurement for name in found)
    assert (reads.value, reads.high) == (1.0, 1.0)
    share = int((data.labels == 2).sum())
    assert constant.value == share / 53
    assert (constant.low, constant.high) == wilson(share, 53)
    assert linear.value == 1.0
    assert {m.n for m in (reads, constant, linear)} == {53}
    assert {(m.task, m.metric, tuple(m.where)) for m in (reads, constant, linear)} == {
        ("clean", "accuracy", ("branch",))
    }
    np.testing.assert_array_equal(found["constant"].outcomes, (data.labels == 2).numpy())


def test_limit_takes_the_first_images(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    found = list(Clean(limit=20).measure({"constant": known["constant"]}, data, context))
    assert found[0].measurement.n == 20
    np.testing.assert_array_equal(found[0].outcomes, (data.labels[:20] == 2).numpy())
    with pytest.raises(ValidationError):
        Clean(limit=0)
    with pytest.raises(UserError, match=r"suite.toml: limit: .*greater than or equal to 1 \(given: 0\)"):
        build(Clean, {"limit": 0}, "suite.toml")
