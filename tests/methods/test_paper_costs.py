"""Training cost relative to standard training with the papers' settings, counted on a real ResNet-18.

The laws are 2 + 2n/3 (AdvProp) and 1 + k + 2k(n - 1)/3 (EntProp), in FLOPs: an attack pass needs no weight gradients.
"""

import pytest
import torch

from robusteval import models
from robusteval.cost import Meter
from robusteval.method import Batch, Setting
from robusteval.methods.advprop import AdvProp
from robusteval.methods.arat import ARAT
from robusteval.methods.augmix import AugMix
from robusteval.methods.counterbalancing_teacher import CounterbalancingTeacher
from robusteval.methods.entprop import EntProp
from robusteval.methods.fast_advprop import FastAdvProp
from robusteval.methods.fast_at import FastAT
from robusteval.methods.free_at import FreeAT
from robusteval.methods.invariance_pair import InvariancePair
from robusteval.methods.mixprop import MixProp
from robusteval.methods.mixup import MixUp
from robusteval.methods.pgd_at import PgdAT
from robusteval.methods.standard import Standard
from robusteval.randomness import Stream

N = 10
INDEX = torch.arange(N)
BATCH = Batch(
    x=Stream.of(0).uniform(INDEX, 3, 32, 32),
    y=INDEX % 10,
    index=INDEX,
    rng=Stream.of(1),
    classes=10,
    partner=Stream.of(2).uniform(INDEX, 3, 32, 32),
)


def measured(method):
    """FLOPs and backward passes per image of one step."""
    torch.manual_seed(0)
    network = models.build("resnet18", classes=10)
    teacher = models.build("resnet18", classes=10).eval() if method.teacher() else None
    model = method.wrap(network.train(), Setting(classes=10, images=N, batch_size=N, teacher=teacher))
    meter = Meter(network, torch.device("cpu"))
    with meter.running(), meter.counting_flops(fresh=True), torch.autocast("cpu", dtype=torch.bfloat16):
        method.step(model, BATCH, torch.autograd.backward)
    return meter.flops / N, {branch: count / N for branch, count in meter.backward.items()}


@pytest.fixture(scope="module")
def standard():
    return measured(Standard())[0]


def test_a_plain_step_is_three_forwards_less_the_gradient_of_the_image(standard):
    forward, image_gradient = 1_110_845_440, 2 * 64 * 27 * 32 * 32
    assert standard == 3 * forward - image_gradient


@pytest.mark.parametrize(
    ("method", "flops", "passes"),
    [
        (MixUp(), 1.0, {"main": 1}),
        (AdvProp(), 5.33, {"main": 1, "aux": 6}),
        (EntProp(k=0.2, steps=1), 1.20, {"main": 1, "aux": 0.2}),
        (EntProp(k=0.6, steps=1), 1.60, {"main": 1, "aux": 0.6}),
        (EntProp(k=0.2, steps=5), 1.735, {"main": 1, "aux": 1.0}),
        (EntProp(k=0.6, steps=5), 3.20, {"main": 1, "aux": 3.0}),
        (PgdAT(steps=10), 23 / 3, {"main": 11}),
        (AdvProp(epsilon=1 / 255, steps=1), 8 / 3, {"main": 1, "aux": 2}),
        (MixProp(), 2.0, {"main": 1, "aux": 1}),
        (FastAdvProp(), 1.2, {"main": 0.8, "aux": 0.4}),
        (ARAT(steps=2), 10 / 3, {"main": 1, "adv": 3}),
        (AugMix(), 3.0, {"main": 3}),
        (InvariancePair(), 2.0, {"main": 2}),
        (CounterbalancingTeacher(), 4 / 3, {"main": 1}),
        (FreeAT(), 1.0, {"main": 1}),
        (FastAT(), 5 / 3, {"main": 2}),
    ],
    ids=str,
)
def test_flops_relative_to_standard(standard, method, flops, passes):
    counted, backward = measured(method)
    assert counted / standard == pytest.approx(flops, rel=0.01)
    assert method.passes().flops == pytest.approx(flops, rel=0.01)
    assert backward == pytest.approx(passes)
    assert method.passes().backward_by_branch == pytest.approx(passes)
