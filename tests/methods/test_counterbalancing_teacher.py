"""The consistency loss against straight-line code, the frozen teacher, and what normalisation does in linear theory."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from robusteval.method import Setting, attached
from robusteval.methods.bn_free import BnFree
from robusteval.methods.counterbalancing_teacher import CounterbalancingTeacher
from robusteval.models.layers import NORMALIZATIONS
from robusteval.models.resnet import ResNet
from robusteval.testing import MethodContract, TinyNet, example_batch

BATCH = example_batch(20)


def small_resnet():
    return ResNet(classes=5, normalization=NORMALIZATIONS["none"], widths=(4, 8), blocks=(1, 1), option="B")


def walk(net, x):
    """Logits, classifier's input, and the rectified and pooled BatchNorm outputs of the last stage."""
    if isinstance(net, TinyNet):
        x = net.bn1(net.bn1(net.conv1(x))).relu()
        pooled = net.bn2(net.conv2(x)).relu().mean((2, 3))
        z = pooled + net.frozen(pooled)
        return net.head(z), z, [pooled]
    h = net.layer1(net.bn1(net.conv1(x)).relu())
    block = net.layer2[0]
    first = block.bn1(block.conv1(h))
    second = block.bn2(block.conv2(first.relu()))
    z = (second + block.shortcut(h)).relu().mean((2, 3))
    return net.linear(z), z, [first.relu().mean((2, 3)), second.relu().mean((2, 3))]


def taught(network, seed=9):
    """What a teacher run hands over: an ordinary network, in train mode and trainable, that never normalised."""
    method = BnFree(zero_init=False)
    torch.manual_seed(seed)
    model = method.wrap(network().train(), Setting(classes=5, images=20, batch_size=20))
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.bias.add_(0.3 * torch.randn_like(norm.bias))
    return method.deploy(model)


def distance(method, student, teacher):
    """The consistency loss, from the outputs of `walk`; the teacher's carry no graph."""
    if method.on == "logits" and method.distance == "kl":
        t = method.temperature
        p, q = (teacher[0] / t).softmax(1), (student[0] / t).softmax(1)
        return t * t * (p * (p.log() - q.log())).sum(1).mean()
    pairs = {
        "penultimate": [(student[1], teacher[1])],
        "logits": [(student[0], teacher[0])],
        "layers": list(zip(student[2], teacher[2], strict=True)),
    }[method.on]
    total = 0.0
    for a, b in pairs:
        if method.distance == "mse":
            total = total + ((a - b) ** 2).sum() / a.numel() / len(pairs)
        else:
            cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
            total = total + (1 - cosine).mean() / len(pairs)
    return total


