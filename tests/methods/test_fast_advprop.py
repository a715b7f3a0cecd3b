"""Fast AdvProp's step written out with one plain network per branch."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robusteval.attacks import random_start
from robusteval.attacks.geometry import distance
from robusteval.cost import Meter
from robusteval.errors import UserError
from robusteval.methods import fast_advprop
from robusteval.methods.branch_gradients import scaled_gradients
from robusteval.methods.fast_advprop import FastAdvProp
from robusteval.testing import MethodContract, example_batch

BATCH = example_batch(20)


class TestFastAdvProp(MethodContract):
    method = FastAdvProp()


class TestFastAdvPropOfNaturalSpeeds(MethodContract):
    method = FastAdvProp(p_adv=0.5, beta=1.0, sync=False, clean_start=0.5, epsilon="4/255")


def part_by_hand(main, aux, batch, method, *, n_aux, noisy=True):
    """Adds the sums of a part's losses to the gradients of the networks; the adversarial images."""
    n_main, epsilon = len(batch.x) - n_aux, method.epsilon
    F.cross_entropy(main(batch.x[:n_main]), batch.y[:n_main], reduction="sum").backward()
    x, y = batch.x[n_main:], batch.y[n_main:]
    start = random_start(x, epsilon=epsilon, norm="Linf", rng=batch.rng.at("start"), index=batch.index[n_main:])
    point = (x + start * noisy).clamp(0, 1).requires_grad_()
    (method.beta * F.cross_entropy(aux(point), y, reduction="sum")).backward()
    moved = point.detach() + epsilon * point.grad.sign()
    x_adv = torch.min(torch.max(moved, x - epsilon), x + epsilon).clamp(0, 1)
    (method.beta * F.cross_entropy(aux(x_adv), y, reduction="sum")).backward()
    return x_adv


def divide(net, branch_count, shared_count):
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            parameter.grad /= branch_count if "bn" in name else shared_count


def by_hand(networks, check, method, *, n_aux, noisy=True):
    model, main, aux = networks()
    before = int(model.bn2.num_batches_tracked)
    x_adv = part_by_hand(main, aux, BATCH, method, n_aux=n_aux, noisy=noisy)
    assert (x_adv - BATCH.x[-n_aux:]).abs().max() == pytest.approx(method.epsilon, rel=1e-3)
    weight = len(BATCH.x) - n_aux + 2 * method.beta * n_aux
    divide(main, len(BATCH.x) - n_aux if method.sync else weight, weight)
    divide(aux, 2 * method.beta * n_aux if method.sync else weight, weight)
    check(model, method, main, aux)
    assert int(model.bn2.num_batches_tracked) == before + 1
    assert int(model.bn2.aux_bn["aux"].num_batches_tracked) == int(aux.bn2.num_batches_tracked) == 2


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("beta", [0.5, 0.8])
@pytest.mark.parametrize(("p_adv", "n_aux"), [(0.2, 4), (0.37, 7)])
def test_step(networks, check, sync, beta, p_adv, n_aux):
    by_hand(networks, check, FastAdvProp(p_adv=p_adv, beta=beta, sync=sync), n_aux=n_aux)


def test_step_from_the_clean_image(networks, check):
    by_hand(networks, check, FastAdvProp(clean_start=1.0, epsilon="3/255"), n_aux=4, noisy=False)


def accumulated(networks, check, method):
    """A batch in parts of 11 and 9 rows, of which 2 each are adversarial: each part is weighed by its own counts."""
    parts = [
        replace(BATCH, x=BATCH.x[rows], y=BATCH.y[rows], index=BATCH.index[rows], rng=BATCH.rng.at(i))
        for i, rows in enumerate((slice(0, 11), slice(11, 20)))
    ]

    class InParts:
        def step(self, model, batch, backward):
            for part in parts:
                share = len(part.x) / len(batch.x)
                method.step(model, part, lambda loss, share=share: backward(share * loss))

    model, main, aux = networks()
    nets, total = (main, aux), {}
    for part in parts:
        for net in nets:
            net.zero_grad()
        part_by_hand(main, aux, part, method, n_aux=2)
        divide(main, len(part.x) - 2, len(part.x))
        divide(aux, 2, len(part.x))
        for net in nets:
            for name, parameter in net.named_parameters():
                if parameter.grad is not None:
                    key = net is aux, name
                    total[key] = total.get(key, 0) + len(part.x) / 20 * parameter.grad
    for net in nets:
        for name, parameter in net.named_parameters():
            parameter.grad = total.get((net is aux, name))
    check(model, InParts(), main, aux)


