"""AdvProp's attacks and its variant with several auxiliary branches, written out with one plain network per branch.

Its step with one auxiliary branch is written out in test_steps.py.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robusteval.attacks import random_start
from robusteval.attacks.geometry import distance
from robusteval.branches import BranchNorm
from robusteval.data.augment import cutmix, mixup
from robusteval.methods import advprop
from robusteval.methods.advprop import AdvProp, start_noise
from robusteval.methods.disentangled import learn
from robusteval.methods.randaugment import RandAugment
from robusteval.testing import CLASSES, MethodContract, example_batch

BATCH = example_batch(20)
FINE_GRAINED = ("pgd", "pgd2", "mixup", "cutmix", "randaugment")


class TestFineGrainedAdvProp(MethodContract):
    method = AdvProp(sources=("pgd", "pgd1", "mixup"), steps=2, clean_start=0.5)


class TestFineGrainedAdvPropPassByPass(MethodContract):
    method = AdvProp(sources=("cutmix", "pgd3", "randaugment"), forward="two", loss_weighting="sum", targeted=False)


def descend(net, x, target, start, *, epsilon, steps):
    """Targeted Linf PGD in eval mode with steps of 1/255, on a plain network."""
    net.eval()
    point = (x + start).clamp(0, 1)
    for _ in range(steps):
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(point), target), point)
        point = torch.min(torch.max(point - gradient.sign() / 255, x - epsilon), x + epsilon).clamp(0, 1)
    net.train()
    return point.detach()


def by_hand(networks, check, method):
    """A step with two attacks, two mixtures and random operations, each through a branch of its own."""
    names = ("aux", "pgd2", "mixup", "cutmix", "randaugment")
    model, main, aux, weak, blended, cut, distorted = networks(branches=names)
    scale = 1 / 6 if method.loss_weighting == "mean" else 1.0
    (scale * F.cross_entropy(main(BATCH.x), BATCH.y)).backward()
    adversarial = []
    for net, rng, epsilon, steps in ((aux, BATCH.rng, 4, 5), (weak, BATCH.rng.at("pgd2"), 2, 3)):
        target = (BATCH.y + 1 + rng.at("target").integers(BATCH.index, CLASSES - 1)) % CLASSES
        assert (target != BATCH.y).all()
        start = random_start(BATCH.x, epsilon=epsilon / 255, norm="Linf", rng=rng.at("start"), index=BATCH.index)
        x_adv = descend(net, BATCH.x, target, start, epsilon=epsilon / 255, steps=steps)
        (scale * F.cross_entropy(net(x_adv), BATCH.y)).backward()
        adversarial.append((x_adv - BATCH.x).sign())
    assert (adversarial[0] != adversarial[1]).float().mean() > 0.2  # other noise, other targets, another branch
    for net, mix, name in ((blended, mixup, "mixup"), (cut, cutmix, "cutmix")):
        mixed = mix(BATCH.x, BATCH.y, BATCH.rng.at(name), alpha=method.mix_alpha)
        logits, share = net(mixed.x), float(mixed.lam[0])
        loss = share * F.cross_entropy(logits, BATCH.y) + (1 - share) * F.cross_entropy(logits, mixed.y_b)
        (scale * loss).backward()
    images = RandAugment().augmented(BATCH)
    (scale * F.cross_entropy(distorted(images), BATCH.y)).backward()
    check(model, method, main, aux, weak, blended, cut, distorted, branches=names)


@pytest.mark.parametrize("forward", ["one", "two"])
@pytest.mark.parametrize("weighting", ["mean", "sum"])
def test_several_auxiliary_branches(networks, check, forward, weighting):
    by_hand(networks, check, AdvProp(sources=FINE_GRAINED, forward=forward, loss_weighting=weighting, mix_alpha=0.5))


def test_the_branches_follow_the_sources():
    assert AdvProp().branches == ("main", "aux")
    assert AdvProp(sources=("mixup", "pgd", "pgd1")).branches == ("main", "aux", "pgd", "pgd1")
    law = AdvProp(sources=("pgd", "pgd1", "pgd2", "pgd3", "mixup")).passes()
    assert law.train == dict.fromkeys(("main", "aux", "pgd1", "pgd2", "pgd3", "mixup"), 1)
    assert law.attack == {"aux": 5, "pgd1": 1, "pgd2": 3, "pgd3": 4}
    for wrong in ((), ("pgd", "pgd"), ("pgd9",)):
        with pytest.raises(ValueError, match="sources"):
            AdvProp(sources=wrong)


def routing(networks, method):
    """The attack sees the auxiliary branch and never the main one, in train and in eval mode."""
    for training in (True, False):
        model, *_ = networks()
        model.train(training)
        first = method.images(model, BATCH, "aux").x
        with torch.no_grad():
            for norm in (model.bn1, model.bn2):
                norm.weight.mul_(-1.5).add_(0.3)
                norm.running_mean.sub_(0.5)
        assert torch.equal(method.images(model, BATCH, "aux").x, first), "the attack sees the main branch"
        with torch.no_grad():
            for norm in (model.bn1, model.bn2):
                norm.aux_bn["aux"].weight.mul_(-1.5).add_(0.3)
                norm.aux_bn["aux"].running_mean.sub_(0.5)
        assert not torch.equal(method.images(model, BATCH, "aux").x, first), "the attack does not see its own branch"


def test_the_attack_goes_through_the_auxiliary_branch(networks):
    routing(networks, AdvProp())


def test_the_main_branch_in_eval_mode_would_be_noticed(networks, monkeypatch):
    """EasyRobust's layer takes the main branch whenever it is not training, so its attacks, made in eval mode, do."""
    through = BranchNorm._through

    def main_unless_training(self, name, x):
        return through(self, name if self.training else "main", x)

    monkeypatch.setattr(BranchNorm, "_through", main_unless_training)
    with pytest.raises(AssertionError, match="sees the main branch"):
        routing(networks, AdvProp())


