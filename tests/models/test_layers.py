import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from robusteval.models import MODELS, build
from robusteval.models.layers import global_average, subsample

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [8, 7])
def test_layout_changes_neither_values_nor_gradients(layout, size):
    torch.manual_seed(0)
    x = torch.randn(4, 6, size, size)
    weight = torch.randn(4, 6), torch.randn(4, 10, -(-size // 2), -(-size // 2))
    mine, plain = (x.clone().contiguous(memory_format=LAYOUTS[layout]).requires_grad_() for _ in range(2))
    ours = global_average(mine), subsample(mine, padding=2)
    reference = plain.mean((2, 3)), F.pad(plain[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b)
    sum((a * w).sum() for a, w in zip(ours, weight, strict=True)).backward()
    sum((a * w).sum() for a, w in zip(reference, weight, strict=True)).backward()
    torch.testing.assert_close(mine.grad, plain.grad)
    assert ours[1].is_contiguous(memory_format=LAYOUTS[layout])


class Layouts(TorchDispatchMode):
    """Collects the costly operations that an activation in another layout than channels-last enters."""

    costly = ("convolution", "batch_norm", "threshold_backward", "add")

    def __init__(self):
        super().__init__()
        self.seen, self.strays = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        if any(part in name for part in self.costly):
            activations = [a for a in args if isinstance(a, torch.Tensor) and a.ndim == 4 and a.shape[2] > 3]
            self.seen += len(activations)
            self.strays += [name for a in activations if not a.is_contiguous(memory_format=torch.channels_last)]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith(("wrn_28", "wrn_34"))])
def test_a_training_step_in_channels_last_layout_never_leaves_it(name):
    """One stray layout makes the operations behind it ten times slower, without an error."""
    model = build(name, classes=10).to(memory_format=torch.channels_last).train()
    x = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with Layouts() as layouts, torch.autocast("cpu", dtype=torch.bfloat16):
        model(x).sum().backward()
    assert layouts.strays == []
    assert layouts.seen > 30
