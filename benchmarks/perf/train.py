"""Training speed beside a plain float32 loop, in images per second, on the embedded sample.

    python benchmarks/perf/train.py [--threads 2] [--rounds 3] [--seconds 15] [--networks resnet20 resnet18]

The plain loop is what most repositories do: DataLoader with torchvision transforms on PIL images, float32,
contiguous layout, attack gradients through ``loss.backward()``. Each side runs in a process of its own (memory
allocator settings hold for a whole process), the two in turn; the medians over the rounds and their ratio are
printed. Both use the same network, batch size, optimizer and, for pgd_at, the same number of attack steps.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time

BATCH, STEPS, EPSILON, STEP = 128, 7, 8 / 255, 2 / 255
METHODS = ("standard", "pgd_at")


def ours(network: str, method: str, seconds: float) -> float:
    """Images per second of robusteval's loop with its defaults."""
    import torch

    from robusteval import models
    from robusteval.data import load
    from robusteval.methods import METHODS
    from robusteval.progress import Silent
    from robusteval.runtime import prepare
    from robusteval.train import train
    from robusteval.training import Training

    class Done(Exception):
        pass

    class Clock(Silent):
        def __init__(self) -> None:
            self.times: list[float] = []

        def advance(self, amount: int = 1, note: str = "") -> None:
            self.times.append(time.perf_counter())
            if len(self.times) > 8 and self.times[-1] - self.times[5] > seconds:
                raise Done

    device = prepare("cpu", torch.get_num_threads()).device
    clock = Clock()
    with contextlib.suppress(Done):
        train(
            models.build(network, classes=10),
            METHODS[method](),
            load("cifar10-sample", "train"),
            Training(epochs=10_000, batch_size=BATCH),
            seed=0,
            device=device,
            progress=clock,
        )
    times = clock.times[5:]  # the first steps count FLOPs and warm up
    return BATCH * (len(times) - 1) / (times[-1] - times[0])


def plain(network: str, method: str, seconds: float) -> float:
    """Images per second of the plain loop."""
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    from robusteval import models
    from robusteval.data import load

    sample = load("cifar10-sample", "train")

    class Photographs(Dataset):
        def __init__(self) -> None:
            self.images = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in sample.images]
            self.transform = transforms.Compose(
                [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
            )

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return self.transform(self.images[i]), int(sample.labels[i])

    def attack(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x_adv = x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)
        for _ in range(STEPS):
            x_adv = x_adv.detach().requires_grad_()
            F.cross_entropy(model(x_adv), y).backward()
            x_adv = x_adv.detach() + STEP * x_adv.grad.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPSILON), x + EPSILON).clamp(0, 1)
        return x_adv.detach()

    model = models.build(network, classes=10).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(Photographs(), batch_size=BATCH, shuffle=True, drop_last=True)
    times: list[float] = []
    while True:
        for x, y in loader:
            if method == "pgd_at":
                x = attack(x, y)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            times.append(time.perf_counter())
            if len(times) > 8 and times[-1] - times[5] > seconds:
                return BATCH * (len(times) - 6) / (times[-1] - times[5])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet18"])
    parser.add_argument("--side", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        import torch

        torch.set_num_threads(arguments.threads)
        side = ours if arguments.side == "ours" else plain
        print(side(arguments.networks[0], arguments.method, arguments.seconds))
        return

    def run(side: str, network: str, method: str) -> float:
        words = [sys.executable, __file__, "--side", side, "--networks", network, "--method", method]
        words += ["--threads", str(arguments.threads), "--seconds", str(arguments.seconds)]
        return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    print(f"{'network':10} {'method':10} {'plain im/s':>12} {'robusteval im/s':>16} {'ratio':>6}   (each round)")
    for network in arguments.networks:
        for method in METHODS:
            rounds = [(run("plain", network, method), run("ours", network, method)) for _ in range(arguments.rounds)]
            theirs, own = (statistics.median(side) for side in zip(*rounds, strict=True))
            each = " ".join(f"{b / a:.2f}" for a, b in rounds)
            print(f"{network:10} {method:10} {theirs:12.1f} {own:16.1f} {own / theirs:6.2f}   ({each})", flush=True)


if __name__ == "__main__":
    main()
