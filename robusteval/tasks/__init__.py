"""Tasks: what networks are measured by. `TASKS` is the one list."""

from __future__ import annotations

from collections.abc import Mapping

from robusteval.tasks.adversarial import Pgd
from robusteval.tasks.clean import Clean
from robusteval.tasks.corruption import Corruption
from robusteval.tasks.task import Context, Observation, Origin, Outcomes, Task

TASKS: Mapping[str, type[Task]] = {task.name: task for task in (Clean, Corruption, Pgd)}

__all__ = ["TASKS", "Clean", "Context", "Corruption", "Observation", "Origin", "Outcomes", "Pgd", "Task"]
