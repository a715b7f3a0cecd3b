"""Seconds of PGD-20 and AutoAttack beside torchattacks, foolbox and pyautoattack, at equal strength.

    python benchmarks/perf/attacks.py [--threads 2] [--rounds 3] [--images 256] [--autoattack 100] [--network resnet20]
                                      [--only-right]

A network is trained on the embedded photographs with Fast AT, and radii are sought at which a quarter and half of the
first test images withstand PGD-20 (half may be more than it gets right: then it is 0.9 of these). The images are taken
as they come, as each package is used; with ``--only-right`` only those that the network gets right, since every side
could leave out the others, and the shares are of these. Every side judges the same images with the same network, steps
and radius, in a process of its own (memory allocator settings hold for a whole process), in turn within every round;
medians over the rounds are printed, with the images that each side leaves standing, judged in float32 by one and the
same loop.
Ours runs as `robusteval run` would: half precision where the processor has it, every claimed example confirmed in
float32; the checks of the number are left out, which no other side makes. The packages torchattacks, foolbox and
pyautoattack are to be installed apart from the project (their requirements conflict with one another's); name the
folder in ``PYTHONPATH``. What is missing is left out. AutoAttack of torchattacks runs 10 iterations where the standard
has 100 and is no comparison. ``--autoattack 0`` leaves AutoAttack out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

STEPS = 20
SIDES = {
    "pgd": ("robusteval", "robusteval float32", "torchattacks", "foolbox"),
    "autoattack": ("robusteval", "robusteval float32", "pyautoattack"),
}
PACKAGES = ("torchattacks", "foolbox", "pyautoattack")


class Clock:
    """Seconds since it was made: on the wall, and of the processor, which other programs disturb less."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def spent(self) -> dict[str, float]:
        """Both."""
        return {"seconds": time.perf_counter() - self.wall, "processor": time.process_time() - self.processor}


def train(network: str, epochs: int, out: Path) -> None:
    """Writes the weights of a network trained with Fast AT."""
    import torch

    from robusteval import models
    from robusteval.data import load
    from robusteval.methods import METHODS
    from robusteval.progress import Silent
    from robusteval.runtime import prepare
    from robusteval.train import train as fit
    from robusteval.training import Training

    device = prepare("cpu", torch.get_num_threads()).device
    method = METHODS["fast_at"](epsilon=2 / 255)
    data, recipe = load("cifar10-sample", "train"), Training(epochs=epochs, batch_size=128)
    trained = fit(models.build(network, classes=10), method, data, recipe, seed=0, device=device, progress=Silent())
    torch.save(method.deploy(trained.model).state_dict(), out)


