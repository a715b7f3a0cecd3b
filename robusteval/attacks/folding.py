"""The network that an attack follows: in eval mode BatchNorm is affine and can be part of the convolution before it."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robusteval.modes import evaluating, true_float32

TOLERANCE = 1e-4
"""The largest difference of logits, relative to the largest of them, that rounding may make."""


def folded(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy of the network in which BatchNorm layers are merged into the convolutions that they follow.

    It computes the same function with fewer passes over memory: about a fifth less time for a gradient of a ResNet-20
    on a CPU. What follows what is seen in a forward pass, and the copy is only used if its logits agree with the
    network's; else, and where nothing can be merged, the network itself comes back. So it does for networks that
    cannot be copied or that give other logits every time.

    Args:
        model: the network, on the device of x; unchanged.
        x: float32 (B, 3, H, W) in [0, 1], a few images to try it on.
    """
    if not any(type(module) is nn.BatchNorm2d for module in model.modules()):
        return model
    try:
        copy = deepcopy(model)
    except (RuntimeError, TypeError):  # tensors with a history, generators, open files
        return model
    with evaluating(copy), torch.autocast(x.device.type, enabled=False), true_float32():
        before, pairs = _followed(copy, x)
        if not pairs:
            return model
        for norm, convolution in pairs.items():
            merged = fuse_conv_bn_eval(copy.get_submodule(convolution), copy.get_submodule(norm))  # type: ignore[type-var, arg-type]  # `_followed` names modules of these types
            copy.set_submodule(convolution, merged)
            copy.set_submodule(norm, nn.Identity())
        with torch.no_grad():
            same = torch.allclose(copy(x), before, rtol=0.0, atol=TOLERANCE * float(before.abs().max()))
    copy.requires_grad_(False)
    return copy.train(model.training) if same else model


def _followed(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, str]]:
    """The logits, and by the name of each BatchNorm that of the convolution whose output went there and only there."""
    outputs: list[tuple[str, Tensor]] = []
    pairs: dict[str, str] = {}
    hooks = []
    for name, module in model.named_modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(partial(_note, outputs, name)))
        elif type(module) is nn.BatchNorm2d and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(partial(_pair, outputs, pairs, name)))
    with torch.enable_grad():
        logits = model(x.clone().requires_grad_())
    for hook in hooks:
        hook.remove()
    if not isinstance(logits, Tensor) or logits.grad_fn is None:
        return x, {}
    uses = _uses(logits)
    names = Counter(name for name, _ in outputs)  # a layer that is used twice cannot take over what follows one use
    sole = {name for name, output in outputs if names[name] == 1 and uses[output.grad_fn] == 1}
    return logits.detach(), {norm: name for norm, name in pairs.items() if name in sole}


def _uses(logits: Tensor) -> Counter[object]:
    """How many operations take what each operation gave, by its node in the graph of gradients."""
    uses: Counter[object] = Counter()
    seen, left = {logits.grad_fn}, [logits.grad_fn]
    while left:
        node = left.pop()
        for other, _ in node.next_functions if node is not None else ():
            uses[other] += 1
            if other not in seen:
                seen.add(other)
                left.append(other)
    return uses


def _note(outputs: list[tuple[str, Tensor]], name: str, _module: nn.Module, _given: object, output: Tensor) -> None:
    outputs.append((name, output))


def _pair(
    outputs: list[tuple[str, Tensor]], pairs: dict[str, str], norm: str, _module: nn.Module, given: tuple[Tensor, ...]
) -> None:
    for name, output in outputs:
        if output is given[0]:
            pairs[norm] = name