def test_step_in_parts(networks, check):
    accumulated(networks, check, FastAdvProp())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{MAIN: weight / n_main, AUX: weight / weight_aux}", "{MAIN: weight / weight_aux, AUX: weight / n_main}"),
        ("if self.sync", "if not self.sync"),
        ("2 * self.beta * n_aux", "self.beta * n_aux"),  # counts one pass of the two
        # noisy and adversarial images through the main branch
        ("with use_branch(model, AUX):\n                noise", "with use_branch(model, MAIN):\n                noise"),
        ("ball.step(noisy.detach(), noisy.grad", "ball.step(x_aux, noisy.grad"),  # forgets the noise
        ("noisy.grad, self.epsilon)", "-noisy.grad, self.epsilon)"),  # descends
        ("model(noisy)", "model.eval()(noisy)"),  # attacks with running statistics
        ("                backward(noise_loss)", "                noise_loss.backward(inputs=[noisy])"),  # no reuse
        ("n_main = len(batch.x) - n_aux", "n_main, n_aux = n_aux, len(batch.x) - n_aux"),
    ],
)
def test_mutants_are_caught(networks, check, mutant, old, new):
    with pytest.raises(AssertionError):
        by_hand(networks, check, mutant(FastAdvProp, old, new)(), n_aux=4)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("handle.remove()", "pass"),  # the next part is scaled twice
        (  # what earlier parts left in .grad is scaled again
            "register_hook(partial(operator.mul, scale))",
            "register_post_accumulate_grad_hook(lambda p, scale=scale: setattr(p, 'grad', p.grad * scale))",
        ),
    ],
)
def test_mutants_of_the_scaling_are_caught_in_parts(networks, check, mutant, monkeypatch, old, new):
    monkeypatch.setattr(fast_advprop, "scaled_gradients", mutant(scaled_gradients, old, new))
    with pytest.raises(AssertionError):
        accumulated(networks, check, FastAdvProp())


def test_the_groups_keep_pace(networks):
    """By nature the groups learn with 1 : 1 - p : p of the images; with sync, each from the mean over its own."""
    gradients = {}
    for sync in (True, False):
        model, *_ = networks()
        FastAdvProp(sync=sync).step(model, BATCH, torch.autograd.backward)
        gradients[sync] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name, natural in gradients[False].items():
        share = 0.2 if "aux_bn" in name else 0.8 if "bn" in name else 1.0
        torch.testing.assert_close(share * gradients[True][name], natural, rtol=1e-5, atol=1e-8)


def test_the_adversarial_images_stay_in_the_ball(networks):
    model, *_ = networks()
    batch = replace(BATCH, x=(BATCH.x * 1.2 - 0.1).clamp(0, 1))
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    FastAdvProp(epsilon="4/255").step(model, batch, torch.autograd.backward)
    clean, noisy, adversarial = seen
    assert torch.equal(clean, batch.x[:16])
    for images in (noisy, adversarial):
        far = distance(batch.x[16:], images, "Linf")
        assert (far <= 4 / 255).all()
        assert (far > 3.5 / 255).all()
        assert images.min() >= 0
        assert images.max() <= 1
    assert not torch.equal(noisy, adversarial)


def test_logs(networks):
    model, *_ = networks()
    model.head.weight.data.sub_(model.head.weight.mean(1, keepdim=True))  # or there is one prediction for all
    model.head.bias.data.zero_()
    outputs = []
    model.register_forward_hook(lambda module, args, out: outputs.append(out.detach()))
    logs = FastAdvProp().step(model, BATCH, torch.autograd.backward)
    y, y_aux = BATCH.y[:16], BATCH.y[16:]
    clean, noisy, adversarial = (
        F.cross_entropy(out, labels, reduction="sum") for out, labels in zip(outputs, (y, y_aux, y_aux), strict=True)
    )
    expected = {
        "loss": (clean + (noisy + adversarial) / 2) / 20,
        "loss_aux": adversarial / 4,
        "accuracy": (outputs[0].argmax(1) == y).float().mean(),
        "accuracy_aux": (outputs[2].argmax(1) == y_aux).float().mean(),
    }
    assert expected["accuracy"] != expected["accuracy_aux"]
    torch.testing.assert_close(logs, expected)


def test_no_pass_is_for_the_attack_alone(networks):
    model, *_ = networks()
    meter = Meter(model, torch.device("cpu"))
    with meter.running():
        FastAdvProp().step(model, BATCH, torch.autograd.backward)
    assert meter.forward == meter.backward == {"main": 16, "aux": 8}
    law = FastAdvProp().passes()
    assert (law.train, law.attack) == ({"main": 0.8, "aux": 0.4}, {})
    assert law.flops == pytest.approx(1.2)


def test_hooks_do_not_outlive_the_step(networks):
    model, *_ = networks()
    FastAdvProp().step(model, BATCH, torch.autograd.backward)
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def test_shares_and_budget():
    assert [FastAdvProp().adversarial(n) for n in (2, 3, 7, 40, 128, 320)] == [1, 1, 1, 8, 26, 64]
    assert FastAdvProp(p_adv=0.9).adversarial(3) == 2
    assert FastAdvProp().epochs_factor == 1
    assert round(105 * FastAdvProp(budget_matched=True).epochs_factor) == 88
    with pytest.raises(UserError, match="2 or more"):
        FastAdvProp().step(torch.nn.Identity(), example_batch(1), torch.autograd.backward)


def test_options_out_of_range_are_refused():
    for wrong in ({"p_adv": 0.0}, {"p_adv": 1.0}, {"beta": 0.0}, {"clean_start": 1.5}, {"epsilon": 8.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FastAdvProp(**wrong)
