"""Networks with BatchNorm merged into convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robusteval import models
from robusteval.attacks.folding import folded

X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trained(model: nn.Module) -> nn.Module:
    """The network with statistics and scales that are not those of a new layer."""
    draws = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight.data, 0.5), (module.bias.data, -0.5)):
                tensor.copy_(low + torch.rand(tensor.shape, generator=draws))
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=draws) / 10)
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=draws))
    return model.eval()


@pytest.mark.parametrize(("name", "left"), [("resnet8", 0), ("resnet20", 0), ("preact_resnet18", 9), ("wrn_16_4", 6)])
def test_every_batchnorm_behind_a_convolution_is_merged(name: str, left: int) -> None:
    """In pre-activation networks layers that follow a sum stay; the function is the same."""
    model = trained(models.build(name, classes=10)).double()  # no rounding decides on which side of a ReLU it falls
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copy = folded(model, X.double())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in copy.modules()) == left
    x = X.double().requires_grad_()
    (expected,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    (found,) = torch.autograd.grad(copy(x)[:, 0].sum(), x)
    torch.testing.assert_close(copy(x), model(x))
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in copy.parameters())


class Twice(nn.Module):
    """A convolution whose output goes to BatchNorm and elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out = self.conv(x)
        return (self.norm(out) * out).mean(dim=(2, 3))


class Again(Twice):
    """A convolution that is used twice, once with BatchNorm behind it."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.norm(self.conv(x)).mean(dim=(2, 3)) + self.conv(x.flip(-1)).mean(dim=(2, 3))


class Noisy(Twice):
    """Other logits every time."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out = self.norm(self.conv(x)).mean(dim=(2, 3))
        return out + torch.randn_like(out)


class Uncopied(nn.Module):
    """It holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10)
        self.history = self.conv.weight * 2

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.norm(self.conv(x)).mean(dim=(2, 3))


@pytest.mark.parametrize("kind", [Twice, Again, Noisy, Uncopied])
def test_what_cannot_be_merged_is_left_alone(kind: type[nn.Module]) -> None:
    """The network itself comes back."""
    model = trained(kind())
    assert folded(model, X) is model


def test_a_network_without_batchnorm_is_left_alone() -> None:
    """There is nothing to merge."""
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert folded(model, X) is model
