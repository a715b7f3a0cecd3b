"""AR-AT's step against its loss written out with one plain network per branch, and the layers it regularises."""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F

from robusteval import models
from robusteval.attacks import random_start
from robusteval.branches import branch_names
from robusteval.cost import Meter
from robusteval.errors import UserError
from robusteval.method import Setting, attached
from robusteval.methods.arat import ARAT
from robusteval.options import build
from robusteval.testing import MethodContract, TinyNet, example_batch, example_setting

BATCH = example_batch(20)
EPS = 8 / 255


class TestARAT(MethodContract):
    method = ARAT()


class TestARATInBothDirectionsOnTwoLayers(MethodContract):
    method = ARAT(layers=("bn.",), align="both", steps=2, attack_bn="eval", gamma=3.0, balance_power=2.0)


class TestARATWithoutStopGradientWithTheQuirksOfTheReference(MethodContract):
    method = ARAT(stop_gradient=False, distance="mse", steps=2, attack_bn="train", noise_in_clean_batch=True, gamma=2.0)


class TestARATFromCleanToAdversarialWithoutPredictorInL2(MethodContract):
    method = ARAT(
        align="clean_to_adv", predictor=False, alpha=0.5, norm="L2", epsilon=0.2, step_size=0.1, steps=2, gamma=1.0
    )


def wrapped(method):
    """What `wrap` makes of a network, with branches and statistics that differ, and a plain network of each branch."""
    torch.manual_seed(3)
    network = TinyNet().train()
    network.frozen.eval()
    model = method.wrap(network, example_setting(method, 20))
    with torch.no_grad():
        model.head.weight.sub_(model.head.weight.mean(1, keepdim=True))  # or every accuracy is the share of one class
        model.head.bias.zero_()
        for name, parameter in model.named_parameters():
            if "bn" in name or "predictors" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for _ in range(3):
            model(BATCH.x)
        if method.alpha is None:
            attached(model, "balance").accuracy.fill_(0.3)
    return model, method.deploy(model, "main"), method.deploy(model, "adv")


def forward(net, x):
    """Logits and the rectified, averaged output of bn2."""
    x = F.relu(net.bn1(net.bn1(net.conv1(x))))
    z = F.relu(net.bn2(net.conv2(x))).mean((2, 3))
    return net.head(z + net.frozen(z)), z


def length(delta):
    return delta.square().sum((1, 2, 3), keepdim=True).sqrt()


def examples(net, centre, start, method):
    """PGD through a network in train mode, whose running statistics move if those of the method's attack do."""
    eps, step = method.epsilon, method.step_size
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    point = (centre + start).clamp(0, 1)
    for _ in range(method.steps):
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(forward(net, point)[0], BATCH.y), point)
        if method.norm == "L2":
            delta = point - centre + step * gradient / length(gradient)
            point = (centre + delta * (eps / length(delta)).clamp(max=1)).clamp(0, 1)
        else:
            point = torch.min(torch.max(point + step * gradient.sign(), centre - eps), centre + eps).clamp(0, 1)
    if method.attack_bn != "train":
        net.load_state_dict(kept)
    return point.detach()


def noise(norm="Linf", epsilon=EPS):
    return random_start(BATCH.x, epsilon=epsilon, norm=norm, rng=BATCH.rng.at("start"), index=BATCH.index)


def cosine(a, b):
    return 1 - ((a * b).sum(1) / (a.square().sum(1).sqrt() * b.square().sum(1).sqrt())).mean()


def squared(a, b):
    return ((a - b) ** 2).mean()


class Predictor:
    """Linear without bias, batch normalisation, rectifier, linear: by hand, with leaves that are copies."""

    def __init__(self, model):
        self.weights = [p.detach().clone().requires_grad_() for p in attached(model, "predictors")[0].parameters()]

    def __call__(self, z):
        narrow, scale, shift, wide, bias = self.weights
        hidden = z @ narrow.T
        mean = hidden.mean(0)
        variance = ((hidden - mean) ** 2).mean(0)
        hidden = (hidden - mean) / (variance + 1e-5).sqrt() * scale + shift
        return hidden.clamp(min=0) @ wide.T + bias


