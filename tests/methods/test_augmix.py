"""AugMix against PIL, one image and one operation at a time, and against its loss written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from pydantic import ValidationError
from scipy import stats

from robusteval.data import load
from robusteval.data.augment import as_float
from robusteval.losses import jensen_shannon
from robusteval.method import Batch
from robusteval.methods import augmix
from robusteval.methods.augmix import AugMix
from robusteval.randomness import Stream
from robusteval.testing import MethodContract, example_batch

BATCH = example_batch(20)
AFFINE, BILINEAR = Image.Transform.AFFINE, Image.Resampling.BILINEAR


def operated(image, number, level, sign):
    """One of the nine operations at a level, with the paper's ranges: parts of the maximum, whole for some."""
    if number == 0:
        return ImageOps.autocontrast(image)
    if number == 1:
        return ImageOps.equalize(image)
    if number == 2:
        return ImageOps.posterize(image, 4 - int(level * 4 / 10))
    if number == 3:
        return ImageOps.solarize(image, 256 - int(level * 256 / 10))
    if number == 4:
        return image.rotate(sign * int(level * 30 / 10), resample=BILINEAR)
    width, height = image.size
    slope = sign * level * 0.3 / 10
    matrix = {
        5: (1, slope, 0, 0, 1, 0),
        6: (1, 0, 0, slope, 1, 0),
        7: (1, 0, sign * int(level * (width / 3) / 10), 0, 1, 0),
        8: (1, 0, 0, 0, 1, sign * int(level * (height / 3) / 10)),
    }[number]
    return image.transform((width, height), AFFINE, matrix, resample=BILINEAR)


def view_by_hand(batch, view, *, views=2, width=3, severity=3, depth=None):
    """The view of every image, from the step's raw draws and by PIL."""
    rng, chains, longest = batch.rng.at("augmix"), views * width, depth or 3
    number = rng.at("operation").integers(batch.index, 9, chains, longest).numpy()
    uniform = rng.at("level").uniform(batch.index, chains, longest).double().numpy()
    sign = 1 - 2 * rng.at("sign").integers(batch.index, 2, chains, longest).numpy()
    steps = rng.at("depth").integers(batch.index, 3, chains, 1).numpy()[..., 0] + 1
    exponential = -np.log(rng.at("weights").uniform(batch.index, views, width, 1).double().numpy()[:, view, :, 0])
    shares = -np.log(rng.at("share").uniform(batch.index, views, 2, 1).double().numpy()[:, view, :, 0])
    out = []
    for i, x in enumerate(batch.x):
        clean = x.permute(1, 2, 0).double().numpy()
        mixture = np.zeros_like(clean)
        for chain in range(width):
            at = (i, view * width + chain)
            image = Image.fromarray(np.rint(clean * 255).astype(np.uint8))
            for step in range(depth or steps[at]):
                level = 0.1 + (severity - 0.1) * uniform[at][step]
                image = operated(image, number[at][step], level, int(sign[at][step]))
            mixture += exponential[i, chain] / exponential[i].sum() * np.asarray(image) / 255
        m = shares[i, 0] / shares[i].sum()
        out.append((1 - m) * clean + m * mixture)
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float()


def photographs(n=40):
    images = load("cifar10-sample", "train").images[:n]
    index = torch.arange(n) * 37
    return Batch(x=as_float(images), y=index % 5, index=index, rng=Stream.of(5), classes=5)


@pytest.mark.parametrize("options", [{}, {"severity": 10, "depth": 4}, {"width": 1, "depth": 1, "severity": 1}])
def test_views_are_chains_of_pil_operations(options):
    for batch in (BATCH, photographs()):
        for view, mine in enumerate(AugMix(**options).augmented(batch)):
            torch.testing.assert_close(mine, view_by_hand(batch, view, **options), rtol=0, atol=1e-5)


def test_without_jsd_there_is_one_view():
    (mine,) = AugMix(jsd=False).augmented(BATCH)
    torch.testing.assert_close(mine, view_by_hand(BATCH, 0, views=1), rtol=0, atol=1e-5)


def test_mixing_pixels_is_mixing_normalised_images():
    (view, _), batch = AugMix().augmented(BATCH), BATCH
    weights, m = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), 0.4
    parts = torch.stack([view.flip(k) for k in range(3)]).double()
    mixed = (1 - m) * batch.x + m * (weights.view(3, 1, 1, 1, 1) * parts).sum(0)
    normalised = (1 - m) * (batch.x - 0.5) / 0.5 + m * (weights.view(3, 1, 1, 1, 1) * (parts - 0.5) / 0.5).sum(0)
    torch.testing.assert_close((mixed - 0.5) / 0.5, normalised)


