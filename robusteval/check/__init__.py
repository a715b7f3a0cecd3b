"""The regression gate: numbers of runs against a baseline that a project commits. Needs no torch but to train.

`collect` makes numbers of run folders, `baseline` reads and writes them as a file, `judge` compares the two.
"""

from __future__ import annotations

from robusteval.check.baseline import Baseline, read, write
from robusteval.check.collect import collect
from robusteval.check.gate import Finding, Gate, judge
from robusteval.check.rules import inherited, ruled, tolerances

__all__ = ["Baseline", "Finding", "Gate", "collect", "inherited", "judge", "read", "ruled", "tolerances", "write"]