# The default gamma would make gradients, and with them rounding errors, larger than the comparison allows for.
CASES = {
    "default": (ARAT(gamma=2.0), lambda h, z, a: cosine(h(a), z.detach())),
    "no stop": (ARAT(gamma=2.0, stop_gradient=False), lambda h, z, a: cosine(h(a), z)),
    "reversed": (ARAT(gamma=2.0, align="clean_to_adv"), lambda h, z, a: cosine(h(z), a.detach())),
    "both": (ARAT(gamma=2.0, align="both"), lambda h, z, a: (cosine(h(a), z.detach()) + cosine(h(z), a.detach())) / 2),
    "both, no stop": (
        ARAT(gamma=2.0, align="both", stop_gradient=False),
        lambda h, z, a: (cosine(h(a), z) + cosine(h(z), a)) / 2,
    ),
    "mse": (ARAT(gamma=2.0, distance="mse"), lambda h, z, a: squared(h(a), z.detach())),
    "no predictor": (ARAT(predictor=False, gamma=2.0), lambda h, z, a: cosine(a, z.detach())),
    "power": (ARAT(gamma=2.0, balance_power=3.0), lambda h, z, a: cosine(h(a), z.detach())),
    "updates": (ARAT(gamma=2.0, attack_bn="train", steps=3), lambda h, z, a: cosine(h(a), z.detach())),
    "noise": (ARAT(gamma=2.0, noise_in_clean_batch=True), lambda h, z, a: cosine(h(a), z.detach())),
    "L2": (
        ARAT(gamma=2.0, norm="L2", epsilon=0.3, step_size=0.1, steps=4),
        lambda h, z, a: cosine(h(a), z.detach()),
    ),
    "alpha": (ARAT(gamma=2.0, alpha=0.8, random_start=False), lambda h, z, a: cosine(h(a), z.detach())),
}


class Recorder:
    """The method, whose latest logs are kept."""

    def __init__(self, method):
        self.method = method

    def step(self, *args):
        self.logs = self.method.step(*args)


