"""Tasks: what networks are measured by. `TASKS` is the one list."""

from __future__ import annotations

from collections.abc import Mapping

from robusteval.tasks.adversarial import Pgd
from robusteval.tasks.bn_bank import BnBank
from robusteval.tasks.branches import Branches
from robusteval.tasks.clean import Clean
from robusteval.tasks.corruption import Corruption
from robusteval.tasks.features import Features
from robusteval.tasks.gradients import Gradients
from robusteval.tasks.neurons import Neurons
from robusteval.tasks.selection import Selection
from robusteval.tasks.task import Context, Observation, Origin, Outcomes, Task
from robusteval.tasks.teacher import Teacher

TASKS: Mapping[str, type[Task]] = {
    task.name: task
    for task in (
        # Scores, from per-image outcomes
        Clean,
        Corruption,
        Pgd,
        # Diagnostics: what papers explain their scores with
        Branches,
        BnBank,
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
    "BnBank",
    "Branches",
    "Clean",
    "Context",
    "Corruption",
    "Features",
    "Gradients",
    "Neurons",
    "Observation",
    "Origin",
    "Outcomes",
    "Pgd",
    "Selection",
    "Task",
    "Teacher",
]
