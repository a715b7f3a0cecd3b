"""Every method's step against the paper's algorithm written out with one plain network per branch."""

import math

import pytest
import torch
import torch.nn.functional as F

from robusteval.attacks import random_start
from robusteval.data.augment import mixup
from robusteval.methods.advprop import AdvProp
from robusteval.methods.entprop import EntProp
from robusteval.methods.mixup import MixUp
from robusteval.methods.pgd_at import PgdAT
from robusteval.methods.standard import Standard
from robusteval.testing import CLASSES, example_batch

BATCH = example_batch(20)


def signed_steps(net, x, y, *, epsilon, step, steps, start=None, sign=1.0, train=False):
    """Linf PGD as in the paper, on a plain network; its running statistics stay as they are."""
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    net.train(train)
    point = (x if start is None else x + start).clamp(0, 1)
    for _ in range(steps):
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(point), y), point)
        point = torch.min(torch.max(point + sign * step * gradient.sign(), x - epsilon), x + epsilon).clamp(0, 1)
    net.load_state_dict(kept)
    net.train()
    return point.detach()


def standard_by_hand(networks, check, method, *, smoothing=0.0):
    model, plain = networks(branches=())
    F.cross_entropy(plain(BATCH.x), BATCH.y, label_smoothing=smoothing).backward()
    check(model, method, plain)


def test_standard(networks, check):
    standard_by_hand(networks, check, Standard())
    standard_by_hand(networks, check, Standard(label_smoothing=0.1), smoothing=0.1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("smoothing=self.label_smoothing", "smoothing=0.0"),
        (".mean()", ".sum()"),
        ("logits = model(batch.x)", "logits = model(batch.x).softmax(1)"),
        ("logits = model(batch.x)", "logits = model(batch.x), model(batch.x); logits = logits[0]"),
    ],
)
def test_mistakes_in_standard_are_seen(networks, check, mutant, old, new):
    with pytest.raises(AssertionError):
        standard_by_hand(networks, check, mutant(Standard, old, new)(label_smoothing=0.1), smoothing=0.1)


def mixup_by_hand(networks, check, method):
    model, plain = networks(branches=())
    mixed = mixup(BATCH.x, BATCH.y, BATCH.rng, alpha=1.0)
    share = float(mixed.lam[0])
    assert abs(share - 0.5) > 0.05  # else the two labels could be told apart by nothing
    logits = plain(mixed.x)
    (share * F.cross_entropy(logits, mixed.y_a) + (1 - share) * F.cross_entropy(logits, mixed.y_b)).backward()
    check(model, method, plain)


def test_mixup(networks, check):
    mixup_by_hand(networks, check, MixUp())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mixed.y_a, mixed.y_b, mixed.lam)", "mixed.y_b, mixed.y_a, mixed.lam)"),
        ("mixed.y_a, mixed.y_b, mixed.lam)", "mixed.y_a, mixed.y_a, mixed.lam)"),
        ("model(mixed.x)", "model(batch.x)"),
        ("mixed.lam).mean()", "mixed.lam).sum()"),
    ],
)
def test_mistakes_in_mixup_are_seen(networks, check, mutant, old, new):
    with pytest.raises(AssertionError):
        mixup_by_hand(networks, check, mutant(MixUp, old, new)())


@pytest.mark.parametrize("mode", ["eval", "train-frozen-stats"])
def test_pgd_at(networks, check, mode):
    model, plain = networks(branches=())
    start = random_start(BATCH.x, epsilon=8 / 255, norm="Linf", rng=BATCH.rng.at("start"), index=BATCH.index)
    x_adv = signed_steps(
        plain, BATCH.x, BATCH.y, epsilon=8 / 255, step=2 / 255, steps=7, start=start, train=mode != "eval"
    )
    assert (x_adv - BATCH.x).abs().max() > 4 / 255
    F.cross_entropy(plain(x_adv), BATCH.y).backward()
    check(model, PgdAT(attack_bn=mode), plain)


@pytest.mark.parametrize("passes", ["one", "two"])
@pytest.mark.parametrize("weighting", ["mean", "sum"])
def test_advprop_targeted(networks, check, passes, weighting):
    method = AdvProp(forward=passes, loss_weighting=weighting)
    model, main, aux = networks()
    target = (BATCH.y + 1 + BATCH.rng.at("target").integers(BATCH.index, CLASSES - 1)) % CLASSES
    assert (target != BATCH.y).all()
    assert len(target.unique()) == CLASSES
    start = random_start(BATCH.x, epsilon=4 / 255, norm="Linf", rng=BATCH.rng.at("start"), index=BATCH.index)
    x_adv = signed_steps(aux, BATCH.x, target, epsilon=4 / 255, step=1 / 255, steps=5, start=start, sign=-1.0)
    scale = 0.5 if weighting == "mean" else 1.0
    (scale * F.cross_entropy(main(BATCH.x), BATCH.y)).backward()
    (scale * F.cross_entropy(aux(x_adv), BATCH.y)).backward()
    check(model, method, main, aux)


