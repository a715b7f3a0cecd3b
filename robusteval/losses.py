"""Pure functions of logits: per-sample losses and scores, in float32 whatever the precision of the logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-12
"""In place of a denominator that is 0, where the numerator is 0 as well."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample (B,), in nats."""
    return F.cross_entropy(logits.float(), y, reduction="none")


def mixed_cross_entropy(logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor) -> Tensor:
    """``lam * CE(y_a) + (1 - lam) * CE(y_b)`` of each sample (B,) (Zhang et al., 2018, arXiv:1710.09412, sec. 2).

    Args:
        logits: (B, K).
        y_a: (B,) int64 labels of the first image in each mixture.
        y_b: (B,) int64 labels of the second.
        lam: (B,) share of the first.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    of_a, of_b = (log_p.gather(1, y.unsqueeze(1)).squeeze(1) for y in (y_a, y_b))
    return -(lam * of_a + (1 - lam) * of_b)


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of each sample's softmax (B,), in nats, in [0, ln K]."""
    log_p = F.log_softmax(logits.float(), dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of the label minus the highest other logit, of each sample (B,); positive where the sample is right."""
    logits = logits.float()
    of_label = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
    return of_label - others.amax(dim=1)


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of samples whose highest logit is the label's: a scalar, detached."""
    return (logits.detach().argmax(dim=1) == y).float().mean()


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """One minus the cosine of the angle between the two features of each sample (B, D): (B,) in [0, 2]."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=1)


def mean_squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the D squared differences between the two features of each sample (B, D): (B,)."""
    return (a.float() - b.float()).square().mean(dim=1)


def smoothed_cross_entropy(logits: Tensor, y: Tensor, *, smoothing: float) -> Tensor:
    """Cross-entropy of each sample (B,) with a target of which a share is spread over all classes."""
    return F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=smoothing)


def euclidean_distance(a: Tensor, b: Tensor, *, eps: float) -> Tensor:
    """The root of the sum of the D squared differences plus eps, for each sample of (B, D): (B,).

    With eps inside the root the gradient of equal features is 0; without, it is 0 / 0.
    """
    return ((a.float() - b.float()).square().sum(dim=1) + eps).sqrt()


def distillation(logits: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
    """T**2 times the divergence KL(softmax(taught / T) || softmax(logits / T)) of each sample (B,), in nats.

    The factor keeps the gradient's scale whatever the temperature (Hinton et al., 2015, arXiv:1503.02531, sec. 2).
    """
    of_student = F.log_softmax(logits.float() / temperature, dim=1)
    of_teacher = F.log_softmax(taught.float() / temperature, dim=1)
    return temperature**2 * (of_teacher.exp() * (of_teacher - of_student)).sum(dim=1)


def kl_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(p || q) of the softmaxes of two sets of logits (B, K), of each sample (B,), in nats."""
    log_p, log_q = (F.log_softmax(logits.float(), dim=1) for logits in (logits_p, logits_q))
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy plus ``-log(1 - p_k)``, k the likeliest wrong class, of each sample (B,) (Wang et al., 2020, MART).

    ``1 - p_k`` is the sum of all other probabilities, taken in log space: exact for sure networks too.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    likeliest_wrong = log_p.scatter(1, y.unsqueeze(1), -torch.inf).argmax(dim=1, keepdim=True)
    log_of_others = log_p.scatter(1, likeliest_wrong, -torch.inf).logsumexp(dim=1)
    return -log_p.gather(1, y.unsqueeze(1)).squeeze(1) - log_of_others


def jensen_shannon(logits: Sequence[Tensor], *, floor: float = 1e-7) -> Tensor:
    """Jensen-Shannon divergence of each sample's predictions (B,), in nats: their mean KL divergence from their mean.

    Args:
        logits: one tensor (B, K) per view.
        floor: least probability of the mean inside the logarithm, which bounds the divergence.
    """
    log_p = torch.stack([F.log_softmax(view.float(), dim=1) for view in logits])
    p = log_p.exp()
    log_mean = p.mean(dim=0).clamp(min=floor).log()
    return (p * (log_p - log_mean)).sum(dim=2).mean(dim=0)


def logit_ratio(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio of each sample (B,): ``-(z_y - max_other z) / (z_1st - z_3rd)``, K >= 3.

    Positive where the sample is wrong, and the same for any positive multiple of the logits and any shift of them
    (DLR; Croce and Hein, 2020, arXiv:2003.01690, eq. 6). 0 where the first and the third logit are equal.
    """
    logits = logits.float()
    ranked = logits.topk(3, dim=1).values
    return -margin(logits, y) / (ranked[:, 0] - ranked[:, 2]).clamp(min=_TINY)


def targeted_logit_ratio(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``-(z_y - z_target) / (z_1st - (z_3rd + z_4th) / 2)`` of each sample (B,), K >= 4.

    See `logit_ratio` (Croce and Hein, 2020, eq. 7).
    """
    logits = logits.float()
    ranked = logits.topk(4, dim=1).values
    of_label, of_target = (logits.gather(1, c.unsqueeze(1)).squeeze(1) for c in (y, target))
    spread = ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2
    return -(of_label - of_target) / spread.clamp(min=_TINY)