def by_hand(method, networks, check, network=TinyNet):
    model, plain = networks(branches=(), network=network)
    teacher = taught(network)
    reference = copy.deepcopy(teacher).eval()
    method.wrap(model, Setting(classes=5, images=20, batch_size=20, teacher=teacher))
    part = attached(model, "teacher")
    graphs = []
    part.register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()))
    with torch.no_grad():
        theirs = walk(reference, BATCH.x)
    mine = walk(plain, BATCH.x)
    consistency = distance(method, mine, theirs)
    classification = F.cross_entropy(mine[0], BATCH.y)
    (classification + method.weight * consistency).backward()
    assert float(consistency.detach()) > 0.01  # it matters
    start = copy.deepcopy(model.state_dict())
    check(model, method, plain, branches=())
    assert graphs == [False], "one forward pass of the teacher, without a graph"
    assert not any(module.training for module in part.modules())
    assert not any(p.requires_grad or p.grad is not None for p in part.parameters())
    for key, value in part.state_dict().items():
        assert torch.equal(value, reference.state_dict()[key]), f"the teacher's {key} was changed"
    model.load_state_dict(start)
    logs = method.step(model, BATCH, torch.autograd.backward)
    torch.testing.assert_close(logs["loss_consistency"], consistency.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(logs["loss"], (classification + method.weight * consistency).detach())
    assert float(logs["accuracy_teacher"]) == pytest.approx(float((theirs[0].argmax(1) == BATCH.y).float().mean()))


METHODS = [
    CounterbalancingTeacher(),
    CounterbalancingTeacher(weight=0.3, distance="cosine"),
    CounterbalancingTeacher(weight=2.0, on="logits"),
    CounterbalancingTeacher(weight=0.7, on="logits", distance="kl", temperature=4.0),
    CounterbalancingTeacher(weight=5.0, on="layers"),
    CounterbalancingTeacher(weight=5.0, on="layers", distance="cosine"),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("network", [TinyNet, small_resnet])
def test_step_is_that_of_the_equations(method, network, networks, check):
    by_hand(method, networks, check, network)


@pytest.mark.parametrize(
    ("old", "new", "options"),
    [
        (".eval().requires_grad_(False)", ".requires_grad_(False)", {}),  # the teacher normalises with batch statistics
        (".eval().requires_grad_(False)", ".eval()", {}),
        ("with torch.no_grad():", "with torch.enable_grad():", {}),
        ("self.weight * consistency", "consistency", {}),
        ("attached(model, TEACHER), batch.x", "attached(model, TEACHER), batch.x.flip(3)", {}),  # another augmentation
        ("self._represented(attached(model, TEACHER), batch.x)", "self._represented(model, batch.x)", {}),
        ("distillation(mine, theirs", "distillation(theirs, mine", {"on": "logits", "distance": "kl"}),
        ("temperature=self.temperature", "temperature=1.0", {"on": "logits", "distance": "kl", "temperature": 4.0}),
        ("torch.stack(distances).mean()", "torch.stack(distances).sum()", {"on": "layers"}),
        ("global_average(output.relu())", "global_average(output)", {"on": "layers"}),
    ],
)
def test_mistakes_are_found(old, new, options, networks, check, mutant):
    method = mutant(CounterbalancingTeacher, old, new)(weight=2.0, **options)
    with pytest.raises(AssertionError):
        by_hand(method, networks, check, small_resnet)


def test_teacher_is_the_same_network_without_batchnorm():
    assert repr(CounterbalancingTeacher().teacher()) == repr(BnFree())
    assert BnFree().teacher() is None


def test_divergence_is_of_logits():
    with pytest.raises(ValueError, match="kl compares logits, not penultimate"):
        CounterbalancingTeacher(distance="kl")


def test_a_step_costs_a_third_more_and_no_figure_is_the_papers():
    assert CounterbalancingTeacher().passes().flops == pytest.approx(4 / 3)
    card = CounterbalancingTeacher().card
    assert "CT-style" in card.summary
    assert card.published == ()


class TestCounterbalancingTeacher(MethodContract):
    method = CounterbalancingTeacher()


class TestByLogits(MethodContract):
    method = CounterbalancingTeacher(on="logits", distance="kl", temperature=4.0, weight=2.0)


class TestByLayers(MethodContract):
    method = CounterbalancingTeacher(on="layers", distance="cosine")


# What the paper's theory is about: in an overparameterised linear regression, gradient descent on normalised features
# pays little for weight on features of low variance. The derivation and the numbers below are ours, not the paper's.


def features(rng, n, *, scale, noise):
    """A signal, 100 features of high variance that carry it noisily, 100 of low variance that carry it cleanly."""
    s = rng.standard_normal((n, 1))
    return np.hstack([s + rng.standard_normal((n, 100)), scale * (s + noise * rng.standard_normal((n, 100)))]), s[:, 0]


def least_norm(x, y, sigma):
    """The interpolating weights that minimise sum of sigma**2 * weight**2: where descent on x / sigma ends."""
    z = x / sigma
    return z.T @ np.linalg.solve(z @ z.T, y) / sigma


def test_descent_on_normalised_features_ends_where_the_closed_form_says():
    rng = np.random.default_rng(0)
    x, y = features(rng, 20, scale=0.1, noise=0.2)
    sigma = x.std(axis=0)
    for scales in (np.ones_like(sigma), sigma):
        z, weights = x / scales, np.zeros(200)
        rate = 1 / np.linalg.norm(z, 2) ** 2
        for _ in range(20_000):
            weights -= rate * z.T @ (z @ weights - y)
        expected = least_norm(x, y, scales)
        assert np.linalg.norm(weights / scales - expected) < 1e-6 * np.linalg.norm(expected)


def probe(seed, *, scale, shifted, n=50, noise=0.2):
    """For raw and normalised features: error in and out of domain, share of the low-variance block in predictions."""
    rng = np.random.default_rng(seed)
    x, y = features(rng, n, scale=scale, noise=noise)
    test, target = features(rng, 2000, scale=scale, noise=noise)
    shift = np.zeros_like(test)
    block = slice(100, 200) if shifted == "low" else slice(0, 100)
    shift[:, block] = 0.3 * rng.standard_normal((2000, 100))
    found = []
    for sigma in (np.ones(200), x.std(axis=0)):
        theta = least_norm(x, y, sigma)
        low, high = (test[:, 100:] @ theta[100:]).var(), (test[:, :100] @ theta[:100]).var()
        inside, outside = (float(((z @ theta - target) ** 2).mean()) for z in (test, test + shift))
        found.append((inside, outside, low / (low + high)))
    return found


@pytest.mark.parametrize(("shifted", "scale", "worse"), [("low", 0.1, True), ("high", 0.1, False), ("low", 0.3, False)])
def test_normalisation_moves_weight_to_features_of_low_variance(shifted, scale, worse):
    """It helps in domain and, if the shift spares those features or is no larger than they are, out of it too."""
    for seed in range(5):
        (inside, outside, share), (inside_n, outside_n, share_n) = probe(seed, scale=scale, shifted=shifted)
        assert inside_n < inside
        assert (outside_n > outside) == worse
        if scale == 0.1:
            assert share < 0.005
            assert share_n > 0.8
