import copy

import pytest
import torch
from torch import nn

from robusteval.modes import attack_mode, evaluating, frozen_statistics
from robusteval.testing import TinyNet


def flags(model):
    return {name: module.training for name, module in model.named_modules()}


def test_flags_come_back_module_by_module():
    model = TinyNet().train()
    model.frozen.eval()  # a frozen part that a blanket train() would wake
    before = flags(model)
    assert len(set(before.values())) == 2
    with pytest.raises(KeyError), evaluating(model):
        assert not any(flags(model).values())
        raise KeyError
    assert flags(model) == before


def test_frozen_statistics_normalise_by_the_batch_and_update_nothing():
    layer = nn.Sequential(nn.BatchNorm2d(3)).train()
    x = torch.rand(5, 3, 4, 4) + 2
    before = copy.deepcopy(layer.state_dict())
    with frozen_statistics(layer):
        out = layer(x)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)
    layer(x)
    assert int(layer[0].num_batches_tracked) == 1, "updates go on afterwards"


def test_frozen_statistics_leave_eval_layers_alone():
    layer = nn.Sequential(nn.BatchNorm2d(3)).eval()
    x = torch.rand(5, 3, 4, 4)
    with frozen_statistics(layer):
        torch.testing.assert_close(layer(x), x / (1 + 1e-5) ** 0.5)


@pytest.mark.parametrize(("mode", "updates", "uses_batch"), [("eval", 0, False), ("train", 1, True)])
def test_attack_modes(mode, updates, uses_batch):
    layer = nn.Sequential(nn.BatchNorm2d(3)).train()
    x = torch.rand(5, 3, 4, 4) + 2
    with attack_mode(layer, mode):
        out = layer(x)
    assert int(layer[0].num_batches_tracked) == updates
    assert bool(out.mean().abs() < 1e-3) == uses_batch
