"""Speed of the corruptions beside the package imagecorruptions and the published generator, in images per second.

    python benchmarks/perf/corruptions.py [--rounds 5] [--images 256] [--threads 2] [--reference make_cifar_c.py]
    python benchmarks/perf/corruptions.py --share [--threads 2]

All sides work on the same embedded photographs, in one process with one allocator and the same number of threads,
in turn within every round; rates are means over the five severities and medians over the rounds. The other sides are
called once for every image, the only way they offer; they leave all threads but one idle most of the time, and
somebody who runs several of their processes at once may divide the ratio by as many. The package has ImageNet-C's
strengths under the same names, which is about as much work. ``--reference`` is the file ``make_cifar_c.py`` of
hendrycks/robustness: only its imports and functions are executed, with the names that its libraries have dropped since
(np.float_, np.fromstring, scipy.ndimage.interpolation, multichannel=) supplied; what fails is left out, with the
reason. ``--share`` shows which share of the time of judging a ResNet-20 on the 75 cells is spent on making images.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

SEVERITIES = (1, 2, 3, 4, 5)
Side = Callable[[str, int], object]  # (corruption, severity) -> the images, corrupted
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def frost_folder() -> Path:
    spec = find_spec("imagecorruptions")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install imagecorruptions-imaug")
    return Path(spec.submodule_search_locations[0]) / "frost"


class Lack:
    """In the place of what cannot be imported: raises the reason when it is used."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, *_: object, **__: object) -> object:
        """Never anything."""
        raise ImportError(self.reason)

    def __getattr__(self, name: str) -> object:
        raise ImportError(self.reason)


def functions_of(path: Path) -> dict[str, object]:
    """The names that the published script defines, without running what it does with them."""
    import numpy as np
    import scipy.ndimage
    from skimage.filters import gaussian

    def gaussian_as_it_was(image: object, sigma: float, multichannel: bool = False, **rest: object) -> object:
        return gaussian(image, sigma, channel_axis=-1 if multichannel else None, **rest)

    supplied = {
        "np": types.SimpleNamespace(**vars(np) | {"float_": np.float64, "fromstring": np.frombuffer}),
        "gaussian": gaussian_as_it_was,
        "map_coordinates": scipy.ndimage.map_coordinates,
    }
    names: dict[str, object] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        # The one assignment to an attribute declares a function of ImageMagick; all others belong to the script.
        declares = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)
        if not declares and not isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
            continue
        try:
            exec(compile(ast.Module([node], []), str(path), "exec"), names)
        except Exception as error:  # noqa: BLE001  # whatever is missing here is reported for what needs it
            bases = [names.get(getattr(base, "id", "")) for base in getattr(node, "bases", [])]
            lack = next((base for base in bases if isinstance(base, Lack)), Lack(str(error)))
            for alias in getattr(node, "names", []):
                names[alias.asname or alias.name] = lack
            if isinstance(node, ast.ClassDef):
                names[node.name] = lack
        names.update(supplied)
    return names


def package(pictures: object) -> Side:
    import imagecorruptions

    def side(name: str, severity: int) -> object:
        return [imagecorruptions.corrupt(x, severity=severity, corruption_name=name) for x in pictures]

    return side


def published(pictures: object, path: Path) -> Side:
    import numpy as np
    from PIL import Image

    names, images = functions_of(path), [Image.fromarray(x) for x in pictures]

    def side(name: str, severity: int) -> object:
        return [np.uint8(names[name](x, severity)) for x in images]

    return side


def ours(images: object, device: object) -> Side:
    import torch

    from robusteval.corruptions import corrupt

    index = torch.arange(len(images), device=device)

    def side(name: str, severity: int) -> object:
        made = corrupt(images, name, severity, seed=0, index=index)
        if made.is_cuda:
            torch.cuda.synchronize()
        return made

    return side


def reasons(side: Side, names: tuple[str, ...]) -> dict[str, str]:
    """Corruption -> why this side cannot make it; every corruption is run once, which warms up the others."""
    failed = {}
    for name in names:
        try:
            for severity in SEVERITIES:
                side(name, severity)
        except Exception as error:  # noqa: BLE001  # a side that fails is reported, whatever it raises
            failed[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return failed


def compare(arguments: argparse.Namespace) -> None:
    import numpy as np

    from robusteval.corruptions import CORRUPTIONS, HELD_OUT
    from robusteval.data import load
    from robusteval.runtime import prepare

    device = prepare(arguments.device, arguments.threads).device
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(arguments.threads)
    images = load("cifar10-sample", "test").images[: arguments.images]
    pictures = list(np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()))
    sides: dict[str, Side] = {"robusteval": ours(images.to(device), device), "imagecorruptions": package(pictures)}
    if arguments.reference:
        sides["published"] = published(pictures, arguments.reference)
    names = CORRUPTIONS + (HELD_OUT if arguments.held_out else ())
    # The published code reads its photographs of ice from the folder it runs in; deprecations are not the subject.
    with contextlib.chdir(frost_folder()), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        few = {"robusteval": sides["robusteval"], "imagecorruptions": package(pictures[:2])}
        if arguments.reference:
            few["published"] = published(pictures[:2], arguments.reference)
        failed = {side: reasons(run, names) for side, run in few.items()}
        rows = list(rounds(sides, failed, names, arguments))
    report(rows, failed, names, len(images))


