import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from robusteval.branches import add_branches, split_batch, use_branch
from robusteval.cost import FlopCount, Meter, forward_flops, timed
from robusteval.testing import TinyNet

CPU = torch.device("cpu")
X = torch.rand(10, 3, 8, 8)
# conv1 3->8 on 8x8, conv2 8->16 on 4x4, frozen 16x16 and head 16x5: multiply-adds of one image
CONV1, REST = 8 * 8 * 8 * 3 * 9, 4 * 4 * 16 * 8 * 9 + 16 * 16 + 16 * 5


def test_forward_flops_in_closed_form():
    assert forward_flops(TinyNet(), X) == 2 * 10 * (CONV1 + REST)


def test_training_step_flops_in_closed_form_and_as_torch_counts_them():
    def run(counter):
        model = TinyNet()
        with counter:
            model(X).sum().backward()

    own, theirs = FlopCount(), FlopCounterMode(display=False)
    run(own)
    run(theirs)
    # Forward; gradient of every weight but the frozen one; gradient of every layer's input but the first one's.
    frozen = 16 * 16
    assert own.flops == 2 * 10 * ((CONV1 + REST) + (CONV1 + REST - frozen) + REST)
    assert own.flops == theirs.get_total_flops()


def test_input_gradient_alone_costs_two_forwards_also_for_a_leaf_that_enters_the_model():
    model, x = TinyNet(), X.clone().requires_grad_()
    with FlopCount() as count:
        torch.autograd.grad(model(x).sum(), x)
    assert count.flops == 2 * 2 * 10 * (CONV1 + REST)


def test_passes_by_branch():
    model = TinyNet()
    add_branches(model, ["aux"])
    meter = Meter(model, CPU)
    with meter.running():
        model(X).sum().backward()
        with use_branch(model, "aux"), torch.no_grad():
            model(X)
        with split_batch(model, {"main": 7, "aux": 3}):
            out = model(X).sum()
        out.backward()  # booked where the forward pass went, not where the route points now
    model(X).sum().backward()  # outside: not counted
    assert meter.forward == {"main": 17, "aux": 13}
    assert meter.backward == {"main": 17, "aux": 3}
    assert not model._forward_hooks


def test_steps_that_are_not_counted_repeat_the_last_count():
    model = TinyNet()
    meter = Meter(model, CPU)
    for fresh in (True, False, False):
        with meter.counting_flops(fresh=fresh):
            model(X)
    assert meter.flops == 3 * 2 * 10 * (CONV1 + REST)


def test_seconds_are_booked_by_phase_and_survive_a_checkpoint():
    meter = Meter(nn.Identity(), CPU)
    with timed("attack"):
        pass  # no meter: nothing to book on
    with meter.running(), meter.timed("train"):
        time.sleep(0.02)
        with timed("attack"):
            time.sleep(0.03)
    assert meter.seconds["train"] >= 0.05 > meter.seconds["attack"] >= 0.03
    again = Meter(nn.Identity(), CPU)
    again.restore(meter.state())
    assert again.state() == meter.state()


PEAKS = """
import torch
from robusteval.cost import Meter

def peak(megabytes):
    meter = Meter(torch.nn.Identity(), torch.device("cpu"))
    with meter.running():
        torch.ones(megabytes * 2**20, dtype=torch.uint8)
    return meter.peak_memory_bytes

print(peak(1), peak(300), peak(1))
"""


def test_peak_memory_sees_an_allocation_and_forgets_it():
    """In a process of its own: memory that an allocator keeps for later counts as resident."""
    out = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True).stdout
    before, during, after = map(int, out.split())
    assert during > before + 250 * 2**20
    assert not Path("/proc/self/clear_refs").exists() or after < during - 250 * 2**20
