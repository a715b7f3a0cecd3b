"""Tasks: what networks are measured by. `TASKS` is the one list."""

from __future__ import annotations

from collections.abc import Mapping

from robusteval.tasks.adversarial import Fgsm, Pgd
from robusteval.tasks.attack_matrix import AttackMatrix
from robusteval.tasks.bn_bank import BnBank
from robusteval.tasks.branches import Branches
from robusteval.tasks.calibration import Calibration
from robusteval.tasks.clean import Clean
from robusteval.tasks.corrupted_attack import CorruptedAttack
from robusteval.tasks.corruption import Corruption
from robusteval.tasks.ensemble import Apgd, AutoAttack
from robusteval.tasks.epsilon_curve import EpsilonCurve
from robusteval.tasks.features import Features
from robusteval.tasks.gradients import Gradients
from robusteval.tasks.minimum_norm import MinimumNorm
from robusteval.tasks.neurons import Neurons
from robusteval.tasks.pyautoattack import PyAutoAttack
from robusteval.tasks.selection import Selection
from robusteval.tasks.task import Context, Observation, Origin, Outcomes, Task
from robusteval.tasks.teacher import Teacher
from robusteval.tasks.transfer import Transfer

TASKS: Mapping[str, type[Task]] = {
    task.name: task
    for task in (
        # Scores, from per-image outcomes
        Clean,
        Corruption,
        Fgsm,
        Pgd,
        Apgd,
        AutoAttack,
        PyAutoAttack,
        # What an attacker can do who knows of branches, corruptions and other networks
        AttackMatrix,
        EpsilonCurve,
        MinimumNorm,
        CorruptedAttack,
        Transfer,
        # Diagnostics: what papers explain their scores with
        Branches,
        BnBank,
        Calibration,
        Features,
        Gradients,
        Neurons,
        Selection,
        Teacher,
    )
}
"""Every task by name."""

__all__ = [
    "TASKS",
    "Apgd",
    "AttackMatrix",
    "AutoAttack",
    "BnBank",
    "Branches",
    "Calibration",
    "Clean",
    "Context",
    "CorruptedAttack",
    "Corruption",
    "EpsilonCurve",
    "Features",
    "Fgsm",
    "Gradients",
    "MinimumNorm",
    "Neurons",
    "Observation",
    "Origin",
    "Outcomes",
    "Pgd",
    "PyAutoAttack",
    "Selection",
    "Task",
    "Teacher",
    "Transfer",
]
