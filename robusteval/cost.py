"""What training costs: passes per branch, floating-point operations, seconds by phase, peak memory.

Counted, not assumed: a pass is a sample going forward or backward through the network, and FLOPs
are those of convolutions and matrix products as they run (2 per multiply-add).
"""

from __future__ import annotations

import re
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from robusteval.allocator import release_memory
from robusteval.branches import current_route

_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


class FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its __init_subclass__ untyped
    """Counts the FLOPs of what runs inside its context, in ``flops``.

    torch's own FlopCounterMode also tracks modules, and its tracker raises when ``autograd.grad`` is taken
    with respect to a leaf that enters a module; this one only sums torch's FLOP formulas.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **kwargs, out_val=out))
        return out


def forward_flops(network: nn.Module, example: Tensor) -> int:
    """FLOPs of one forward pass of the example batch in eval mode."""
    from robusteval.modes import evaluating

    with evaluating(network), torch.no_grad(), FlopCount() as count:
        network(example)
    flops: int = count.flops
    return flops


class Meter:
    """Counts passes and books seconds while it is the current meter of its context.

    Args:
        network: the network whose passes count; its forward hooks are removed when the context ends.
        device: where it runs; on a GPU the seconds are those between stream events, without host syncs.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = network
        self.device = device
        self.forward: Counter[str] = Counter()
        self.backward: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops = 0
        self.step_flops = 0
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._peak = 0

    @contextmanager
    def running(self) -> Iterator[Meter]:
        """A context in which passes are counted and `timed` books here."""
        hook = self.network.register_forward_hook(self._on_forward)
        token = _METER.set(self)
        self._reset_peak()
        try:
            yield self
        finally:
            _METER.reset(token)
            hook.remove()
            self.settle()

    def _on_forward(self, network: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        n = len(inputs[0])
        parts = {name: n if size is None else size for name, size in current_route(network)}
        self.forward.update(parts)
        first = output if isinstance(output, Tensor) else next(iter(output))
        if first.requires_grad:

            def count(grad: Tensor) -> None:
                self.backward.update(parts)

            first.register_hook(count)

    @contextmanager
    def counting_flops(self, *, fresh: bool) -> Iterator[None]:
        """Adds the FLOPs of one training step: counted when ``fresh``, else as many as the last counted step."""
        if fresh:
            with FlopCount() as count:
                yield
            self.step_flops = count.flops
        else:
            yield
        self.flops += self.step_flops

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Books the seconds inside on a phase."""
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # as above
            start.record()
            try:
                yield
            finally:
                end.record()
                self._events.append((phase, start, end))
        else:
            began = time.perf_counter()
            try:
                yield
            finally:
                self.seconds[phase] += time.perf_counter() - began

    def settle(self) -> None:
        """Turns recorded GPU events into seconds (one sync) and reads the peak memory."""
        if self._events:
            torch.cuda.synchronize(self.device)
            for phase, start, end in self._events:
                self.seconds[phase] += start.elapsed_time(end) / 1000
            self._events.clear()
        self._peak = max(self._peak, self._read_peak() or 0)

    @property
    def peak_memory_bytes(self) -> int | None:
        """The most device memory (GPU) or resident memory (CPU) seen so far; None where it cannot be read."""
        return self._peak or None

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif Path("/proc/self/clear_refs").exists():
            release_memory()
            try:
                Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the resident peak so far
            except OSError:
                return  # not permitted in some containers: the peak is then that of the process, still an upper bound

    def _read_peak(self) -> int | None:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        status = Path("/proc/self/status")
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
        if found:
            return int(found[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        self.settle()
        return {
            "forward": dict(self.forward),
            "backward": dict(self.backward),
            "seconds": dict(self.seconds),
            "flops": self.flops,
            "step_flops": self.step_flops,
            "peak": self._peak,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state`."""
        self.forward.update(state["forward"])
        self.backward.update(state["backward"])
        self.seconds.update(state["seconds"])
        self.flops, self.step_flops, self._peak = state["flops"], state["step_flops"], state["peak"]


@contextmanager
def timed(phase: str) -> Iterator[None]:
    """Books the seconds inside on a phase of the current meter; does nothing without one."""
    meter = _METER.get()
    if meter is None:
        yield
    else:
        with meter.timed(phase):
            yield