def divergence(*logits):
    p = [F.softmax(part, dim=1) for part in logits]
    log_mixture = torch.clamp(sum(p) / len(p), 1e-7, 1).log()
    return sum(F.kl_div(log_mixture, part, reduction="batchmean") for part in p) / len(p)


def by_hand(method, networks, check, batch=BATCH):
    n, branches = len(batch.x), {"none": (), "aux": ("aux",), "per_view": ("view1", "view2")}[method.split_bn]
    model, *plain = networks(branches=branches)
    views = [view_by_hand(batch, view, views=2 if method.jsd else 1) for view in range(2 if method.jsd else 1)]
    if not method.jsd and method.split_bn == "none":
        loss = F.cross_entropy(plain[0](views[0]), batch.y)
    else:
        if method.split_bn == "none":
            logits = plain[0](torch.cat([batch.x, *views])).split(n)
        elif method.split_bn == "aux":
            logits = (plain[0](batch.x), *plain[1](torch.cat(views)).split(n))
        else:
            logits = [net(x) for net, x in zip(plain, [batch.x, *views], strict=True)]
        if method.jsd:
            loss = F.cross_entropy(logits[0], batch.y) + 12 * divergence(*logits)
        else:
            loss = (F.cross_entropy(logits[0], batch.y) + F.cross_entropy(logits[1], batch.y)) / 2
    loss.backward()
    check(model, method, *plain, branches=branches, batch=batch)
    logs = method.step(networks(branches=branches)[0], batch, torch.autograd.backward)
    torch.testing.assert_close(logs["loss"], loss.detach())


CONFIGURATIONS = [{"split_bn": s, "jsd": j} for s in ("none", "aux", "per_view") for j in (True, False)][:-1]


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_step_by_hand(options, networks, check):
    by_hand(AugMix(**options), networks, check)


@pytest.mark.parametrize(
    ("old", "new", "options"),
    [
        ("loss = losses[0] +", "loss = torch.stack(losses).mean() +", {}),
        ("[batch.x, *views] if", "[*views, batch.x] if", {}),
        ("jensen_shannon(logits)", "jensen_shannon(logits[1:])", {}),
        ("jensen_shannon(logits)", "jensen_shannon([part.detach() for part in logits])", {}),
        ("mixture, share.view", "mixture, 1 - share.view", {}),
        ("4 - whole(4)", "8 - whole(4)", {}),
        ("256 - whole(256)", "whole(256)", {}),
        ("0.1 + (self.severity - 0.1) *", "self.severity *", {}),
        ("arange(longest, device=index.device) >= depth", "arange(longest, device=index.device) > depth", {}),
        ('rng.at("sign").integers(index, 2,', 'rng.at("sign").integers(index, 1,', {}),
        ("{AUX: self.views}", "{AUX: 1, MAIN: self.views}", {"split_bn": "aux"}),
        ('VIEWS = ("view1", "view2")', 'VIEWS = ("view2", "view1")', {"split_bn": "per_view"}),
        (
            "torch.stack(losses).mean()\n            backward",
            "losses[0]\n            backward",
            {"jsd": False, "split_bn": "aux"},
        ),
    ],
)
def test_mistakes_are_found(old, new, options, networks, check, mutant):
    with pytest.raises(AssertionError):
        by_hand(mutant(AugMix, old, new)(**options), networks, check, photographs(24))


