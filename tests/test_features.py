import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robusteval import models
from robusteval.branches import add_branches, use_branch
from robusteval.errors import UserError
from robusteval.features import captured, classifier, last_stage, penultimate
from robusteval.method import attach
from robusteval.testing import TinyNet, example_batch


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", [f"layer4.{block}.bn{i}" for block in (0, 1) for i in (1, 2)]),
        ("resnet8", ["layer3.0.bn1", "layer3.0.bn2"]),
        ("preact_resnet18", [*[f"layer4.{block}.bn{i}" for block in (0, 1) for i in (1, 2)], "bn"]),
        ("wrn_16_4", [*[f"block3.layer.{block}.bn{i}" for block in (0, 1) for i in (1, 2)], "bn1"]),
    ],
)
def test_the_last_stage_of_every_family(name, expected):
    network = models.build(name, classes=10)
    assert list(last_stage(network)) == expected
    add_branches(network, ["aux"])
    attach(network, other=nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    assert list(last_stage(network)) == expected
    assert classifier(network) == ("fc" if name.startswith("wrn") else "linear")


def test_a_network_without_stages_has_its_last_norm():
    assert last_stage(TinyNet()) == ("bn2",)
    assert classifier(TinyNet()) == "head"
    with pytest.raises(UserError, match="Conv2d: has no linear layer"):
        classifier(nn.Conv2d(3, 3, 1))


def test_what_is_captured_leads_to_the_logits():
    model, x = TinyNet(), example_batch(8).x
    with captured(model, ["bn2", "conv1"]) as kept, penultimate(model) as features:
        logits = model(x)
    torch.testing.assert_close(kept["conv1"], F.conv2d(x, model.conv1.weight, padding=1))
    pooled = F.relu(kept["bn2"]).mean((2, 3))
    torch.testing.assert_close(features[0], pooled + model.frozen(pooled))
    torch.testing.assert_close(model.head(features[0]), logits)
    (gradient,) = torch.autograd.grad(features[0].sum(), model.conv2.weight)
    assert gradient.abs().sum() > 0
    model(x)
    assert len(features) == 1  # the hooks are gone


def test_each_pass_through_a_branch_is_captured():
    model, x = TinyNet(), example_batch(8).x
    add_branches(model, ["aux"])
    with torch.no_grad():
        model.bn2.aux_bn["aux"].bias.add_(1)
    with penultimate(model) as features:
        model(x)
        with use_branch(model, "aux"):
            model(x)
    assert len(features) == 2
    assert not torch.equal(*features)
