"""Attacks: pure functions from images to images inside the ball that they were given."""

from robusteval.attacks.geometry import random_start
from robusteval.attacks.objectives import OBJECTIVES, Objective, divergence_from
from robusteval.attacks.pgd import PgdSearch, pgd

__all__ = ["OBJECTIVES", "Objective", "PgdSearch", "divergence_from", "pgd", "random_start"]