def test_draws_follow_the_laws(monkeypatch):
    """Operations, lengths and levels are uniform; chain weights are Dirichlet, the mixture's share Beta."""
    n, seen = 4000, []

    def marked(images, names, which, strength):
        seen.append((which.view(n, 6), strength.view(n, 6)))
        images = torch.zeros_like(images).view(n, 6, 3, 1, 1)
        images[:, 0, 0] = 255  # channel 0 shows the first chain of the first view, channel 1 all of its chains
        images[:, :3, 1] = 255
        return images.view(-1, 3, 1, 1)

    monkeypatch.setattr(augmix.ops, "apply", marked)
    batch = Batch(torch.zeros(n, 3, 1, 1), torch.zeros(n).long(), torch.arange(n), Stream.of(1), 5)
    for alpha in (1, 3):
        seen.clear()
        first, second = (view[:, :, 0, 0].double().numpy() for view in AugMix(alpha=alpha).augmented(batch))
        assert stats.kstest(first[:, 1], stats.beta(alpha, alpha).cdf).pvalue > 1e-3
        assert stats.kstest(first[:, 0] / first[:, 1], stats.beta(alpha, 2 * alpha).cdf).pvalue > 1e-3
        assert abs(stats.pearsonr(first[:, 1], first[:, 0] / first[:, 1]).statistic) < 0.06
        assert (second == 0).all()
    which = torch.stack([w for w, _ in seen], dim=2)
    done = which >= 0
    assert stats.chisquare(np.bincount(done.sum(2).flatten().numpy())[1:]).pvalue > 1e-3
    assert torch.equal(done, torch.arange(3) < done.sum(2, keepdim=True))
    assert stats.chisquare(np.bincount(which[done].numpy())).pvalue > 1e-3
    assert stats.chi2_contingency(np.histogram2d(*which[done.all(2)][:, :2].T.numpy(), bins=9)[0]).pvalue > 1e-3
    slopes = torch.stack([s for _, s in seen], dim=2)[which == 5].double().numpy()
    assert stats.kstest(np.abs(slopes), stats.uniform(0.003, 0.087).cdf).pvalue > 1e-3
    assert stats.binomtest(int((slopes > 0).sum()), len(slopes)).pvalue > 1e-3


def test_a_view_depends_on_the_image_its_index_and_the_stream_only():
    whole, order = AugMix().augmented(BATCH), torch.randperm(20)[:7]
    part = Batch(BATCH.x[order], BATCH.y[order], BATCH.index[order], BATCH.rng, 5)
    for all_of_it, some in zip(whole, AugMix().augmented(part), strict=True):
        assert torch.equal(all_of_it[order], some)
    assert not torch.allclose(whole[0], whole[1], atol=0.05)
    other = Batch(BATCH.x, BATCH.y, BATCH.index, BATCH.rng.at("later"), 5)
    assert not torch.allclose(AugMix().augmented(other)[0], whole[0], atol=0.05)


def test_divergence_is_the_entropy_of_the_mean_minus_the_mean_entropy():
    logits = [3 * torch.randn(30, 7, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    p = np.stack([part.double().softmax(1).numpy() for part in logits])
    expected = stats.entropy(p.mean(0), axis=1) - stats.entropy(p, axis=2).mean(0)
    np.testing.assert_allclose(jensen_shannon(logits).numpy(), expected, rtol=1e-4, atol=1e-6)
    assert jensen_shannon([logits[0]] * 3).abs().max() < 1e-6


def test_divergence_of_certain_predictions_is_bounded_and_has_a_gradient():
    certain = (200 * torch.eye(4)).requires_grad_()
    value = jensen_shannon([certain, -certain, certain])
    value.sum().backward()
    assert value.isfinite().all()
    assert certain.grad.isfinite().all()
    for part in ([200.0, 0.0, 0.0], [0.0, 200.0, 0.0]):
        torch.testing.assert_close(
            jensen_shannon([torch.tensor([part]), torch.tensor([[0.0, 0.0, 200.0]])]), torch.log(torch.tensor([2.0]))
        )


def test_pass_counts():
    assert AugMix().passes().train == {"main": 3}
    assert AugMix(split_bn="aux").passes().train == {"main": 1, "aux": 2}
    assert AugMix(split_bn="per_view").passes().train == {"main": 1, "view1": 1, "view2": 1}
    assert AugMix(jsd=False).passes().train == {"main": 1}
    assert AugMix(jsd=False, split_bn="aux").passes().train == {"main": 1, "aux": 1}


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="allowed: 1 or more, or -1"):
        AugMix(depth=0)
    with pytest.raises(ValueError, match="there is one view"):
        AugMix(split_bn="per_view", jsd=False)
    for bad in ({"severity": 0}, {"severity": 11}, {"alpha": 0.5}, {"width": 0}, {"depth": -2}):
        with pytest.raises(ValidationError):
            AugMix(**bad)


class TestAugMix(MethodContract):
    method = AugMix()


class TestAugMixWithABranchForViews(MethodContract):
    method = AugMix(split_bn="aux", alpha=2, depth=2)


class TestAugMixWithABranchPerView(MethodContract):
    method = AugMix(split_bn="per_view", width=2, severity=5)


class TestAugMixWithoutDivergence(MethodContract):
    method = AugMix(jsd=False)


class TestAugMixWithoutDivergenceWithABranch(MethodContract):
    method = AugMix(jsd=False, split_bn="aux")