@pytest.mark.parametrize(("source", "radius"), [("pgd1", 1), ("pgd2", 2), ("pgd3", 3)])
def test_the_weaker_attacks_written_out(networks, source, radius):
    model, _, aux = networks()
    rng = BATCH.rng.at(source)
    target = (BATCH.y + 1 + rng.at("target").integers(BATCH.index, CLASSES - 1)) % CLASSES
    noise = random_start(BATCH.x, epsilon=radius / 255, norm="Linf", rng=rng.at("start"), index=BATCH.index)
    x_adv = descend(aux, BATCH.x, target, noise, epsilon=radius / 255, steps={1: 1, 2: 3, 3: 4}[radius])
    found = AdvProp(sources=(source,)).images(model, BATCH, "aux")
    torch.testing.assert_close(found.x, x_adv, rtol=0, atol=1e-6)
    assert torch.equal(found.y_a, BATCH.y)


@pytest.mark.parametrize(("source", "radius"), [("pgd", 4), ("pgd1", 1), ("pgd2", 2), ("pgd3", 3)])
def test_attacks_reach_their_radius_and_keep_it(networks, source, radius):
    model, *_ = networks()
    batch = replace(BATCH, x=(BATCH.x * 1.2 - 0.1).clamp(0, 1))
    assert (batch.x == 0).any()
    assert (batch.x == 1).any()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for random in (True, False):
        x_adv = AdvProp(sources=(source,), random_start=random).images(model, batch, "aux").x
        far = distance(batch.x, x_adv, "Linf")
        assert (far <= radius / 255).all()
        assert far.max() > (radius - 1e-3) / 255
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
    few = AdvProp(random_start=False, steps=2).images(model, batch, "aux").x
    assert distance(batch.x, few, "Linf").max() == pytest.approx(2 / 255, rel=1e-3)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), f"the attack changed {name}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # through the main branch, EasyRobust's mistake
        ("with use_branch(model, branch):\n            x_adv", "with use_branch(model, MAIN):\n            x_adv"),
        ("return unmixed(x_adv, batch.y)", "return unmixed(x_adv, labels)"),  # learns the target
        ("offset = 1 + rng", "offset = rng"),  # the true label as a target
        ("targeted=self.targeted,", "targeted=False,"),  # climbs the loss of the target
        ("mode=self.attack_bn", 'mode="train"'),  # moves running statistics
        ("mode=self.attack_bn", 'mode="train-frozen-stats"'),
        ("else batch.rng.at(source)\n        attack", "else batch.rng\n        attack"),  # the same draws for all
        ("_Attack(2 / 255, 1 / 255, 3)", "_Attack(2 / 255, 1 / 255, 2)"),
        ("steps=attack.steps", "steps=self.steps"),
    ],
)
def test_mutants_are_caught(networks, check, mutant, old, new):
    with pytest.raises(AssertionError):
        by_hand(networks, check, mutant(AdvProp, old, new)(sources=FINE_GRAINED, mix_alpha=0.5))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1 / len(parts)", "1 / 2"),
        ("part.y_a, part.y_b, part.lam).mean()", "part.y_b, part.y_a, part.lam).mean()"),  # labels the wrong way round
        ("with use_branch(model, branch):", "with use_branch(model, MAIN):"),
    ],
)
def test_mutants_of_the_shared_step_are_caught(networks, check, mutant, monkeypatch, old, new):
    monkeypatch.setattr(advprop, "learn", mutant(learn, old, new))
    with pytest.raises(AssertionError):
        by_hand(networks, check, AdvProp(sources=FINE_GRAINED, forward="two", mix_alpha=0.5))


def test_the_share_of_clean_starts():
    """As many batches as asked for start without noise, whole batches at a time."""
    x, index = BATCH.x, BATCH.index
    starts = [start_noise(x, index, BATCH.rng.at(i), epsilon=4 / 255, clean_start=0.5793) for i in range(300)]
    assert 0.5 < sum(start is None for start in starts) / 300 < 0.66
    assert start_noise(x, index, BATCH.rng, epsilon=4 / 255, clean_start=1.0) is None
    always = random_start(x, epsilon=4 / 255, norm="Linf", rng=BATCH.rng.at("start"), index=index)
    assert torch.equal(start_noise(x, index, BATCH.rng, epsilon=4 / 255, clean_start=0.0), always)
    assert all((start != 0).flatten(1).any(1).all() for start in starts if start is not None)


def test_a_clean_start_is_no_random_start(networks):
    model, *_ = networks()
    clean = AdvProp(clean_start=1.0).images(model, BATCH, "aux").x
    assert torch.equal(clean, AdvProp(random_start=False).images(model, BATCH, "aux").x)
    assert not torch.equal(clean, AdvProp().images(model, BATCH, "aux").x)


def test_every_branch_logs_its_loss_and_accuracy(networks):
    model, *_ = networks(branches=("aux", "pgd1", "cutmix"))
    logs = AdvProp(sources=("mixup", "pgd1", "cutmix")).step(model, BATCH, torch.autograd.backward)
    names = ("aux", "pgd1", "cutmix")
    assert set(logs) == {"loss", "accuracy", *(f"{what}_{name}" for what in ("loss", "accuracy") for name in names)}