def rounds(
    sides: dict[str, Side], failed: dict[str, dict[str, str]], names: tuple[str, ...], arguments: argparse.Namespace
) -> Iterator[dict[tuple[str, str], float]]:
    """Each round's seconds for all five severities by (side, corruption)."""
    clock = CLOCKS[arguments.clock]
    for number in range(arguments.rounds):
        seconds = {}
        for name in names:
            for side, run in sides.items():
                if name not in failed[side]:
                    began = clock()
                    for severity in SEVERITIES:
                        run(name, severity)
                    seconds[side, name] = clock() - began
        sys.stderr.write(f"round {number + 1} of {arguments.rounds}\n")
        yield seconds


def report(
    rows: list[dict[tuple[str, str], float]], failed: dict[str, dict[str, str]], names: tuple[str, ...], count: int
) -> None:
    from robusteval.corruptions import CORRUPTIONS

    others = [side for side in failed if side != "robusteval"]

    def line(what: str, chosen: dict[str, tuple[str, ...]]) -> None:
        """Images per second over the chosen corruptions of each side, and how often faster ours is on the same."""
        cells = []
        for side in ("robusteval", *others):
            mine = chosen[side]
            if not mine:
                cells.append(f"{'-':>17}" + ("" if side == "robusteval" else f"{'':16}"))
                continue
            total = [sum(row[side, name] for name in mine) for row in rows]
            cells.append(f"{len(mine) * len(SEVERITIES) * count / statistics.median(total):17.0f}")
            if side != "robusteval":
                ratios = [t / sum(row["robusteval", name] for name in mine) for t, row in zip(total, rows, strict=True)]
                spread = f"({min(ratios):.1f}-{max(ratios):.1f})"
                cells.append(f"{statistics.median(ratios):6.1f}x {spread:>8}")
        print(f"{what:20}" + "".join(cells), flush=True)

    titles = [f"{side:>17}{'ratio (range)':>16}" for side in others]
    print(f"{'images per second':20}{'robusteval':>17}" + "".join(titles))
    for name in names:
        line(name, {side: () if name in failed[side] else (name,) for side in failed})
    fifteen = {side: tuple(name for name in CORRUPTIONS if name not in failed[side]) for side in failed}
    print()
    line(f"all {len(CORRUPTIONS)}", fifteen)
    for side in failed:
        if len(fifteen[side]) < len(CORRUPTIONS):
            print(f"  {side}: over {len(fifteen[side])} of them; ratios always compare the same corruptions")
        for name, reason in failed[side].items():
            print(f"  {side} {name}: left out, {reason}")


def share(arguments: argparse.Namespace) -> None:
    import torch

    from robusteval import models
    from robusteval.corruptions import CORRUPTIONS, corrupt
    from robusteval.data import load
    from robusteval.data.sets import ImageSet
    from robusteval.runtime import prepare
    from robusteval.tasks import Context, Corruption
    from robusteval.tasks.predict import judge

    device = prepare(arguments.device, arguments.threads).device
    data = load("cifar10-sample", "test").first(arguments.images)
    context = Context(device, seed=0, deployed="main", batch_size=min(500, len(data.labels)))
    network = models.build("resnet20", classes=10).to(device, memory_format=torch.channels_last)
    index = torch.arange(len(data.labels), device=device)

    def cell(name: str, severity: int) -> None:
        made = corrupt(data.images.to(device), name, severity, seed=0, index=index)
        if made.is_cuda:
            torch.cuda.synchronize()

    def making() -> None:
        for name in CORRUPTIONS:
            for severity in SEVERITIES:
                cell(name, severity)

    def judging(clean: ImageSet) -> None:
        for _ in range(len(CORRUPTIONS) * len(SEVERITIES)):
            judge({"main": network}, clean, context)

    def task() -> None:
        for _ in Corruption(source="generated").measure({"main": network}, data, context):
            pass

    ways = {"making the images": making, "judging them": partial(judging, data), "the corruption task": task}
    cell("snow", 1), judge({"main": network}, data, context)  # warm up
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way, run in ways.items():
            began = CLOCKS[arguments.clock]()
            run()
            seconds[way].append(CLOCKS[arguments.clock]() - began)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    made, judged, whole = medians.values()
    for way, median in medians.items():
        print(f"{way:20} {median:8.2f} s for 75 cells of {len(index)} images")
    print(f"share of making in making and judging  {made / (made + judged):6.1%}")
    print(f"what making adds to the task's time    {1 - judged / whole:6.1%} (less where the two overlap)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--device", default="cpu", help="of robusteval's side; the others know only the CPU")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: all threads' seconds, for busy machines")
    parser.add_argument("--reference", type=Path, help="the published make_cifar_c.py")
    parser.add_argument("--held-out", action="store_true", help="the four held-out corruptions too")
    parser.add_argument("--share", action="store_true", help="the share of making images in judging a ResNet-20")
    arguments = parser.parse_args()
    if arguments.reference:
        arguments.reference = arguments.reference.resolve(strict=True)
    (share if arguments.share else compare)(arguments)


if __name__ == "__main__":
    main()
