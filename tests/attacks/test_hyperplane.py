"""The way to a hyperplane against a linear program, a root finder and the geometry of the box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from robusteval.attacks.hyperplane import to_hyperplane
from robusteval.options import Norm
from robusteval.randomness import Stream

NORMS: tuple[Norm, ...] = ("Linf", "L2")
N = 24


def problems(rows: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals and gaps of both signs, from tiny to just out of reach; black, white and unused pixels."""
    index = torch.arange(rows)
    rng = Stream.of(5)
    point = (1.6 * rng.at("point").uniform(index, N).double() - 0.3).clamp(0, 1)
    normal = rng.at("normal").normal(index, N).double() ** 3
    normal[rng.at("zero").uniform(index, N) < 0.1] = 0.0
    sign = torch.where(index % 2 == 0, 1.0, -1.0).double()
    reach = torch.where((normal * sign[:, None]) > 0, 1 - point, point).mul(normal.abs()).sum(dim=1)
    share = torch.tensor([0.001, 0.1, 0.5, 0.9, 0.999]).double()[index % 5]
    return point, normal, sign * share * reach


def by_program(point: np.ndarray, normal: np.ndarray, gap: float) -> float:
    """The Linf length of the shortest way: min t subject to ``|d_i| <= t``, the box and the hyperplane."""
    eye = np.eye(N)
    found = optimize.linprog(
        np.r_[np.zeros(N), 1.0],
        A_ub=np.block([[eye, -np.ones((N, 1))], [-eye, -np.ones((N, 1))]]),
        b_ub=np.zeros(2 * N),
        A_eq=np.r_[normal, 0.0][None],
        b_eq=[gap],
        bounds=[*((-p, 1 - p) for p in point), (0, None)],
    )
    assert found.success
    return float(found.fun)


def by_root(point: np.ndarray, normal: np.ndarray, gap: float) -> float:
    """The L2 length of the shortest way: that of ``clip(multiplier * normal)``, by the conditions of optimality."""

    def way(multiplier: float) -> np.ndarray:
        return np.clip(multiplier * normal, -point, 1 - point)

    far = np.sign(gap) / np.abs(normal[normal != 0]).min()
    multiplier = optimize.brentq(lambda m: normal @ way(m) - gap, 0, far, xtol=1e-300, rtol=1e-14)
    return float(np.linalg.norm(way(float(multiplier))))


def check(project: Callable[[Tensor, Tensor, Tensor, Norm], Tensor], norm: Norm) -> None:
    point, normal, gap = problems()
    d = project(point, normal, gap, norm)
    torch.testing.assert_close((normal * d).sum(dim=1), gap, rtol=1e-9, atol=1e-12)
    assert ((point + d >= -1e-12) & (point + d <= 1 + 1e-12)).all()
    length = torch.linalg.vector_norm(d, ord=2 if norm == "L2" else torch.inf, dim=1)
    reference = by_root if norm == "L2" else by_program
    shortest = [reference(*row) for row in zip(point.numpy(), normal.numpy(), gap.tolist(), strict=True)]
    np.testing.assert_allclose(length.numpy(), shortest, rtol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_shortest_way_that_the_box_allows(norm: Norm) -> None:
    check(to_hyperplane, norm)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_box_in_the_way_it_is_the_dual_norm(norm: Norm) -> None:
    """From grey, a short way: the gap divided by the normal's L1 (for Linf) or L2 norm."""
    _, normal, _ = problems()
    gap = torch.linspace(-0.1, 0.1, len(normal)).double()
    d = to_hyperplane(torch.full_like(normal, 0.5), normal, gap, norm)
    dual = torch.linalg.vector_norm(normal, ord=2 if norm == "L2" else 1, dim=1)
    length = torch.linalg.vector_norm(d, ord=2 if norm == "L2" else torch.inf, dim=1)
    torch.testing.assert_close(length, gap.abs() / dual, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_out_of_reach_it_leads_to_the_closest_corner(norm: Norm) -> None:
    point, normal, gap = problems()
    for factor in (1.001, 1e6):
        d = to_hyperplane(point, normal, factor * gap.sign() * normal.abs().sum(dim=1), norm)
        corner = torch.where(normal * gap.sign()[:, None] > 0, 1.0, 0.0).double()
        torch.testing.assert_close(point + d, torch.where(normal == 0, point, corner))


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_moves_without_a_direction_or_a_gap(norm: Norm) -> None:
    point, normal, gap = problems()
    assert (to_hyperplane(point, torch.zeros_like(normal), gap, norm) == 0).all()
    assert (to_hyperplane(point, normal, torch.zeros_like(gap), norm) == 0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [2.0**-90, 2.0**60])
def test_the_normal_s_length_does_not_matter(norm: Norm, scale: float) -> None:
    """In float32, where the squares of such gradients are 0 or infinite."""
    point, normal, gap = (values.float() for values in problems())
    d = to_hyperplane(point, normal, gap, norm)
    assert (to_hyperplane(point, normal * scale, gap * scale, norm) == d).all()
    torch.testing.assert_close(d.double(), to_hyperplane(*problems(), norm), rtol=0, atol=2e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_rows_do_not_depend_on_one_another(norm: Norm) -> None:
    point, normal, gap = (values.float() for values in problems())
    together = to_hyperplane(point, normal, gap, norm)
    alone = [to_hyperplane(point[i : i + 1], normal[i : i + 1], gap[i : i + 1], norm) for i in range(len(point))]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gap.unsqueeze(1) < 0", "gap.unsqueeze(1) > 0"),
        ('if norm == "Linf":', 'if norm == "L2":'),
        ("(sign.clamp(min=0) - point).abs_()", "torch.ones_like(point)"),
        ("sign.clamp(min=0) - point", "(-sign).clamp(min=0) - point"),
        ("full = weight * room", "full = 0 * room"),
        ("gain * (1 - stopped)", "gain"),
        ("if torch.equal(count, before):", "if True:"),
    ],
    ids=["sign", "norm", "no box", "wrong wall", "stopped ones forgotten", "stopped ones go on", "one pass"],
)
def test_planted_mistakes(planted: Callable[[Any, str, str], Any], norm: Norm, old: str, new: str) -> None:
    mutant = planted(to_hyperplane, old, new)
    with pytest.raises(AssertionError):
        check(mutant, norm)
