"""Statistics of per-sample outcomes: intervals, paired comparisons, ranks, resampling. Needs no torch.

Every test image is a draw from the same population, and all networks of a table meet the same images, so networks are
compared image by image; seeds of training are draws of their own.
"""

from __future__ import annotations

from robusteval.stats.harmonic_mean import h_interval, h_score, harmonic, harmonics, linear_h_scores
from robusteval.stats.intervals import Interval, mean_interval, t_interval, wilson
from robusteval.stats.pairs import Paired, difference_interval, mcnemar, paired
from robusteval.stats.pairwise import Pairwise, Ranks, compare_outcomes, compare_scores, compare_seeds, holm, ranks
from robusteval.stats.resampling import Estimate, bootstrap, percentile_interval, resampled_means
from robusteval.stats.seeds import SeedMean, hierarchical, over_seeds, seed_replicates, seeds_and_images

__all__ = [
    "Estimate",
    "Interval",
    "Paired",
    "Pairwise",
    "Ranks",
    "SeedMean",
    "bootstrap",
    "compare_outcomes",
    "compare_scores",
    "compare_seeds",
    "difference_interval",
    "h_interval",
    "h_score",
    "harmonic",
    "harmonics",
    "hierarchical",
    "holm",
    "linear_h_scores",
    "mcnemar",
    "mean_interval",
    "over_seeds",
    "paired",
    "percentile_interval",
    "ranks",
    "resampled_means",
    "seed_replicates",
    "seeds_and_images",
    "t_interval",
    "wilson",
]
