import pytest
import torch

from robusteval.data import ImageSet
from robusteval.feed import Feed, _mean_colour
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
