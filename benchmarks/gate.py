"""How often the gate of `robusteval check` is red for nothing, and which drop it finds.

    python benchmarks/gate.py simulate [--calls 400]
    python benchmarks/gate.py power [--calls 400]
    python benchmarks/gate.py seen FILE_OR_FOLDER
    python benchmarks/gate.py make FOLDER            # trains the 75 small networks that `reruns` needs; minutes
    python benchmarks/gate.py reruns FOLDER [--draws 100]

``simulate``: calls of the gate over trainings that differ in nothing but their seed. Images differ in difficulty, each
training is shifted by its seed (``sd``, in log-odds; 0.1 is about 1.7 points of accuracy), and so are its answers to
single images; configurations may differ in how much their trainings vary (``between``: the standard deviation of the
logarithm of sd). ``red`` is the share of calls with any regression, tolerance 0, so that nothing hides behind it; it is
to be 1 % at most, as promised. ``naive`` is the same with one training as baseline and no allowance for seeds.
``blind`` is the share of numbers that could fall to 0 unseen; they are many where accuracies are low (``most``).

``power``: the smallest drop of accuracy, in points, that turns the gate red in 95 % of the calls.

``seen``: of a baseline file, or of a folder of runs, how many numbers could fall to 0 without an error in a network
with the weights of one of them and in one new training, and, for this, the falls that are one, in points.

``reruns``: the same as simulate with real trainings: in each draw five seeds are the baseline, and the gate is called
for each of the other 20. A training is red in several draws or in none, so draws are not independent.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from robusteval.check.baseline import read
from robusteval.check.collect import collect
from robusteval.check.drops import Paired, drops
from robusteval.check.gate import judge
from robusteval.check.rules import ruled
from robusteval.store import find_runs

LEVEL, SEEDS = 0.01, 5
NAIVE = 10
"""Of so many calls one is looked at naively: its intervals take the time of all others."""
SUITE = """
name = "rerun"
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]
training = { epochs = 4, batch_size = 50, precision = "float32" }
methods = [{ name = "standard" }, { name = "gaussian_noise" }, { name = "fast_advprop" }]
tasks = [
    { name = "clean" },
    { name = "corruption", names = ["gaussian_noise", "fog"], severities = [3], limit = 500 },
    { name = "pgd", steps = 3, epsilon = "2/255", step = "1/255", limit = 200, checked = 0 },
]
"""


def trainings(
    rng: np.random.Generator, share: float, shifts: np.ndarray, n: int, *, drop: float = 0.0, now: int = 1
) -> Paired:
    """Outcomes of the trainings with some shifts, the last ``now`` of them the new ones, whose share is lower."""
    difficulty = 1.5 * rng.normal(size=n)
    odds = shifts + _odds(share, difficulty)
    if drop:
        odds[-now:] += _odds(share - drop, difficulty) - _odds(share, difficulty)
    answers = odds[:, None] + difficulty + 0.5 * np.abs(shifts).mean() * rng.normal(size=(len(shifts), 1))
    right = rng.random((len(shifts), n)) < 1 / (1 + np.exp(-answers))
    return Paired(right[:-now], right[-now:], n, fixed=False)


def _odds(share: float, difficulty: np.ndarray) -> float:
    """The shift of the log-odds with which so many images are right."""
    low, high = -12.0, 12.0
    for _ in range(16):
        middle = (low + high) / 2
        right = float((1 / (1 + np.exp(-middle - difficulty))).mean())
        low, high = (middle, high) if right < share else (low, middle)
    return low


def call(
    rng: np.random.Generator,
    cells: int,
    ns: tuple[int, ...],
    *,
    sd: float,
    between: float,
    now: int,
    drop: float = 0.0,
    most: float = 0.9,
) -> list[Paired]:
    """All numbers of one call, which are ``most`` at most; a drop is that of the first number of the first cell."""
    pairs = []
    for cell in range(cells):
        own = sd * math.exp(between * rng.normal())
        shifts = own * rng.normal(size=SEEDS + now)  # a training that is lucky is so in all its numbers
        for position, n in enumerate(ns):
            share = 0.6 if drop else rng.uniform(min(0.1, most / 4), most)
            fallen = drop if cell == position == 0 else 0.0
            pairs.append(trainings(rng, share, shifts, n, drop=fallen, now=now)._replace(family=position))
    return pairs


def simulate(calls: int) -> None:
    """Prints the false alarms."""
    head = f"{'cells':>5} {'images':>22} {'most':>4} {'sd':>5} {'between':>7} {'new':>3} {'calls':>5} {'red':>6}"
    print(f"{head} {'naive':>6} {'blind':>6}")
    suites = (
        (20, (100, 20, 20, 20), 0.9),
        (20, (100, 20, 20, 20), 0.3),
        (20, (1000, 200, 100), 0.3),
        (10, (500, 200), 0.9),
        (4, (1000, 1000, 500), 0.9),
        (1, (1000, 500), 0.9),
    )
    for cells, ns, most in suites:
        for sd, between, now in ((0.05, 0.0, 1), (0.1, 0.5, 1), (0.2, 0.5, 1), (0.1, 0.5, 3)):
            rng = np.random.default_rng(cells)
            red = naive = blind = 0
            for position in range(calls):
                pairs = call(rng, cells, ns, sd=sd, between=between, now=now, most=most)
                found = drops(pairs, false_alarms=LEVEL)
                red += any(one.low > 0 for one in found)
                blind += sum(one.blind for one in found)
                if position % NAIVE == 0:
                    alone = [Paired(one.before[:1], one.now[:1], one.family, fixed=True) for one in pairs]
                    naive += any(one.low > 0 for one in drops(alone, false_alarms=LEVEL))
            shown, all_of_them = " ".join(map(str, ns)), calls * cells * len(ns)
            line = f"{cells:5} {shown:>22} {most:4} {sd:5} {between:7} {now:3} {calls:5} {red / calls:6.1%}"
            print(f"{line} {naive / len(range(0, calls, NAIVE)):6.1%} {blind / all_of_them:6.1%}", flush=True)


def power(calls: int) -> None:
    """Prints the smallest drops that are found with 95 % probability."""
    print(f"{'images':>6} {'numbers':>7} {'sd':>5} {'new':>3} {'drop found with 95 % (points)':>30}")
    for n in (500, 1000, 10_000):
        for cells, sd, now in ((10, 0.0, 1), (10, 0.02, 1), (10, 0.05, 1), (10, 0.1, 1), (10, 0.1, 3), (1, 0.05, 1)):
            low, high = 0.0, 0.5
            while high - low > 0.0025:
                middle = (low + high) / 2
                rng = np.random.default_rng(n)
                many = calls if n < 10_000 else max(calls // 4, 50)
                found = [
                    drops(call(rng, cells, (n,), sd=sd, between=0.0, now=now, drop=middle), false_alarms=LEVEL)[0]
                    for _ in range(many)
                ]
                caught = float(np.mean([one.low > 0.01 for one in found]))
                low, high = (low, middle) if caught >= 0.95 else (middle, high)
            print(f"{n:6} {cells:7} {sd:5} {now:3} {100 * high:30.1f}", flush=True)


def seen(path: Path) -> None:
    """Prints which falls of a baseline's numbers turn the gate red."""
    base = collect(find_runs(path), suite=path.stem) if path.is_dir() else read(path)
    numbers = [(key, number.scores(base.quantities[key])) for _, _, key, number in base.numbers()]
    for told, seeds, fixed in (("the same weights", 1, True), ("one new training", None, False)):
        pairs = [
            Paired(scores[:seeds], np.zeros_like(scores[:1]), key, fixed=fixed, tolerance=base.tolerated(key))
            for key, scores in numbers
        ]
        gone = drops(pairs, false_alarms=base.false_alarms)
        print(f"{told}: {sum(one.blind for one in gone)} of {len(gone)} numbers could fall to 0 without an error")
    for key, quantity in base.quantities.items():
        own = [(pair, one) for pair, one in zip(pairs, gone, strict=True) if pair.family == key]
        # A fall that is so much smaller has an interval that ends at the tolerance.
        falls = [100 * (one.value - one.low + pair.tolerance) for pair, one in own]
        least, middle, most = np.quantile(falls, [0, 0.5, 1])
        blind, mean = sum(one.blind for _, one in own), 100 * np.mean([pair.before.mean() for pair, _ in own])
        print(
            f"  {key}: {quantity.n} images, mean {mean:.1f} %, {blind} of {len(own)} blind, falls {least:.1f} to "
            f"{most:.1f}, median {middle:.1f}"
        )


