"""Gaussian noise on part of the batch, against the step written out."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy import stats

from robusteval.errors import UserError
from robusteval.method import Batch
from robusteval.methods.gaussian_noise import GaussianNoise
from robusteval.randomness import Stream
from robusteval.testing import MethodContract, example_batch

BATCH = example_batch(20)


def by_hand(method, networks, check, *, sigma=0.1, noisy=10):
    kept = 20 - noisy
    x = BATCH.x.clone()
    for i in range(kept, 20):
        noise = BATCH.rng.at("noise").normal(BATCH.index[i : i + 1], 3, 8, 8)[0]
        x[i] = torch.minimum(torch.maximum(x[i] + sigma * noise, torch.zeros(())), torch.ones(()))
    branches = () if method.split_bn == "none" else ("aux",)
    model, main, *aux = networks(branches=branches)
    logits = main(x) if method.split_bn == "none" else torch.cat([main(x[:kept]), aux[0](x[kept:])])
    loss = F.cross_entropy(logits, BATCH.y)
    loss.backward()
    check(model, method, main, *aux, branches=branches, batch=BATCH)
    logs = method.step(networks(branches=branches)[0], BATCH, torch.autograd.backward)
    torch.testing.assert_close(logs["loss"], loss.detach())


@pytest.mark.parametrize("split_bn", ["none", "aux"])
@pytest.mark.parametrize(("sigma", "share", "noisy"), [(0.1, 0.5, 10), (0.5, 0.3, 6)])
def test_step_by_hand(sigma, share, noisy, split_bn, networks, check):
    by_hand(GaussianNoise(sigma=sigma, share=share, split_bn=split_bn), networks, check, sigma=sigma, noisy=noisy)


@pytest.mark.parametrize(
    ("old", "new", "split_bn"),
    [
        (".clamp(0, 1)", "", "none"),
        ("self.sigma * noise", "self.sigma**2 * noise", "none"),
        ("batch_size - round(self.share * batch_size)", "0", "none"),
        (".normal(batch.index[kept:]", ".uniform(batch.index[kept:]", "none"),
        ("{MAIN: kept, AUX: n - kept}", "{AUX: n - kept, MAIN: kept}", "aux"),
        ("model(self.noisy(batch))", "model(batch.x)", "aux"),
        ("cross_entropy(logits, batch.y).mean()", "cross_entropy(logits, batch.y)[:kept].mean()", "aux"),
    ],
)
def test_mistakes_are_found(old, new, split_bn, networks, check, mutant):
    with pytest.raises(AssertionError):
        by_hand(mutant(GaussianNoise, old, new)(split_bn=split_bn, sigma=0.3), networks, check, sigma=0.3)


def test_noise_is_normal_of_its_standard_deviation():
    n = 400
    grey = Batch(torch.full((n, 3, 8, 8), 0.5), torch.zeros(n).long(), torch.arange(n), Stream.of(0), 5)
    x = GaussianNoise(sigma=0.05, share=0.75).noisy(grey)
    assert torch.equal(x[:100], grey.x[:100])
    assert stats.kstest((x[100:] - 0.5).flatten().double().numpy(), stats.norm(0, 0.05).cdf).pvalue > 1e-3


def test_noise_depends_on_the_image_and_the_step_only():
    method = GaussianNoise(share=1.0)
    whole, order = method.noisy(BATCH), torch.tensor([3, 17, 5])
    part = Batch(BATCH.x[order], BATCH.y[order], BATCH.index[order], BATCH.rng, 5)
    assert torch.equal(method.noisy(part), whole[order])
    assert not torch.allclose(method.noisy(example_batch(20, step=1)) - example_batch(20, step=1).x, whole - BATCH.x)


def test_pass_counts():
    assert GaussianNoise().passes().train == {"main": 1}
    assert GaussianNoise(split_bn="aux", share=0.25).passes().train == {"main": 0.75, "aux": 0.25}


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="more than the whole pixel range"):
        GaussianNoise(sigma=8.0)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="both branches need images"):
            GaussianNoise(split_bn="aux", share=share)
        assert GaussianNoise(share=share).share == share
    with pytest.raises(ValidationError):
        GaussianNoise(sigma=0.0)


@pytest.mark.parametrize(("share", "size", "noisy"), [(0.01, 20, 0), (0.99, 20, 20), (0.5, 1, 0)])
def test_a_branch_without_images_is_refused(share, size, noisy, networks):
    """Else the main branch might be deployed without ever having been trained."""
    batch = example_batch(size)
    with pytest.raises(UserError, match=f"makes {noisy} of a batch of {size} noisy.*allowed: another share"):
        GaussianNoise(split_bn="aux", share=share).step(networks()[0], batch, torch.autograd.backward)
    GaussianNoise(share=share).step(networks()[0], batch, torch.autograd.backward)  # one branch takes them all


class TestGaussianNoise(MethodContract):
    method = GaussianNoise()


class TestGaussianNoiseWithABranch(MethodContract):
    method = GaussianNoise(split_bn="aux", share=0.25, sigma=0.2)


class TestGaussianNoiseOnAll(MethodContract):
    method = GaussianNoise(share=1.0)
