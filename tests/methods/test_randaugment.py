"""RandAugment against torchvision's strengths, PIL's operations and its loss written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from pydantic import ValidationError
from scipy import stats
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment as Peer

from robusteval.data import load
from robusteval.data.augment import as_float
from robusteval.data.ops import OPERATIONS, apply
from robusteval.method import Batch
from robusteval.methods import randaugment
from robusteval.methods.randaugment import RandAugment, strength
from robusteval.randomness import Stream
from robusteval.testing import MethodContract, example_batch

BATCH = example_batch(20)
AFFINE, BILINEAR = Image.Transform.AFFINE, Image.Resampling.BILINEAR
PEER = {
    "identity": "Identity",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "color": "Color",
    "contrast": "Contrast",
    "brightness": "Brightness",
    "sharpness": "Sharpness",
    "rotate": "Rotate",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
}
FACTORS = ("color", "contrast", "brightness", "sharpness")


def test_operations_are_the_fourteen_of_torchvision():
    assert tuple(OPERATIONS) == randaugment.OPERATIONS
    assert sorted(PEER[name] for name in OPERATIONS) == sorted(Peer._AUGMENTATION_SPACE)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 100)])
def test_strengths_are_those_of_torchvision(name, height, width):
    magnitudes, signed = Peer._AUGMENTATION_SPACE[PEER[name]]
    theirs = magnitudes(31, height, width)
    for magnitude in range(31):
        base, swing = strength(name, magnitude, height, width)
        expected = 0.0 if theirs is None else float(theirs[magnitude])
        if name in ("translate_x", "translate_y"):
            expected = int(expected)  # as torchvision does when it applies them
        if name == "solarize":
            expected *= 255  # of the highest level
        if signed:
            assert base == (1 if name in FACTORS else 0)
            assert swing == pytest.approx(expected, rel=1e-6)
        else:
            assert (base, swing) == (pytest.approx(expected, rel=1e-6, abs=1e-4), 0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_images_are_those_of_torchvision_with_bilinear_interpolation(name):
    """Up to the direction, which is drawn; torchvision's strengths are float32, so that single pixels differ."""
    images = load("cifar10-sample", "test").images[:20]
    base, swing = strength(name, 9, 32, 32)
    which = torch.full((20,), list(OPERATIONS).index(name))
    magnitudes, signed = Peer._AUGMENTATION_SPACE[PEER[name]]
    found = []
    for sign in (1, -1) if signed else (1,):
        mine = apply(images, tuple(OPERATIONS), which, torch.full((20,), base + sign * swing, dtype=torch.float64))
        value = 0.0 if magnitudes(31, 32, 32) is None else sign * float(magnitudes(31, 32, 32)[9])
        peer = Peer(interpolation=InterpolationMode.BILINEAR)
        theirs = []
        for image in images:
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            args = (picture, PEER[name], value, InterpolationMode.BILINEAR, peer._fill)
            theirs.append(torch.from_numpy(np.array(peer._apply_image_or_video_transform(*args))).permute(2, 0, 1))
        found.append((mine.int(), torch.stack(theirs).int()))
    mirrored = [(found[0][0], found[-1][1]), (found[-1][0], found[0][1])]
    off = min((torch.stack([(a - b).abs() for a, b in pairs]) for pairs in (found, mirrored)), key=torch.sum)
    assert off.max() <= (1 if name in ("rotate", "shear_x", "shear_y") else 0)
    assert off.float().mean() < 0.01


def operated(image, name, sign):
    """The operation at magnitude 9 of 30."""
    if name == "autocontrast":
        return ImageOps.autocontrast(image)
    if name == "equalize":
        return ImageOps.equalize(image)
    if name == "posterize":
        return ImageOps.posterize(image, 7)
    if name == "solarize":
        return ImageOps.solarize(image, 178.5)
    if name in FACTORS:
        return getattr(ImageEnhance, name.capitalize())(image).enhance(1 + sign * 0.27)
    if name == "rotate":
        return image.rotate(sign * 9, resample=BILINEAR)
    pixels = int(image.size[0] * 150 / 331 * 0.3)
    matrix = {
        "identity": (1, 0, 0, 0, 1, 0),
        "shear_x": (1, sign * 0.09, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, sign * 0.09, 1, 0),
        "translate_x": (1, 0, sign * pixels, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, sign * pixels),
    }[name]
    return image.transform(image.size, AFFINE, matrix, resample=BILINEAR)


