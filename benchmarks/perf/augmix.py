"""The cost of AugMix views beside the usual way, PIL on one image at a time, on the embedded sample.

    python benchmarks/perf/augmix.py [--batch 128] [--rounds 5] [--device cpu]

Both make two views of every image of a batch, with the paper's hyper-parameters, on one core (a data loader with
several workers spreads the PIL way over more); with ``--device cuda`` ours runs on the GPU, beside PIL on a core.
The medians over the rounds are printed, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from PIL import Image, ImageOps

from robusteval.data import load
from robusteval.data.augment import as_float
from robusteval.method import Batch
from robusteval.methods.augmix import AugMix
from robusteval.randomness import Stream
from robusteval.runtime import prepare


def operated(image: Image.Image, number: int, level: float, sign: int) -> Image.Image:
    """The image after one of the nine operations, by PIL."""
    if number == 0:
        return ImageOps.autocontrast(image)
    if number == 1:
        return ImageOps.equalize(image)
    if number == 2:
        return ImageOps.posterize(image, 4 - int(level * 0.4))
    if number == 3:
        return ImageOps.solarize(image, 256 - int(level * 25.6))
    if number == 4:
        return image.rotate(sign * int(level * 3), resample=Image.Resampling.BILINEAR)
    matrix = {
        5: (1, sign * level * 0.03, 0, 0, 1, 0),
        6: (1, 0, 0, sign * level * 0.03, 1, 0),
        7: (1, 0, sign * int(level * 32 / 30), 0, 1, 0),
        8: (1, 0, 0, 0, 1, sign * int(level * 32 / 30)),
    }[number]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)


def view(image: Image.Image, rng: np.random.Generator) -> torch.Tensor:
    """One view of one image by PIL."""
    clean = tensor(image)
    mixture = torch.zeros_like(clean)
    for weight in rng.dirichlet([1.0] * 3):
        chain = image
        for _ in range(rng.integers(1, 4)):
            chain = operated(chain, int(rng.integers(9)), rng.uniform(0.1, 3), 1 if rng.uniform() < 0.5 else -1)
        mixture += float(weight) * tensor(chain)
    share = float(rng.beta(1.0, 1.0))
    return (1 - share) * clean + share * mixture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = prepare(arguments.device, 1).device
    levels = load("cifar10-sample", "train").images[: arguments.batch]
    index = torch.arange(len(levels), device=device)
    batch = Batch(x=as_float(levels.to(device)), y=index % 10, index=index, rng=Stream.of(0), classes=10)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in levels]
    rng, method = np.random.default_rng(0), AugMix()

    def ours() -> None:
        method.augmented(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def plain() -> None:
        for _ in range(2):
            torch.stack([view(picture, rng) for picture in pictures])

    seconds: dict[str, list[float]] = {"PIL": [], "robusteval": []}
    ours(), plain()  # warm up
    for _ in range(arguments.rounds):
        for name, way in (("PIL", plain), ("robusteval", ours)):
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:10} {1000 * median:8.1f} ms for two views of {len(levels)} images")
    print(f"ratio {medians['PIL'] / medians['robusteval']:.1f}")


if __name__ == "__main__":
    main()
