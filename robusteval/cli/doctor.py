"""``doctor``: whether this machine is ready, and what it would compute with."""

from __future__ import annotations

import platform
import sys

from robusteval import __version__
from robusteval.cli.arguments import DataDir
from robusteval.cli.output import in_threads, line
from robusteval.errors import UserError


def doctor(*, data_dir: DataDir = None) -> int:
    """Check the installation, the device and the data; the exit code is 1 if the main job cannot run here."""
    from robusteval.data import DATASETS, verify
    from robusteval.data.registry import SPLITS
    from robusteval.hardware import choose_precision, device_name
    from robusteval.provenance import commit, cpu_model, versions
    from robusteval.runtime import prepare

    runtime = prepare()
    line(f"robusteval   {__version__}, commit {commit() or 'unknown (not a checkout)'}")
    line(f"python       {sys.version.split()[0]} on {platform.platform()}")
    line(f"packages     {', '.join(f'{name} {version}' for name, version in versions().items())}")
    line(f"processor    {cpu_model()}, {in_threads(runtime.threads)}")
    line(f"device       {runtime.device}: {device_name(runtime.device)}")
    line(f"precision    {choose_precision('auto', runtime.device)} where training says auto")
    line(f"allocator    {runtime.allocator}{'' if 'tuned' in runtime.allocator else ': CPU work may take longer'}")
    ready = True
    for name, info in DATASETS.items():
        try:
            found = [verify(name, split, data_dir=data_dir) for split in SPLITS]
        except UserError as error:
            line(f"data         {name}: {str(error).split('; ')[0]}")
            ready = ready and not info.embedded
        else:
            verdict = "verified" if all(one.verified for one in found) else "unverified"
            line(f"data         {name}: {verdict}, {found[0].source}")
    line("ready" if ready else "not ready: the embedded images are damaged; install robusteval again")
    return 0 if ready else 1
