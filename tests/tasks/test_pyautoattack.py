"""The reference implementation of AutoAttack: a closed form, and agreement with ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.data import load
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.models.weights import load_state, read_state
from robusteval.tasks import AutoAttack, Context, PyAutoAttack, pyautoattack
from robusteval.tasks.predict import to_input


def test_without_the_package_it_says_what_to_install(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyautoattack, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"no_such_package is not installed; pip install 'robusteval\[autoattack\]'$"):
        list(PyAutoAttack().measure({"main": known["linear"]}, data, context))


def test_robust_accuracy_of_a_linear_network(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    """Right within epsilon iff the margin to every class exceeds epsilon times the dual norm of their difference."""
    pytest.importorskip("pyautoattack", reason="compares with the package")
    model, data = known["linear"], data.first(12)
    weight = model.patterns.data.double()
    x = to_input(data.images, context.device).flatten(1).double() - 0.5
    apart = weight[data.labels].unsqueeze(1) - weight  # (n, 5, pixels)
    margins = torch.einsum("np,ncp->nc", x, apart)
    radii = margins / apart.abs().sum(2).clamp(min=1e-9)
    radius = radii.scatter(1, data.labels.unsqueeze(1), torch.inf).amin(1)
    epsilon = float(radius.sort().values[5:7].mean())
    (found,) = PyAutoAttack(epsilon=epsilon).measure({"main": model}, data, replace(context, batch_size=12))
    np.testing.assert_array_equal(found.outcomes, (radius > epsilon).numpy())
    assert found.measurement.where["attack"] == "standard"
    assert str(found.measurement.where["package"]).startswith("pyautoattack 0.")
    # It hands back the image itself where it failed, which is no sign of an attack that got nowhere.
    assert [reason.name for reason in found.measurement.reasons if reason.level == "doubt"] == []


@pytest.mark.data
@pytest.mark.slow
def test_ours_agrees_with_it_on_a_thousand_images() -> None:
    """Within 0.3 points, and not weaker, on an adversarially trained network."""
    pytest.importorskip("pyautoattack", reason="compares with the package")
    folder = os.environ.get("ROBUSTEVAL_CHECKPOINTS")
    if folder is None or "ROBUSTEVAL_DATA" not in os.environ or "ROBUSTEVAL_THOROUGH" not in os.environ:
        pytest.skip("takes an hour; needs ROBUSTEVAL_THOROUGH, ROBUSTEVAL_DATA and ROBUSTEVAL_CHECKPOINTS")
    network = Small()
    state = read_state(next(Path(folder).glob("*cnn_a_adv*")))
    load_state(network.layers, state, where="checkpoint")
    data = load("cifar10", "test").first(1000)
    context = Context(torch.device("cpu"), seed=0, deployed="main", batch_size=250)
    ours, theirs = (
        next(iter(task.measure({"main": network.eval()}, data, context))).measurement.value
        for task in (AutoAttack(epsilon=2 / 255, checked=0), PyAutoAttack(epsilon=2 / 255))
    )
    assert ours is not None
    assert theirs is not None
    assert theirs - 0.003 <= ours <= theirs + 0.001


class Small(nn.Module):
    """The network `cnn_a` of the checkpoints, without BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2048, 100),
            nn.ReLU(),
            nn.Linear(100, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.new_tensor([125.3, 123.0, 113.9]) / 255, x.new_tensor([63.0, 62.1, 66.7]) / 255
        return self.layers((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
