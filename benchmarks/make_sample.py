"""Choose and write the embedded sample ``cifar10-sample`` from the complete CIFAR-10.

    python benchmarks/make_sample.py --data-dir DIR [--out FOLDER]

The choice depends on nothing but the seed below and the positions of the images in the official files: within a class
and split, the images whose position hashes lowest are taken, in the order of the hashes. Image i of the sample is of
class i % 10, so that every prefix is balanced over the classes to within one image.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from robusteval.data import load
from robusteval.data.digest import content_digest
from robusteval.data.registry import SPLITS, Split
from robusteval.data.sample import fold

SEED = "robusteval cifar10-sample 1"
PER_CLASS: dict[Split, int] = {"train": 400, "test": 100}
CLASSES = 10


def choose(labels: Sequence[int], split: Split) -> list[int]:
    """Positions of the sample's images in the split, round-robin over the classes."""
    by_class: list[list[int]] = [[] for _ in range(CLASSES)]
    for position, label in enumerate(labels):
        by_class[label].append(position)

    def rank(position: int) -> bytes:
        return hashlib.sha256(f"{SEED}/{split}/{position}".encode()).digest()

    chosen = [sorted(positions, key=rank)[: PER_CLASS[split]] for positions in by_class]
    return [chosen[label][turn] for turn in range(PER_CLASS[split]) for label in range(CLASSES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with the complete CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "robusteval/data/sample")
    arguments = parser.parse_args()
    index = {}
    for split in SPLITS:
        whole = load("cifar10", split, data_dir=arguments.data_dir)
        if not whole.verified:
            raise SystemExit(f"{arguments.data_dir}: {split} is not the published CIFAR-10")
        positions = choose(whole.labels.tolist(), split)
        images = np.ascontiguousarray(whole.images.numpy()[positions])
        labels = whole.labels.numpy()[positions]
        path = arguments.out / f"{split}.webp"
        # `exact` keeps the colour of every pixel; method and quality only decide how hard the encoder tries.
        Image.fromarray(fold(images)).save(path, lossless=True, exact=True, quality=100, method=6)
        index[split] = {"indices": positions, "labels": labels.tolist()}
        print(f"{path}: {len(labels)} images, {path.stat().st_size} bytes, digest {content_digest(images, labels)}")
    (arguments.out / "index.json").write_text(json.dumps(index) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
