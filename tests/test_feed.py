import pytest
import torch

from robusteval.data import ImageSet
from robusteval.feed import Feed, _mean_colour, same_class_partners
from robusteval.method import Pairing
from robusteval.randomness import Stream
from robusteval.training import Training

IMAGES = (Stream.of(2).uniform(torch.arange(10), 3, 8, 8) * 256).to(torch.uint8)
DATA = ImageSet(
    name="made-up", split="train", images=IMAGES, labels=torch.arange(10) % 2, classes=("a", "b"), digest="0" * 64,
    verified=False,
)  # fmt: skip


def feed(**changes):
    return Feed(
        DATA,
        Training(**{"batch_size": 4, "crop_padding": 0, "flip": False} | changes),
        Stream.of(0),
        torch.device("cpu"),
    )


def test_an_epoch_goes_on_from_any_batch_and_differs_from_the_next():
    whole = [rows.tolist() for rows in feed().order(3)]
    assert [rows.tolist() for rows in feed().order(3, first=1)] == whole[1:]
    assert len(whole) == 2
    assert len({i for rows in whole for i in rows}) == 8
    assert [rows.tolist() for rows in feed().order(4)] != whole


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_batch_holds_the_images_of_its_rows(channels_last):
    rows = torch.tensor([7, 1, 4])
    batch = feed(channels_last=channels_last).batch(0, 5, rows)
    torch.testing.assert_close(batch.x, IMAGES[rows].float() / 255)
    assert batch.x.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert batch.y.tolist() == [1, 1, 0]
    assert (batch.index.tolist(), batch.classes) == ([7, 1, 4], 2)


def test_parts_and_steps_draw_differently_and_epochs_augment_differently():
    made, rows = feed(flip=True, crop_padding=2), torch.arange(10)
    assert made.batch(0, 5, rows).rng != made.batch(0, 5, rows, number=1).rng != made.batch(0, 6, rows).rng
    assert torch.equal(made.batch(0, 5, rows).x, made.batch(0, 9, rows).x)
    assert not torch.equal(made.batch(0, 5, rows).x, made.batch(1, 5, rows).x)


def test_cutout_paints_the_mean_colour_of_the_images():
    assert _mean_colour(IMAGES) == pytest.approx((IMAGES.double() / 255).mean((0, 2, 3)).tolist())
    x = feed(cutout=32).batch(0, 0, torch.tensor([3])).x  # half of a side of 8 is always covered
    painted = (x == torch.tensor(_mean_colour(IMAGES)).view(1, 3, 1, 1)).all(1)
    assert painted.float().mean() >= 0.5


def paired(kind, every=1, **changes):
    training = Training(**{"batch_size": 4, "crop_padding": 0, "flip": False} | changes)
    return Feed(DATA, training, Stream.of(0), torch.device("cpu"), Pairing(kind, every))


def test_partners_are_a_permutation_within_each_class():
    labels = torch.tensor([2, 0, 1, 0, 2, 0, 0, 1])
    partners = same_class_partners(labels, Stream.of(3))
    assert torch.equal(labels[partners], labels)
    assert sorted(partners.tolist()) == list(range(8))
    assert any(same_class_partners(labels, Stream.of(seed)).tolist() != partners.tolist() for seed in range(4, 9))


def test_a_partner_of_the_same_class_stays_for_some_epochs():
    made, rows = paired("same_class", every=2), torch.arange(10)
    epochs = [made.batch(epoch, 0, rows).partner for epoch in range(6)]
    plain = IMAGES.float() / 255
    assert torch.equal(epochs[0], plain[same_class_partners(DATA.labels, Stream.of(0).at("partner", 0))])
    assert torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[4], epochs[5])
    assert not all(torch.equal(epochs[0], later) for later in (epochs[2], epochs[4]))
    again = paired("same_class", every=2)
    assert torch.equal(again.batch(5, 0, rows).partner, epochs[5])


def test_an_augmented_partner_is_the_same_image_drawn_again():
    made, rows = paired("augmented", flip=True), torch.arange(10)
    batch = made.batch(0, 0, rows)
    mirrored = [not torch.equal(a, b) for a, b in zip(batch.x, batch.partner, strict=True)]
    assert 0 < sum(mirrored) < 10
    for a, b in zip(batch.x, batch.partner, strict=True):
        assert torch.equal(a, b) or torch.equal(a, b.flip(2))
    assert feed().batch(0, 0, rows).partner is None
