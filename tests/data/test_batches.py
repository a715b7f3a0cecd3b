import pytest
import torch

from robusteval.data.batches import epoch_batches, eval_batches
from robusteval.errors import UserError
from robusteval.randomness import Stream


def test_every_image_is_once_in_an_epoch():
    batches = list(epoch_batches(103, 10, Stream.of(1), drop_last=False))
    assert [len(batch) for batch in batches] == [10] * 10 + [3]
    assert sorted(torch.cat(batches).tolist()) == list(range(103))
    assert batches[0].dtype == torch.int64


def test_drop_last_leaves_out_only_the_last():
    whole = torch.cat(list(epoch_batches(103, 10, Stream.of(1), drop_last=False)))
    batches = list(epoch_batches(103, 10, Stream.of(1), drop_last=True))
    assert [len(batch) for batch in batches] == [10] * 10
    assert torch.equal(torch.cat(batches), whole[:100])
    assert len(list(epoch_batches(100, 10, Stream.of(1), drop_last=True))) == 10


def test_the_order_is_the_streams_and_not_the_batch_size():
    first, again, other = (
        torch.cat(list(epoch_batches(500, size, Stream.of(0).at("epoch", epoch), drop_last=False)))
        for size, epoch in ((50, 0), (70, 0), (50, 1))
    )
    assert torch.equal(first, again)
    assert (first != other).float().mean() > 0.9
    assert (first != torch.arange(500)).float().mean() > 0.9


def test_a_batch_larger_than_the_data_is_refused_at_once():
    with pytest.raises(UserError, match=r"128 images a batch; the data have 100; allowed: 1 to 100"):
        epoch_batches(100, 128, Stream.of(0), drop_last=True)
    assert [len(b) for b in epoch_batches(100, 128, Stream.of(0), drop_last=False)] == [100]


@pytest.mark.parametrize(("n", "size"), [(1, 4), (4, 4), (10, 4), (12, 4), (13, 4)])
def test_eval_batches_have_one_size_and_cover_the_set_in_order(n, size):
    batches = list(eval_batches(n, size))
    assert {len(positions) for positions, _ in batches} == {size}
    assert torch.cat([positions[:valid] for positions, valid in batches]).tolist() == list(range(n))
    last, valid = batches[-1]
    assert set(last[valid:].tolist()) <= {n - 1}