def compare(method, invariance, check):
    """One step of the method is the loss below, on the deployed networks of the two branches."""
    model, main, adv = wrapped(method)
    predictor = Predictor(model) if method.predictor else None
    start = noise(method.norm, method.epsilon) if method.random_start else torch.zeros(())
    x = BATCH.x + start if method.noise_in_clean_batch else BATCH.x
    start = torch.zeros(()) if method.noise_in_clean_batch else start
    x_adv = examples(adv, x, start, method)
    far = length(x_adv - x) if method.norm == "L2" else (x_adv - x).abs()
    assert far.max() > 0.9 * min(method.epsilon, method.step_size * method.steps)
    logits, z = forward(main, x)
    logits_adv, a = forward(adv, x_adv)
    weight = 0.3 if method.alpha is None else method.alpha
    weight_clean, weight_adv = (1 - weight) ** method.balance_power, weight**method.balance_power
    losses = F.cross_entropy(logits, BATCH.y), F.cross_entropy(logits_adv, BATCH.y), invariance(predictor, z, a)
    loss = weight_clean * losses[0] + weight_adv * losses[1] + method.gamma * losses[2]
    loss.backward()
    assert not torch.equal(logits.argmax(1) == BATCH.y, logits_adv.argmax(1) == BATCH.y)
    recorder = Recorder(method)
    check(model, recorder, main, adv, branches=("adv",), batch=BATCH)
    expected = {
        "loss": loss,
        "loss_clean": losses[0],
        "loss_adv": losses[1],
        "invariance": losses[2],
        "accuracy": (logits_adv.argmax(1) == BATCH.y).float().mean(),
        "accuracy_clean": (logits.argmax(1) == BATCH.y).float().mean(),
        "weight_adv": torch.tensor(weight_adv),
    }
    torch.testing.assert_close(recorder.logs, {k: v.detach() for k, v in expected.items()}, rtol=1e-4, atol=1e-6)
    if method.predictor:
        for mine, leaf in zip(attached(model, "predictors")[0].parameters(), predictor.weights, strict=True):
            assert leaf.grad.abs().sum() > 0
            torch.testing.assert_close(mine.grad, leaf.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_step_by_hand(case, check):
    compare(*CASES[case], check)


@pytest.mark.parametrize(
    ("old", "new", "case"),
    [
        ("stop_gradient: bool = True", "stop_gradient: bool = False", "default"),
        ("to.detach() if self.stop_gradient else to", "to", "reversed"),
        (
            "return (1 - share) ** self.balance_power, share**",
            "return share** self.balance_power, (1 - share)**",
            "power",
        ),
        ("with use_branch(model, ADV), captured", "with use_branch(model, MAIN), captured", "default"),
        (
            "with use_branch(model, ADV):\n            x_adv",
            "with use_branch(model, MAIN):\n            x_adv",
            "default",
        ),
        ("_features(kept[layer]) for layer in layers])", "z * 1 for z in leaves])", "default"),
        ("distance(predict(drawn), to.detach()", "distance(drawn, predict(to).detach()", "default"),
        ("distance(predict(drawn), to", "distance(drawn, predict(to)", "no stop"),
        ("mode=self.attack_bn", 'mode="train"', "default"),
        ("mode=self.attack_bn", 'mode="eval"', "default"),
        ('"accuracy_clean": accuracy(logits, ', '"accuracy_clean": accuracy(logits_adv, ', "default"),  # balances
        ("norm=self.norm,\n                start", 'norm="Linf",\n                start', "L2"),
        ("norm=self.norm, rng=rng", 'norm="Linf", rng=rng', "L2"),
        ("F.relu(output)", "output", "default"),
        ("x, start = x + start, None", "x = x + start", "noise"),
        ("+ self.gamma * pulled", "+ pulled", "no stop"),
        ("loss_adv + self.gamma * invariance)", "loss_adv + self.gamma * invariance / 2)", "both"),
        ("nn.BatchNorm1d(hidden), nn.ReLU(),", "nn.ReLU(), nn.BatchNorm1d(hidden),", "default"),
    ],
)
def test_mistakes_are_found(old, new, case, check, mutant):
    method, invariance = CASES[case]
    wrong = mutant(ARAT, old, new)
    given = {name: getattr(method, name) for name in (f.name for f in dataclasses.fields(method))}
    if old.startswith("stop_gradient"):
        del given["stop_gradient"]
    with pytest.raises(AssertionError):
        compare(wrong(**given), invariance, check)


@pytest.mark.parametrize("case", ["default", "both, no stop"])
def test_gradients_follow_the_scale_of_the_trainers_backward(case):
    """A batch in parts scales each part's loss; what passes through the features must be scaled once, not twice."""
    gradients = []
    for scale in (1.0, 0.25):
        model, *_ = wrapped(CASES[case][0])
        CASES[case][0].step(model, BATCH, lambda loss, scale=scale: torch.autograd.backward(loss * scale))
        gradients.append([p.grad / scale for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_clean_branch_gets_no_gradient_from_the_invariance_loss():
    for stop in (True, False):
        method = ARAT(alpha=1.0, stop_gradient=stop, steps=1)  # no weight on the clean cross-entropy
        model, *_ = wrapped(method)
        method.step(model, BATCH, torch.autograd.backward)
        moved = model.bn2.weight.grad.abs().sum() > 0
        assert moved != stop
        assert model.bn2.aux_bn["adv"].weight.grad.abs().sum() > 0


def seen(method):
    """What the network is given in a step: the last two are the clean branch's batch and the examples."""
    model, *_ = wrapped(method)
    inputs = []
    model.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach()))
    method.step(model, BATCH, torch.autograd.backward)
    assert len(inputs) == method.steps + 2
    return inputs[-2], inputs[-1]


def test_examples_are_in_the_ball_of_what_the_clean_branch_sees():
    clean, adversarial = seen(ARAT())
    assert torch.equal(clean, BATCH.x)
    assert EPS * 0.99 < (adversarial - BATCH.x).abs().max() <= EPS
    clean, adversarial = seen(ARAT(noise_in_clean_batch=True))
    torch.testing.assert_close(clean, BATCH.x + noise(), rtol=0, atol=0)
    assert clean.min() < 0 or clean.max() > 1
    assert (adversarial - clean).abs().max() <= EPS + 1e-6
    assert 1.8 * EPS < (adversarial - BATCH.x).abs().max() <= 2 * EPS + 1e-6
    assert adversarial.min() >= -1e-6
    assert adversarial.max() <= 1


@pytest.mark.parametrize(("mode", "updates"), [("train-frozen-stats", 1), ("eval", 1), ("train", 11)])
def test_how_often_statistics_move(mode, updates):
    method = ARAT(attack_bn=mode)
    model, *_ = wrapped(method)
    before = [int(norm.num_batches_tracked) for norm in (model.bn2, model.bn2.aux_bn["adv"])]
    method.step(model, BATCH, torch.autograd.backward)
    after = [int(norm.num_batches_tracked) for norm in (model.bn2, model.bn2.aux_bn["adv"])]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, updates]


def test_twelve_passes_an_image():
    model, *_ = wrapped(ARAT())
    meter = Meter(model, torch.device("cpu"))
    with meter.running():
        ARAT().step(model, BATCH, torch.autograd.backward)
    assert {name: n / 20 for name, n in meter.forward.items()} == {"main": 1, "adv": 11}
    assert {name: n / 20 for name, n in meter.backward.items()} == {"main": 1, "adv": 11}
    assert ARAT().passes().backward_by_branch == {"main": 1, "adv": 11}
    assert ARAT(steps=3).passes().flops == pytest.approx((6 + 2 * 3) / 3)