def augmented_by_hand(batch, num_ops=2):
    rng = batch.rng.at("randaugment")
    number = rng.at("operation").integers(batch.index, 14, num_ops).tolist()
    sign = (1 - 2 * rng.at("sign").integers(batch.index, 2, num_ops)).tolist()
    out = []
    for i, x in enumerate(batch.x):
        image = Image.fromarray(np.rint(x.permute(1, 2, 0).double().numpy() * 255).astype(np.uint8))
        for step in range(num_ops):
            image = operated(image, list(PEER)[number[i][step]], sign[i][step])
        out.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(out).float() / 255


def photographs(n=60):
    index = torch.arange(n) * 37
    x = as_float(load("cifar10-sample", "train").images[:n])
    return Batch(x=x, y=index % 5, index=index, rng=Stream.of(5), classes=5)


@pytest.mark.parametrize("num_ops", [1, 2, 4])
def test_images_go_through_pil_operations_in_a_row(num_ops):
    for batch in (BATCH, photographs()):
        mine = RandAugment(num_ops=num_ops).augmented(batch)
        torch.testing.assert_close(mine, augmented_by_hand(batch, num_ops), rtol=0, atol=1e-6)


def by_hand(method, networks, check, batch=BATCH):
    x = augmented_by_hand(batch)
    branches = () if method.split_bn == "none" else ("aux",)
    model, main, *aux = networks(branches=branches)
    if method.split_bn == "none":
        loss = F.cross_entropy(main(x), batch.y)
    else:
        loss = (F.cross_entropy(main(batch.x), batch.y) + F.cross_entropy(aux[0](x), batch.y)) / 2
    loss.backward()
    check(model, method, main, *aux, branches=branches, batch=batch)
    logs = method.step(networks(branches=branches)[0], batch, torch.autograd.backward)
    torch.testing.assert_close(logs["loss"], loss.detach())


@pytest.mark.parametrize("split_bn", ["none", "aux"])
def test_step_by_hand(split_bn, networks, check):
    by_hand(RandAugment(split_bn=split_bn), networks, check)


@pytest.mark.parametrize(
    ("old", "new", "split_bn"),
    [
        ("logits = model(augmented)", "logits = model(batch.x)", "none"),
        ("[batch.x, augmented]", "[augmented, batch.x]", "aux"),
        ("loss = (plain + further) / 2", "loss = plain + further", "aux"),
        ("HIGHEST = 30", "HIGHEST = 10", "none"),
        ("return Strength(1, 0.9", "return Strength(0, 0.9", "none"),
        ("base + swing * sign[:, step]", "base + swing", "none"),
        ("chosen = which[:, step]", "chosen = which[:, 0]", "none"),
        ("self.num_ops).double()", "self.num_ops)", "none"),
        ("255 * (1 - share)", "255 * share", "none"),
    ],
)
def test_mistakes_are_found(old, new, split_bn, networks, check, mutant):
    with pytest.raises(AssertionError):
        by_hand(mutant(RandAugment, old, new)(split_bn=split_bn), networks, check, photographs())


def test_operations_are_drawn_uniformly_and_independently(monkeypatch):
    seen = []
    monkeypatch.setattr(
        randaugment.ops, "apply", lambda images, names, which, given: seen.append((which, given)) or images
    )
    n = 6000
    batch = Batch(torch.zeros(n, 3, 1, 1), torch.zeros(n).long(), torch.arange(n), Stream.of(1), 5)
    RandAugment().augmented(batch)
    (first, given), (second, _) = seen
    assert stats.chi2_contingency(np.histogram2d(first, second, bins=14)[0]).pvalue > 1e-3
    assert stats.chisquare(np.bincount(first)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(second)).pvalue > 1e-3
    turned = given[first == list(OPERATIONS).index("rotate")]
    assert set(turned.tolist()) == {-9.0, 9.0}
    assert stats.binomtest(int((turned > 0).sum()), len(turned)).pvalue > 1e-3


def test_pass_counts_and_options():
    assert RandAugment().passes().train == {"main": 1}
    assert RandAugment(split_bn="aux").passes().train == {"main": 1, "aux": 1}
    for bad in ({"magnitude": 31}, {"magnitude": -1}, {"num_ops": 0}, {"split_bn": "per_view"}):
        with pytest.raises(ValidationError):
            RandAugment(**bad)


class TestRandAugment(MethodContract):
    method = RandAugment()


class TestRandAugmentWithABranch(MethodContract):
    method = RandAugment(split_bn="aux", num_ops=3, magnitude=15)
