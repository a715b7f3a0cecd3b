"""The data sets that are known: classes, statistics, sizes and the digests of their real content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

KRIZHEVSKY = (
    "Krizhevsky, A. (2009). Learning multiple layers of features from tiny images. "
    "Technical report, University of Toronto. https://www.cs.toronto.edu/~kriz/cifar.html"
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_CIFAR10_CLASSES = _words("airplane automobile bird cat deer dog frog horse ship truck")
_CIFAR100_CLASSES = _words(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""
)
# The superclass of each CIFAR-100 class: the first label byte of the binary layout.
_CIFAR100_COARSE = (
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7),
    *(6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10),
    *(16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16),
    *(12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a data set of 32x32 RGB photographs.

    Attributes:
        name: its name in suites and on the command line.
        family: whose file layouts it uses.
        classes: class names in label order.
        mean, std: per channel, of the whole training set's pixels in [0, 1].
        sizes: images per split of the complete set, equally many of every class.
        digests: `robusteval.data.digest.content_digest` of the real content.
        binary_sha256: published sha256 of the official binary file, for a split whose content digest is not pinned.
        block_md5: published md5 of the binary files that make up the training split, in order.
        coarse: superclass of each class, for layouts that store both; empty if there are none.
        embedded: whether the images come with the package.
    """

    name: str
    family: Literal["cifar10", "cifar100"]
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sizes: Mapping[Split, int]
    digests: Mapping[Split, str]
    description: str
    citation: str = KRIZHEVSKY
    binary_sha256: Mapping[Split, str] = field(default_factory=dict)
    block_md5: tuple[str, ...] = ()
    coarse: tuple[int, ...] = ()
    embedded: bool = False


SAMPLE = DatasetInfo(
    name="cifar10-sample",
    family="cifar10",
    classes=_CIFAR10_CLASSES,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    sizes={"train": 4_000, "test": 1_000},
    digests={
        "train": "e757872ca1de0d5677e8399ba72019f808c380e24f53f979b3f147f691fb77e7",
        "test": "c045ce8889cfb6ee458d7dc4b4a1c81139da654b605e51e7e68b2cb468a27e8d",
    },
    description="4,000 training and 1,000 test images of CIFAR-10, class-balanced; comes with the package",
    embedded=True,
)

CIFAR10 = DatasetInfo(
    name="cifar10",
    family="cifar10",
    classes=_CIFAR10_CLASSES,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    sizes={"train": 50_000, "test": 10_000},
    digests={
        "train": "72383c4ed1e62a51a005e3c5d1d5b765c3206ae857bce8fb6a48ae2e77c4ea06",
        "test": "fcc20186aa7bcec3de194d9d53c94ca093a9a57474c58f737134cd05fc182be3",
    },
    block_md5=(
        "5dd7e06a14cb22eb9f671a540d1b7c25",
        "5ea93a67294ea407fff1d09f752e9692",
        "942cd6a4bcdd0dd3c604fbe906cb4421",
        "ae636b3ba5c66a11e91e8cb52e771fcb",
        "53f37980c15c3d472c316c40844f3f0d",
    ),
    description="50,000 training and 10,000 test photographs in 10 classes",
)

CIFAR100 = DatasetInfo(
    name="cifar100",
    family="cifar100",
    classes=_CIFAR100_CLASSES,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    sizes={"train": 50_000, "test": 10_000},
    digests={"test": "938e22e5feeefffe5de3a18b06ad789213d80cb73caba1acd2ad86b9f72538d3"},
    binary_sha256={"train": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"},
    coarse=_CIFAR100_COARSE,
    description="50,000 training and 10,000 test photographs in 100 classes",
)

DATASETS: Mapping[str, DatasetInfo] = MappingProxyType({info.name: info for info in (SAMPLE, CIFAR10, CIFAR100)})
"""Every data set by name; the first is the default."""