def reruns(folder: Path, draws: int) -> None:
    """Prints how often trainings with other seeds are red."""
    runs = [stored for stored in find_runs(folder) if stored.run.status == "done"]
    seeds = sorted({stored.run.seed for stored in runs})
    by_seed = {seed: [stored for stored in runs if stored.run.seed == seed] for seed in seeds}
    rng = np.random.default_rng(0)
    red: Counter[int] = Counter()
    naive = calls = 0
    everything = {seed: collect(by_seed[seed], suite="rerun") for seed in seeds}
    numbers = list(next(iter(everything.values())).numbers())
    print(f"{len(numbers)} numbers of {len(next(iter(everything.values())).cells)} cells, {len(seeds)} seeds; sd:")
    for name, branch, key, _ in numbers:
        values = [everything[seed].cells[name].numbers[branch][key].values[0] for seed in seeds]
        print(
            f"  {name} {branch} {key}: mean {100 * np.mean(values):.1f}, sd {100 * np.std(values, ddof=1):.1f} points"
        )
    for _ in range(draws):
        chosen = sorted(rng.choice(seeds, SEEDS, replace=False).tolist())
        base = ruled(collect([run for seed in chosen for run in by_seed[seed]], suite="rerun"), {None: 0.0})
        alone = ruled(everything[chosen[0]], {None: 0.0})
        for seed in seeds:
            if seed not in chosen:
                calls += 1
                red[seed] += judge(base, everything[seed]).red
                naive += judge(alone, everything[seed]).red
    print(f"{calls} calls: red {sum(red.values()) / calls:.2%}, by seed {dict(red)}; naive {naive / calls:.1%}")


def make(folder: Path) -> None:
    """Trains what `reruns` looks at."""
    from robusteval.cli import main

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rerun.toml").write_text(SUITE)
    sys.exit(main(["run", str(folder / "rerun.toml"), "--out", str(folder), "--limit", "500", "--threads", "1"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("simulate", "power", "seen", "make", "reruns"))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("rerun"))
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--draws", type=int, default=100)
    given = parser.parse_args()
    match given.what:
        case "simulate":
            simulate(given.calls)
        case "power":
            power(given.calls)
        case "seen":
            seen(given.folder)
        case "make":
            make(given.folder)
        case _:
            reruns(given.folder, given.draws)