def measure(
    side: str, attack: str, network: str, weights: Path, images: int, epsilon: float, *, only_right: bool
) -> dict[str, float]:
    """Seconds, how many images are left standing, and how many the network gets right unchanged."""
    import torch

    from robusteval import models
    from robusteval.data import load
    from robusteval.hardware import choose_precision
    from robusteval.tasks import AutoAttack, Context, Pgd
    from robusteval.tasks.predict import right, to_input

    threads = torch.get_num_threads()
    model = models.build(network, classes=10)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    data = load("cifar10-sample", "test")
    everything = to_input(data.images, torch.device("cpu"))
    known = right(model, everything, data.labels, classes=10, where="", batch_size=100)
    chosen = (torch.nonzero(known)[:, 0] if only_right else torch.arange(len(known)))[:images]
    assert len(chosen) == images, f"there are {len(chosen)} such images; fewer --images or more --epochs"
    data = replace(data, images=data.images[chosen], labels=data.labels[chosen])
    x, y, clean = everything[chosen], data.labels, int(known[chosen].sum())

    if side.startswith("robusteval"):
        from robusteval.runtime import prepare

        device = prepare("cpu", threads).device
        precision = "float32" if side.endswith("float32") else choose_precision("auto", device)
        context = Context(device, seed=0, deployed="main", batch_size=100, precision=precision)
        pgd = Pgd(epsilon=epsilon, step=epsilon / 4, steps=STEPS, checked=0)
        task = pgd if attack == "pgd" else AutoAttack(epsilon=epsilon, checked=0)
        list(
            Pgd(epsilon=epsilon, step=epsilon / 4, steps=1, limit=64, checked=0).measure({"main": model}, data, context)
        )
        began = Clock()
        (found,) = task.measure({"main": model}, data, context)
        return {**began.spent(), "robust": int(found.outcomes.sum()), "clean": clean}

    def torchattacks_pgd(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        import torchattacks

        return torchattacks.PGD(model, eps=epsilon, alpha=epsilon / 4, steps=STEPS)(x, y)

    def foolbox_pgd(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        import foolbox

        attack = foolbox.attacks.LinfPGD(abs_stepsize=epsilon / 4, steps=STEPS)
        return attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=epsilon)[1]

    def auto(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        from pyautoattack import AutoAttack as Theirs

        found = Theirs(model, eps=epsilon, norm="Linf", seed=0).run_standard_evaluation(x, y, batch_size=250)
        return found[0] if isinstance(found, tuple) else found

    sides: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "torchattacks": torchattacks_pgd,
        "foolbox": foolbox_pgd,
        "pyautoattack": auto,
    }
    x = x.contiguous()  # as these packages are used
    if attack == "pgd":
        sides[side](x[:64], y[:64])
    began = Clock()
    adversarial = sides[side](x, y)
    spent = began.spent()
    standing = right(model, adversarial, y, classes=10, where="", batch_size=100) & known[chosen]
    return {**spent, "robust": int(standing.sum()), "clean": clean}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--autoattack", type=int, default=100, help="images for AutoAttack")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--only-right", action="store_true", help="only images that the network gets right")
    parser.add_argument("--weights", help="a file to keep the trained weights in; taken as it is where it exists")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        import torch

        torch.set_num_threads(arguments.threads)
        child = arguments.child
        if "out" in child:
            train(child["network"], child["epochs"], Path(child["out"]))
        else:
            print(json.dumps(measure(**child | {"weights": Path(child["weights"])})))
        return

    def run(**child: object) -> str:
        words = [sys.executable, __file__, "--threads", str(arguments.threads), "--child", json.dumps(child)]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
        if found.returncode:
            raise SystemExit(found.stderr)
        return found.stdout

    def measured(side: str, attack: str, images: int, epsilon: float) -> dict[str, float]:
        asked = {"side": side, "attack": attack, "images": images, "epsilon": epsilon}
        shown = run(**asked, network=arguments.network, weights=weights, only_right=arguments.only_right)
        return json.loads(shown.splitlines()[-1])

    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights or str(Path(folder) / "weights.pt")
        if not Path(weights).exists():
            run(network=arguments.network, epochs=arguments.epochs, out=weights)
        for share in (0.25, 0.5):
            low, high = 0.0, 16 / 255
            for _ in range(9):
                epsilon = (low + high) / 2
                found = measured("robusteval", "pgd", arguments.images, epsilon)
                wanted = min(share * arguments.images, 0.9 * found["clean"])
                low, high = (epsilon, high) if found["robust"] > wanted else (low, epsilon)
            for attack, images in (("pgd", arguments.images), ("autoattack", arguments.autoattack)):
                sides = [side for side in SIDES[attack] if side not in PACKAGES or find_spec(side)]
                if images == 0 or (attack == "autoattack" and share == 0.5):
                    continue
                rounds = 1 if attack == "autoattack" else arguments.rounds
                table: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
                for _ in range(rounds):
                    for side in sides:
                        table[side].append(measured(side, attack, images, epsilon))
                print(
                    f"{'PGD-20' if attack == 'pgd' else 'AutoAttack'}, Linf {255 * epsilon:.2f}/255, {images} images, "
                    f"{int(found['clean'])} of the first {arguments.images} right, {arguments.network}, "
                    f"{arguments.threads} threads, medians of {rounds}"
                )
                own = {kind: median(table["robusteval"], kind) for kind in ("seconds", "processor")}
                for side, runs in table.items():
                    wall, processor = (
                        f"{median(runs, kind):8.2f} s {unit} {median(runs, kind) / own[kind]:5.2f}x ours"
                        for kind, unit in (("seconds", ""), ("processor", "of processor"))
                    )
                    left = sorted({int(one["robust"]) for one in runs})
                    print(f"  {side:20} {wall} {processor}   left standing {left}", flush=True)


def median(runs: list[dict[str, float]], kind: str) -> float:
    """The median of one of the times."""
    return statistics.median(one[kind] for one in runs)


if __name__ == "__main__":
    main()
