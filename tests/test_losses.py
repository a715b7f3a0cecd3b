import math

import torch

from robusteval.losses import accuracy, cross_entropy, entropy, margin, mixed_cross_entropy

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
