import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from robusteval.branches import (
    BranchNorm,
    add_branches,
    branch_names,
    current_route,
    keep_branch,
    split_batch,
    use_branch,
)
from robusteval.errors import UserError
from robusteval.testing import TinyNet


def trained(model, *names):
    """The model with branches whose statistics and affine parameters all differ."""
    add_branches(model, names)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "aux_bn" in name or "bn" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    return model


@pytest.fixture
def x():
    return torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_main_branch_keeps_keys_and_outputs(x):
    torch.manual_seed(0)
    plain = TinyNet()
    expected, keys = copy.deepcopy(plain).train()(x), list(plain.state_dict())
    add_branches(plain, ["aux", "third"])
    assert torch.equal(plain.train()(x), expected)
    assert [key for key in plain.state_dict() if ".aux_bn." not in key] == keys
    assert "bn2.aux_bn.third.running_var" in plain.state_dict()
    assert branch_names(plain) == ("main", "aux", "third")


def test_new_branch_starts_as_a_copy(x):
    model = TinyNet().eval()
    model.bn1.running_mean.fill_(0.3)
    expected = model(x)
    add_branches(model, ["aux"])
    with use_branch(model, "aux"):
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_parts_of_a_split_batch_equal_each_branch_alone(x, mode):
    model = trained(TinyNet(), "aux")
    getattr(model, mode)()
    alone = {}
    for name, part in (("main", x[:7]), ("aux", x[7:])):
        one = copy.deepcopy(model)
        with use_branch(one, name):
            alone[name] = one(part)
    with split_batch(model, {"main": 7, "aux": 5}):
        out = model(x)
    torch.testing.assert_close(out[:7], alone["main"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out[7:], alone["aux"], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(alone["main"][:5], alone["aux"])


def test_each_branch_moves_its_own_statistics_only(x):
    model = TinyNet().train()
    add_branches(model, ["aux", "third"])
    with split_batch(model, {"aux": 8, "main": 4}):
        model(x)
    # bn1 is used twice in a forward pass, bn2 once.
    assert [int(b.num_batches_tracked) for b in (model.bn1, *model.bn1.aux_bn.values())] == [2, 2, 0]
    with use_branch(model, "third"):
        model(x)
    assert [int(b.num_batches_tracked) for b in (model.bn2, *model.bn2.aux_bn.values())] == [1, 1, 1]
    # Against the definition of a running mean, for a layer that sees raw input.
    layer = nn.Sequential(nn.BatchNorm2d(3))
    add_branches(layer, ["aux"])
    with split_batch(layer, {"main": 4, "aux": 8}):
        layer(x)
    torch.testing.assert_close(layer[0].running_mean, 0.1 * x[:4].mean((0, 2, 3)))
    torch.testing.assert_close(layer[0].aux_bn["aux"].running_mean, 0.1 * x[4:].mean((0, 2, 3)))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_kind_of_batchnorm(dims):
    layer = nn.Sequential({1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](4))
    x = torch.randn(6, 4, *[3] * dims)
    add_branches(layer, ["aux"])
    with split_batch(layer, {"main": 2, "aux": 4}):
        out = layer(x)
    over = (0, *range(2, x.ndim))
    for part, result in ((x[:2], out[:2]), (x[2:], out[2:])):
        mean, var = part.mean(over, keepdim=True), part.var(over, keepdim=True, correction=0)
        torch.testing.assert_close(result, (part - mean) / torch.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)


def test_contexts_nest_and_survive_exceptions(x):
    model = trained(TinyNet(), "aux", "third").eval()
    with use_branch(model, "aux"):
        aux = model(x)
        with pytest.raises(ZeroDivisionError), split_batch(model, {"main": 6, "third": 6}):
            assert current_route(model) == (("main", 6), ("third", 6))
            raise ZeroDivisionError
        assert torch.equal(model(x), aux)
    assert current_route(model) == (("main", None),)


def test_a_layer_used_twice_stays_one_layer():
    model = TinyNet()
    add_branches(model, ["aux"])
    assert model.bn1 is model.again
    assert isinstance(model.again, BranchNorm)
    kept = keep_branch(model, "aux")
    assert kept.bn1 is kept.again


@pytest.mark.parametrize("name", ["main", "aux", "third"])
def test_kept_branch_is_plain_and_bit_identical(x, name):
    reference = TinyNet()
    model = trained(TinyNet(), "aux", "third").eval()
    with use_branch(model, name):
        expected = model(x)
    before = copy.deepcopy(model.state_dict())
    kept = keep_branch(model, name)
    assert torch.equal(kept(x), expected)
    assert list(kept.state_dict()) == list(reference.state_dict())
    assert [type(m) for m in kept.modules()] == [type(m) for m in reference.modules()]
    loaded = TinyNet().eval()
    loaded.load_state_dict(kept.state_dict())
    assert torch.equal(loaded(x), expected)
    kept(x).sum().backward()  # and nothing of it reaches the original
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_state_of_branches_round_trips_and_can_be_copied(x):
    model = trained(TinyNet(), "aux")
    fresh = TinyNet()
    add_branches(fresh, ["aux"])
    fresh.load_state_dict(model.state_dict())
    for one in (fresh.eval(), copy.deepcopy(model).eval()):
        with use_branch(one, "aux"), use_branch(model.eval(), "aux"):
            assert torch.equal(one(x), model(x))


def test_attack_in_eval_mode_sees_its_branch_and_no_other(x):
    """The fault of routing that only works in train mode: the gradient must depend on the branch that is used."""
    model = trained(TinyNet(), "aux").eval()

    def gradient():
        leaf = x.clone().requires_grad_()
        with use_branch(model, "aux"):
            model(leaf).logsumexp(1).sum().backward()
        return leaf.grad

    before = gradient()
    with torch.no_grad():
        model.bn1.weight.mul_(3)  # the main branch
    assert torch.equal(gradient(), before)
    with torch.no_grad():
        model.bn1.aux_bn["aux"].weight.mul_(3)
    assert not torch.allclose(gradient(), before)


def test_activation_checkpointing_is_right_when_backward_runs_inside(x):
    def gradients(run):
        model = trained(TinyNet(), "aux").train()
        with use_branch(model, "aux"):
            run(model).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain = gradients(lambda model: model(x))
    checkpointed = gradients(lambda model: checkpoint(model, x, use_reentrant=False))
    assert len(plain) == len(checkpointed) > 4
    for a, b in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(a, b)


def test_mistakes_are_refused(x):
    model = TinyNet()
    add_branches(model, ["aux"])
    with pytest.raises(UserError, match=r"unknown branch 'aus'; did you mean 'aux'\?; allowed: aux, main"):
        use_branch(model, "aus").__enter__()
    with pytest.raises(UserError, match="already"):
        add_branches(model, ["aux"])
    with pytest.raises(UserError, match="not a branch name"):
        add_branches(model, ["a.b"])
    with pytest.raises(UserError, match="no BatchNorm"):
        add_branches(nn.Linear(2, 2), ["aux"])
    with pytest.raises(UserError, match="do not add up to the batch of 12"), split_batch(model, {"main": 6, "aux": 5}):
        model(x)
    with pytest.raises(UserError, match="unknown branch"):
        keep_branch(model, "nope")