def test_advprop_untargeted_without_random_start(networks, check):
    method = AdvProp(targeted=False, random_start=False, epsilon=1 / 255, steps=1, attack_bn="train-frozen-stats")
    model, main, aux = networks()
    x_adv = signed_steps(aux, BATCH.x, BATCH.y, epsilon=1 / 255, step=1 / 255, steps=1, train=True)
    ((F.cross_entropy(main(BATCH.x), BATCH.y) + F.cross_entropy(aux(x_adv), BATCH.y)) / 2).backward()
    check(model, method, main, aux)


def per_image(logits, mixed):
    a, b = (F.cross_entropy(logits, y, reduction="none") for y in (mixed.y_a, mixed.y_b))
    return mixed.lam * a + (1 - mixed.lam) * b


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("weighting", ["image", "mean", "sum"])
def test_entprop(networks, check, steps, weighting):
    method = EntProp(k=0.3, steps=steps, loss_weighting=weighting)
    model, main, aux = networks()
    n, chosen_n, radius = 20, 6, (1 if steps == 1 else steps + 1) / 255
    mixed = mixup(BATCH.x, BATCH.y, BATCH.rng, alpha=1.0)
    x = mixed.x.clone().requires_grad_()
    logits = main(x)
    p = logits.detach().softmax(1)
    chosen = (-(p * p.log()).sum(1)).argsort(descending=True)[:chosen_n]
    loss = per_image(logits, mixed)
    weight, aux_weight = {
        "image": (torch.full((n,), 1 / n), 0.5 / n),
        "mean": (torch.full((n,), 1 / (n + chosen_n)), 1 / (n + chosen_n)),
        "sum": (torch.full((n,), 1 / n), 1 / chosen_n),
    }[weighting]
    if weighting == "image":
        weight[chosen] = 0.5 / n
    (weight * loss).sum().backward()
    part = type(mixed)(mixed.x[chosen], mixed.y_a[chosen], mixed.y_b[chosen], mixed.lam[chosen])
    gradient, delta = x.grad[chosen], torch.zeros_like(part.x)
    x_adv = part.x
    kept = {k: v.clone() for k, v in aux.state_dict().items()}
    for i in range(steps):
        if i:
            leaf = x_adv.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(per_image(aux(leaf), part).sum(), leaf)
        delta = (delta + gradient.sign() / 255).clamp(-radius, radius)
        x_adv = (part.x + delta).clamp(0, 1)
    aux.load_state_dict(kept)  # attack iterations leave the running statistics alone
    assert math.isclose(float((x_adv - part.x).abs().max()), min(steps / 255, radius), rel_tol=1e-4)
    (aux_weight * per_image(aux(x_adv), part).sum()).backward()
    check(model, method, main, aux)


def test_entprop_statistics_move_in_every_pass_when_asked(networks):
    model, *_ = networks()
    before = int(model.bn2.aux_bn["aux"].num_batches_tracked)
    EntProp(steps=3, inner_bn="train").step(model, BATCH, torch.autograd.backward)
    assert int(model.bn2.aux_bn["aux"].num_batches_tracked) == before + 3


def test_entprop_cumulative_update_leaves_the_ball_as_the_printed_algorithm_does(networks):
    """Five iterations with radius 6/255: the printed rule may reach 30/255, the text's 5/255."""
    drift = {}
    for update in ("clipped", "cumulative"):
        method = EntProp(steps=5, update=update, clip=False, mix="none", k=1.0)
        model, *_ = networks()
        seen = []
        model.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].detach()))
        method.step(model, BATCH, torch.autograd.backward)
        final = seen[-1]
        order = torch.cdist(final.flatten(1), BATCH.x.flatten(1)).argmin(1)
        drift[update] = float((final - BATCH.x[order]).abs().max()) * 255
    assert math.isclose(drift["clipped"], 5, abs_tol=1e-3)
    assert math.isclose(drift["cumulative"], 30, abs_tol=1e-3)


@pytest.mark.parametrize("metric", ["entropy", "cross_entropy", "confidence", "margin"])
def test_selection_metrics(metric):
    logits = torch.randn(30, CLASSES, generator=torch.Generator().manual_seed(0)) * 3
    y = torch.arange(30) % CLASSES
    p = logits.softmax(1)
    others = torch.stack([torch.cat([row[:c], row[c + 1 :]]).max() for row, c in zip(logits, y, strict=True)])
    expected = {
        "entropy": -(p * p.log()).sum(1),
        "cross_entropy": -p[range(30), y].log(),
        "confidence": 1 - p.max(1).values,
        "margin": others - logits[range(30), y],
    }[metric]
    mine = EntProp(metric=metric).score(logits, y)
    assert mine.argsort().tolist() == expected.argsort().tolist()


def test_entprop_radius_and_selection_rules():
    assert EntProp().radius == 1 / 255
    assert EntProp(steps=5).radius == 6 / 255
    assert EntProp(steps=5, epsilon="4/255").radius == 4 / 255
    assert [EntProp(k=0.2).selected(n) for n in (128, 100, 2)] == [26, 20, 1]
    with pytest.raises(ValueError, match="greater than 0"):
        EntProp(k=0.0)


def test_pgd_at_refuses_a_mistake_of_units():
    for wrong in ({"epsilon": 8.0}, {"step_size": 2.0}):
        with pytest.raises(ValueError, match="more than the whole pixel range"):
            PgdAT(**wrong)
    assert PgdAT(norm="L2", epsilon=2.0).epsilon == 2