def test_the_last_epochs_accuracy_of_the_clean_branch_balances_the_next():
    method = ARAT(steps=1, balance_power=2.0)
    model = method.wrap(TinyNet().train(), Setting(classes=5, images=20, batch_size=20))
    first = method.step(model, BATCH, torch.autograd.backward)
    assert float(first["weight_adv"]) == pytest.approx(0.2**2)
    method.epoch(model, {"accuracy": 0.1, "accuracy_clean": 0.7, "loss": 1.0})
    logs = method.step(model, BATCH, torch.autograd.backward)
    assert float(logs["weight_adv"]) == pytest.approx(0.7**2)
    parts = 0.49 * logs["loss_adv"] + 0.09 * logs["loss_clean"] + 30 * logs["invariance"]
    assert float(logs["loss"]) == pytest.approx(float(parts))
    assert float(first["weight_adv"]) == pytest.approx(0.2**2)
    assert float(model.state_dict()["training_only.balance.accuracy"]) == pytest.approx(0.7)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("architecture", "layers", "single", "split", "predictors"),
    [
        ("resnet18", [f"layer4.{b}.bn{i}" for b in (0, 1) for i in (1, 2)], 11_173_962, 11_183_562, 527_360),
        (
            "wrn_34_10",
            [*(f"block3.layer.{b}.bn{i}" for b in range(5) for i in (1, 2)), "bn1"],
            46_160_474,
            46_182_906,
            2_109_280,
        ),
    ],
)
def test_layers_and_sizes_of_the_papers_networks(architecture, layers, single, split, predictors):
    with torch.device("meta"):
        network = models.build(architecture, classes=10)
        assert count(network) == single
        model = ARAT().wrap(network.train(), Setting(classes=10, images=20, batch_size=10))
    assert list(ARAT().regularised(model)) == layers
    assert branch_names(model) == ("main", "adv")
    parts = attached(model, "predictors")
    assert [(p[0].in_features, p[0].out_features, p[3].out_features) for p in parts] == [
        (width, width // 4, width) for width in (model.get_parameter(f"{layer}.weight").numel() for layer in layers)
    ]
    assert count(parts) == predictors
    assert count(model) == split + predictors
    assert count(ARAT().deploy(model)) == single


def test_the_weight_is_shared_by_the_layers_that_the_expressions_name():
    with torch.device("meta"):
        network = models.build("resnet18", classes=10).train()
        method = ARAT(layers=(r"layer4\.1\.bn.", "layer3.0.shortcut.1", "bn1"))
        model = method.wrap(network, Setting(classes=10, images=20, batch_size=10))
    assert method.regularised(model) == ("bn1", "layer3.0.shortcut.1", "layer4.1.bn1", "layer4.1.bn2")
    two = ARAT(layers=("bn1", "bn2"), predictor=False)
    model, *_ = wrapped(two)
    z = [torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 0, 0], [1, 0, 0]])]
    a = [torch.tensor([[0.0, 2], [0, 3]]), torch.tensor([[0.0, 5, 0], [-2, 0, 0]])]
    assert float(two.invariance(model, z, a)) == pytest.approx(((1 + 0) / 2 + (1 + 2) / 2) / 2)
    squares = ARAT(predictor=False, distance="mse", align="both")
    assert float(squares.invariance(model, z, a)) == pytest.approx(((1 + 4 + 4) / 4 + (1 + 25 + 9) / 6) / 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon": 8.0}, "epsilon: 8 is more than the whole pixel range"),
        ({"noise_in_clean_batch": True, "norm": "L2"}, "noise_in_clean_batch: .*Linf"),
        ({"noise_in_clean_batch": True, "random_start": False}, "noise_in_clean_batch: .*random_start = true"),
        ({"layers": ["layer4.("]}, r"layers: 'layer4.\(' is no regular expression"),
        ({"align": "adv_to_clen"}, "did you mean 'adv_to_clean'"),
        ({"balance_power": 0.0}, "balance_power: .*greater than 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        build(ARAT, values, "suite.toml")
    assert ARAT(norm="L2", epsilon=2.0, step_size=0.5).epsilon == 2  # an L2 radius may be above the pixel range


def test_networks_and_batches_that_do_not_fit_are_refused():
    expected = "arat: layers: unknown BatchNorm layer 'bn3'; did you mean 'bn2'?; allowed: bn1, bn2"
    with pytest.raises(UserError, match=re.escape(expected)):
        ARAT(layers=("bn1", "bn3")).wrap(TinyNet(), example_setting(ARAT()))
    with pytest.raises(UserError, match="batches of 1 image"):
        ARAT().wrap(TinyNet(), example_setting(ARAT(), 1))
    assert branch_names(ARAT(predictor=False).wrap(TinyNet(), example_setting(ARAT(), 1))) == ("main", "adv")
