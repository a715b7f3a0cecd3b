import math

import torch

from robusteval.losses import (
    accuracy,
    cross_entropy,
    entropy,
    logit_ratio,
    margin,
    mixed_cross_entropy,
    targeted_logit_ratio,
)

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5], [0.0, 3.0, 3.0]])
Y = torch.tensor([0, 2, 1])


def by_hand(row, y):
    return math.log(sum(math.exp(v) for v in row)) - row[y]


def test_cross_entropy_and_mixture_against_the_definition():
    rows = LOGITS.tolist()
    expected = [by_hand(row, int(y)) for row, y in zip(rows, Y, strict=True)]
    torch.testing.assert_close(cross_entropy(LOGITS, Y), torch.tensor(expected))
    other, lam = torch.tensor([1, 0, 2]), torch.tensor([0.3, 1.0, 0.0])
    mixed = [
        share * by_hand(row, int(a)) + (1 - share) * by_hand(row, int(b))
        for row, a, b, share in zip(rows, Y, other, lam.tolist(), strict=True)
    ]
    torch.testing.assert_close(mixed_cross_entropy(LOGITS, Y, other, lam), torch.tensor(mixed))


def test_entropy_of_uniform_and_certain_predictions():
    torch.testing.assert_close(entropy(torch.zeros(2, 100)), torch.full((2,), math.log(100)))
    assert entropy(torch.tensor([[1000.0, 0.0]])).item() == 0
    p = LOGITS[0].softmax(0).tolist()
    torch.testing.assert_close(entropy(LOGITS)[0], torch.tensor(-sum(q * math.log(q) for q in p)))


def test_margin_and_accuracy():
    torch.testing.assert_close(margin(LOGITS, Y), torch.tensor([2.0, 0.0, 0.0]))
    torch.testing.assert_close(margin(LOGITS, torch.tensor([2, 0, 0])), torch.tensor([-3.0, 0.0, -3.0]))
    assert accuracy(LOGITS, torch.tensor([0, 1, 1])).item() == torch.tensor(2 / 3).item()


def test_low_precision_logits_are_scored_in_float32():
    assert cross_entropy(LOGITS.bfloat16(), Y).dtype == torch.float32
    assert entropy(LOGITS.bfloat16()).dtype == torch.float32


def test_the_ratio_of_logit_differences():
    """By hand: right by 2 of a spread of 3; wrong by 3 of 3; wrong by a tie; all equal."""
    logits = torch.tensor([[2.0, 0.0, -1.0, -9.0], [-3.0, 1.0, 0.0, -2.0], [5.0, 5.0, 1.0, 1.0], [0.5] * 4])
    y = torch.tensor([0, 3, 0, 2])
    expected = torch.tensor([-2 / 3, 3 / 3, 0.0, 0.0])
    torch.testing.assert_close(logit_ratio(logits, y), expected)
    for scale, shift in ((100.0, 0.0), (1e-3, 1.0)):
        torch.testing.assert_close(logit_ratio(scale * logits + shift, y), expected, rtol=1e-3, atol=0)


def test_the_ratio_towards_a_target():
    """By hand: the spread is from the first logit to the middle between the third and the fourth, in any order."""
    logits = torch.tensor([[4.0, 3.0, 2.0, 0.0, -7.0], [0.0, 4.0, -7.0, 2.0, 3.0], [1.0] * 5])
    y, target = torch.tensor([0, 0, 3]), torch.tensor([3, 1, 1])
    expected = torch.tensor([-4 / 3, 4 / 3, 0.0])
    torch.testing.assert_close(targeted_logit_ratio(logits, y, target), expected)
    torch.testing.assert_close(targeted_logit_ratio(50 * logits - 3, y, target), expected)


def test_ratios_move_the_whole_logits():
    """The denominator is differentiated, too: autograd against finite differences."""
    logits = torch.tensor([[2.0, 0.3, -1.0, -2.0, 0.9], [0.1, 3.0, 2.0, 1.0, -1.0]])
    y, target = torch.tensor([0, 3]), torch.tensor([4, 1])
    for loss in (lambda z: logit_ratio(z, y), lambda z: targeted_logit_ratio(z, y, target)):
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
        for place in range(logits.numel()):
            bump = torch.zeros(logits.numel()).index_fill(0, torch.tensor(place), 1e-2).view_as(logits)
            slope = (loss(logits + bump) - loss(logits - bump)).sum() / 2e-2
            torch.testing.assert_close(gradient.view(-1)[place], slope, rtol=1e-3, atol=1e-4)
