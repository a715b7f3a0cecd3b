"""EntProp written out with one plain network per branch, for every choice that the paper leaves open."""

import dataclasses
import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from robusteval.attacks import random_start
from robusteval.branches import keep_branch
from robusteval.cost import Meter
from robusteval.data.augment import cutmix, mixup
from robusteval.errors import UserError
from robusteval.method import attached
from robusteval.methods.entprop import EntProp
from robusteval.methods.entprop_attack import InnerAttack
from robusteval.testing import CLASSES, MethodContract, TinyNet, example_batch, example_setting

BATCH = example_batch(20)
N, K = 20, 0.3
CHOSEN = 6


def mixture(logits, ya, yb, lam):
    a, b = (F.cross_entropy(logits, y, reduction="none") for y in (ya, yb))
    return lam * a + (1 - lam) * b


def highest_other(logits, y):
    return torch.stack([torch.cat([row[:c], row[c + 1 :]]).max() for row, c in zip(logits, y, strict=True)])


def driven_up(kind, logits, clean, ya, yb, lam):
    """What the attack maximises, summed."""
    if kind == "trades":
        log_p = clean.log_softmax(1)  # exp of it, not softmax: so close to the image the last bits decide signs
        return (log_p.exp() * (log_p - logits.log_softmax(1))).sum()
    if kind == "cw":
        of_a, of_b = (highest_other(logits, y) - logits[range(len(y)), y] for y in (ya, yb))
        return (lam * of_a + (1 - lam) * of_b).sum()
    return mixture(logits, ya, yb, lam).sum()


def written_out(main, aux, method):
    """Algorithm 1 with the method's readings of it: fills the gradients of both networks, gives the attacked images."""
    ya, yb, lam, x = BATCH.y, BATCH.y, torch.ones(N), BATCH.x
    if method.mix != "none":
        x, ya, yb, lam = (mixup if method.mix == "mixup" else cutmix)(BATCH.x, BATCH.y, BATCH.rng, alpha=1.0)
    x = x.clone().requires_grad_()
    logits = main(x)
    p = logits.detach().softmax(1)
    chosen = (-(p * p.log()).sum(1)).argsort(descending=True)[:CHOSEN]
    kept = method.inner_gradients == "keep"
    inner = max(0, method.steps - method.free_first_step)
    aux_passes = 1 + inner * kept
    losses = mixture(logits, ya, yb, lam)
    # Sums of losses first; what a group's gradient is divided by comes at the end.
    share_main, share_aux = (0.5, 0.5 / aux_passes) if method.loss_weighting == "image" else (1.0, 1.0)
    weight = torch.ones(N)
    weight[chosen] = share_main
    (weight * losses).sum().backward()
    free, x0 = x.grad[chosen].sign(), x.detach()[chosen]
    ya, yb, lam = ya[chosen], yb[chosen], lam[chosen]
    if method.adversarial_label == "first":
        yb = ya
    radius = {0: 1, 1: 1}.get(method.steps, method.steps + 1) / 255 if method.epsilon is None else method.epsilon
    delta = torch.zeros_like(x0)
    start = BATCH.rng.at("start")
    if method.random_start:
        delta = random_start(x0, epsilon=radius, norm="Linf", rng=start, index=chosen)
    elif method.inner_attack == "trades" and not method.free_first_step:
        delta = (0.001 * start.normal(chosen, 3, 8, 8)).clamp(-radius, radius)
    statistics = {k: v.clone() for k, v in aux.state_dict().items()}
    if method.inner_bn == "eval":
        aux.eval()
    clean = aux(x0).detach() if method.inner_attack == "trades" and inner else None
    point = (x0 + delta).clamp(0, 1)
    for i in range(method.steps):
        if i == 0 and method.free_first_step:
            sign = free
        else:
            leaf = point.clone().requires_grad_()
            value = driven_up(method.inner_attack, aux(leaf), clean, ya, yb, lam)
            if kept:
                (share_aux * value).backward()
                sign = leaf.grad.sign()
            else:
                sign = torch.autograd.grad(value, leaf)[0].sign()
        if method.update == "clipped":
            delta = (delta + method.step_size * sign).clamp(-radius, radius)
            point = x0 + delta
        else:
            delta = delta + radius * sign
            point = point + delta.clamp(-radius, radius)
        if method.clip:
            point = point.clamp(0, 1)
    if method.inner_bn != "train":
        aux.load_state_dict(statistics)
    aux.train()
    (share_aux * mixture(aux(point), ya, yb, lam).sum()).backward()
    # How much weight each group's losses have.
    seen_main = float(weight.sum())
    seen_aux = share_aux * CHOSEN * aux_passes
    total = {"image": N, "mean": N + CHOSEN * aux_passes, "sum": None}[method.loss_weighting]
    for network, seen in ((main, seen_main), (aux, seen_aux)):
        for name, parameter in network.named_parameters():
            if parameter.grad is None:
                continue
            divisor = total or seen
            if method.sync and "bn" in name:
                divisor = seen if total else seen / 2  # two means add up to twice the weight
            parameter.grad /= divisor
    return point, x0


def compare(networks, check, method):
    """One step of the method does what is written out."""
    model, main, aux = networks()
    point, x0 = written_out(main, aux, method)
    inputs = []
    handle = model.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach().clone()))
    check(model, method, main, aux)
    handle.remove()
    torch.testing.assert_close(inputs[-1], point, rtol=0, atol=1e-6)
    return point, x0


CONFIGURATIONS = {
    "as published": {},
    "five steps": {"steps": 5},
    "no attack": {"steps": 0},
    "noise without attack": {"steps": 0, "random_start": True},
    "first label": {"steps": 2, "adversarial_label": "first"},
    "cutmix": {"mix": "cutmix", "steps": 2},
    "no mixing": {"mix": "none"},
    "as printed": {"steps": 3, "update": "cumulative", "loss_weighting": "sum", "adversarial_label": "first"},
    "without clipping": {"steps": 3, "clip": False, "epsilon": 1.0, "step_size": 0.5},
    "ball binds": {"steps": 4, "epsilon": 1.5 / 255},
    "statistics move": {"steps": 3, "inner_bn": "train"},
    "running statistics": {"steps": 3, "inner_bn": "eval"},
    "gradients kept": {"steps": 3, "inner_gradients": "keep"},
    "gradients kept, mean": {"steps": 3, "inner_gradients": "keep", "loss_weighting": "mean"},
    "gradients kept, sum": {
        "steps": 2,
        "inner_gradients": "keep",
        "loss_weighting": "sum",
        "free_first_step": False,
    },
    "synchronised": {"sync": True},
    "synchronised, mean": {"sync": True, "loss_weighting": "mean", "steps": 2},
    "synchronised, sum": {"sync": True, "loss_weighting": "sum"},
    "synchronised, gradients kept": {"sync": True, "steps": 3, "inner_gradients": "keep"},
    "true pgd": {"free_first_step": False, "steps": 3},
    "true pgd, one step": {"free_first_step": False},
    "random start": {"random_start": True, "steps": 2},
    "trades": {"inner_attack": "trades", "steps": 3},
    "trades, one step": {"inner_attack": "trades"},
    "trades, true": {"inner_attack": "trades", "steps": 3, "free_first_step": False, "inner_bn": "eval"},
    "trades, random start": {
        "inner_attack": "trades",
        "free_first_step": False,
        "random_start": True,
        "step_size": 0.5 / 255,
    },
    "cw": {"inner_attack": "cw", "steps": 3},
    "cw, true": {"inner_attack": "cw", "free_first_step": False, "steps": 2},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_step_written_out(name, networks, check):
    method = EntProp(k=K, **CONFIGURATIONS[name])
    point, x0 = compare(networks, check, method)
    moved = float((point - x0).abs().max()) * 255
    if method.update == "clipped" and name not in ("without clipping", "noise without attack"):
        reach = method.steps * method.step_size * 255
        if not method.random_start and (method.inner_attack != "trades" or method.free_first_step):
            assert math.isclose(moved, min(reach, method.radius * 255), rel_tol=1e-3, abs_tol=1e-6)
        else:
            assert 0 < moved <= method.radius * 255 + 1e-3
    if name == "without clipping":
        assert point.min() < 0
        assert point.max() > 1


MISTAKES = [
    # (configuration, class, text, mistake)
    ("as published", EntProp, "with use_branch(model, AUX):", "with use_branch(model, MAIN):"),
    ("as published", EntProp, "scores.topk(", "(-scores).topk("),
    ("as published", EntProp, "Weights(1 / n, 0.5 / n,", "Weights(1 / n, 1 / n,"),
    ("as published", EntProp, "mixed.y_a[chosen], mixed.y_b[chosen]", "mixed.y_b[chosen], mixed.y_a[chosen]"),
    ("as published", EntProp, "Mixed(x.detach()[chosen]", "Mixed(batch.x[chosen]"),
    ("as published", EntProp, "x.grad[chosen]", "x.grad[: len(chosen)]"),
    ("as published", EntProp, "None if x.grad is None else x.grad[chosen]", "None"),
    ("first label", EntProp, "lam=torch.ones_like(part.lam)", "lam=part.lam"),
    ("gradients kept", EntProp, "0.5 / n / self._trained_passes", "0.5 / n"),
    ("gradients kept", EntProp, 'learn if self.inner_gradients == "keep" else None', "None"),
    ("synchronised", EntProp, "(main + aux) / aux}", "(main + aux) / main}"),
    ("five steps", InnerAttack, "            gradient = None\n        return", "            pass\n        return"),
    ("five steps", InnerAttack, "self.inner_bn):\n            value", "'train'):\n            value"),
    ("five steps", InnerAttack, "self.inner_bn):\n            value", "'eval'):\n            value"),
    ("five steps", InnerAttack, "self._in_range(part.x + delta)", "self._in_range(x_adv + delta)"),
    ("as published", InnerAttack, "delta + self.step_size * gradient", "delta - self.step_size * gradient"),
    ("ball binds", InnerAttack, "gradient.sign()).clamp(-self.radius, self.radius)", "gradient.sign())"),
    ("trades", InnerAttack, "kl_divergence(reference, logits)", "kl_divergence(logits, reference)"),
    ("trades, true", InnerAttack, "TINY * rng.normal(index", "0 * rng.normal(index"),
    ("cw", InnerAttack, "return -(part.lam", "return (part.lam"),
    ("true pgd", EntProp, "None if x.grad is None else x.grad[chosen]", "part.x"),
]


@pytest.mark.parametrize(("name", "where", "text", "mistake"), MISTAKES)
def test_a_planted_mistake_is_found(name, where, text, mistake, networks, check, mutant, monkeypatch):
    wrong = mutant(where, text, mistake)
    if where is InnerAttack:
        for method in ("perturbed", "start", "inner_passes", "_gradient", "_driven_up"):
            monkeypatch.setattr(InnerAttack, method, vars(wrong)[method])
        wrong = EntProp
    with pytest.raises(AssertionError):
        compare(networks, check, wrong(k=K, **CONFIGURATIONS[name]))


def test_logs(networks):
    """An accuracy is that of the images with the greater share in a mixture, the loss the sum of both branches'."""
    told_apart = set()
    for number in range(8):
        batch, (model, *_) = dataclasses.replace(BATCH, rng=BATCH.rng.at(number)), networks()
        model.head.weight.data.sub_(model.head.weight.mean(1, keepdim=True))  # or there is one prediction for all
        model.head.bias.data.zero_()
        outputs = []
        model.register_forward_hook(lambda module, args, out, outputs=outputs: outputs.append(out.detach()))
        logs = EntProp(k=K).step(model, batch, torch.autograd.backward)
        logits, logits_aux = outputs
        _, ya, yb, lam = mixup(batch.x, batch.y, batch.rng, alpha=1.0)
        p = logits.softmax(1)
        entropies, order = (-(p * p.log()).sum(1)).sort(descending=True)
        rest, chosen = order[CHOSEN:], order[:CHOSEN]
        losses = mixture(logits, ya, yb, lam)
        aux = mixture(logits_aux, ya[chosen], yb[chosen], lam[chosen])
        right = [(logits.argmax(1) == y).float().mean() for y in (ya, yb)]
        greater = 0 if lam[0] > 0.5 else 1
        if right[0] != right[1]:
            told_apart.add(greater)
        expected = {
            "loss": (losses[rest].sum() + losses[chosen].sum() / 2 + aux.sum() / 2) / N,
            "accuracy": right[greater],
            "loss_aux": aux.mean(),
            "entropy_selected": entropies[:CHOSEN].mean(),
        }
        torch.testing.assert_close(logs, expected)
    assert told_apart == {0, 1}


def test_divergence_without_a_start_of_its_own_would_go_nowhere(networks):
    """What the tiny start is for: at the image itself every gradient is zero, so nothing would move."""
    model, _, aux = networks()
    x = BATCH.x.clone().requires_grad_()
    clean = aux(BATCH.x).detach()
    (gradient,) = torch.autograd.grad(driven_up("trades", aux(x), clean, None, None, None), x)
    assert gradient.abs().max() < 1e-6
    points = []
    model.register_forward_pre_hook(lambda module, args: points.append(args[0].detach()))
    method = EntProp(inner_attack="trades", free_first_step=False, mix="none", k=1.0)
    method.step(model, BATCH, torch.autograd.backward)
    order = torch.cdist(points[-1].flatten(1), BATCH.x.flatten(1)).argmin(1)
    assert float((points[-1] - BATCH.x[order]).abs().max()) > 0.9 / 255


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize(
    ("attack", "gradients"), [("pgd", "discard"), ("pgd", "keep"), ("cw", "discard"), ("trades", "discard")]
)
def test_passes_are_those_of_the_law(steps, free, attack, gradients, networks):
    method = EntProp(
        k=K, steps=steps, free_first_step=free, inner_attack=attack, inner_gradients=gradients, inner_bn="train"
    )
    model, *_ = networks()
    meter, before = Meter(model, torch.device("cpu")), int(model.bn2.aux_bn["aux"].num_batches_tracked)
    with meter.running():
        method.step(model, BATCH, torch.autograd.backward)
    law = method.passes()
    assert {name: count / N for name, count in meter.backward.items()} == pytest.approx(law.backward_by_branch)
    forward = {name: law.backward_by_branch[name] + law.forward.get(name, 0) for name in ("main", "aux")}
    assert {name: count / N for name, count in meter.forward.items()} == pytest.approx(forward)
    # n passes with the free step, n + 1 without (Enomoto, 2024, appendix D: 1 + k(n + 1) instead of 1 + kn).
    inner = max(0, steps - free)
    assert sum(law.backward_by_branch.values()) == pytest.approx(1 + K * (1 + inner))
    assert law.train["aux"] == pytest.approx(K * (1 + inner) if gradients == "keep" else K)
    reference = attack == "trades" and inner > 0
    assert int(model.bn2.aux_bn["aux"].num_batches_tracked) == before + 1 + inner + reference


def test_the_papers_cost_column():
    found = {(k, n): EntProp(k=k, steps=n).passes().backward_by_branch for k, n in product((0.2, 0.6), (1, 5))}
    assert {at: round(sum(passes.values()), 9) for at, passes in found.items()} == {
        (0.2, 1): 1.2,
        (0.6, 1): 1.6,
        (0.2, 5): 2.0,
        (0.6, 5): 4.0,
    }
    true_pgd = EntProp(k=0.6, steps=5, free_first_step=False).passes()
    assert sum(true_pgd.backward_by_branch.values()) == pytest.approx(4.6)  # table 15


def test_every_selected_image_is_counted_once_a_step():
    torch.manual_seed(0)
    method = EntProp(mix="none", k=0.25)
    model = method.wrap(TinyNet().train(), dataclasses.replace(example_setting(method, N), images=50))
    expected = torch.zeros(50, dtype=torch.int64)
    assert attached(model, "selections").counts.shape == (50,)
    for shift in (0, 7, 30):
        plain = keep_branch(model, "main")
        p = plain(BATCH.x).detach().softmax(1)
        for row in (-(p * p.log()).sum(1)).argsort(descending=True)[:5]:
            expected[row + shift] += 1
        method.step(model, dataclasses.replace(BATCH, index=BATCH.index + shift), torch.autograd.backward)
    counts = attached(model, "selections").counts
    assert counts.dtype == torch.int32
    assert counts.tolist() == expected.tolist()
    assert not [key for key in method.deploy(model).state_dict() if "selections" in key]


def test_counting_positions_in_the_batch_instead_of_the_set_is_found(mutant):
    wrong = mutant(EntProp, "batch.index[chosen])\n        return", "chosen)\n        return")(mix="none")
    model = wrong.wrap(TinyNet().train(), dataclasses.replace(example_setting(wrong, N), images=50))
    wrong.step(model, dataclasses.replace(BATCH, index=BATCH.index + 30), torch.autograd.backward)
    assert attached(model, "selections").counts[:30].any()


def test_random_selection_is_a_draw_of_the_step_and_the_image():
    method, model = EntProp(metric="random", k=0.25), TinyNet()
    first = method.chosen(model(BATCH.x), method.mixed(BATCH), BATCH)
    assert first.tolist() == method.chosen(torch.zeros(N, CLASSES), method.mixed(BATCH), BATCH).tolist()
    other = dataclasses.replace(BATCH, rng=BATCH.rng.at("next"))
    assert set(first.tolist()) != set(method.chosen(model(BATCH.x), method.mixed(BATCH), other).tolist())
    score = BATCH.rng.at("selection").uniform(BATCH.index)
    assert set(first.tolist()) == set(score.argsort()[-5:].tolist())


@pytest.mark.parametrize("metric", ["cross_entropy", "margin"])
def test_scores_with_a_label_take_that_of_the_first_image(metric):
    method, logits = EntProp(metric=metric, k=0.5), torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(0))
    mixed = method.mixed(BATCH)
    scores = [
        F.cross_entropy(logits, y, reduction="none")
        if metric == "cross_entropy"
        else highest_other(logits, y) - logits[range(N), y]
        for y in (BATCH.y, mixed.y_b)
    ]
    first, second = (score.argsort(descending=True)[:10].tolist() for score in scores)
    assert method.chosen(logits, mixed, BATCH).tolist() == first != second


def test_synchronised_gradients_add_to_those_that_are_there(networks):
    """An accumulated batch: only what this step adds is scaled."""
    method = EntProp(k=K, sync=True)
    (fresh, *_), (model, *_) = networks(), networks()
    method.step(fresh, BATCH, torch.autograd.backward)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    method.step(model, BATCH, torch.autograd.backward)
    for (name, one), two in zip(fresh.named_parameters(), model.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(two.grad, one.grad + 1, msg=name)
            assert not one._backward_hooks


def test_how_many_are_selected():
    for rounding, expected in (("nearest", [26, 20, 3, 1]), ("down", [25, 20, 2, 1]), ("up", [26, 20, 3, 1])):
        assert [EntProp(k=0.2, rounding=rounding).selected(n) for n in (128, 100, 14, 2)] == expected
    assert [EntProp(k=0.29, rounding=r).selected(100) for r in ("down", "up")] == [29, 29]  # 0.29 * 100 < 29 as floats
    assert [EntProp(k=0.1, rounding=r).selected(30) for r in ("down", "up")] == [3, 3]  # 0.1 * 30 > 3 as floats
    assert EntProp(k=1.0).selected(37) == 37


def test_too_few_for_the_auxiliary_branch_are_refused():
    method = EntProp(k=0.1)
    setting = dataclasses.replace(example_setting(method), batch_size=12)
    with pytest.raises(UserError, match=r"entprop: k = 0.1 selects 1 image of a batch of 12; .* needs 2 or more"):
        method.wrap(TinyNet(), setting)
    method.wrap(TinyNet(), dataclasses.replace(setting, batch_size=20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0.0}, "greater than 0"),
        ({"k": 1.1}, "less than or equal to 1"),
        ({"steps": -1}, "greater than or equal to 0"),
        ({"epsilon": 6.0}, "epsilon: 6 is more than the whole pixel range"),
        ({"step_size": 2.0}, "step_size: 2 is more than the whole pixel range"),
        ({"steps": 255}, "epsilon: 1.00392 is more than the whole pixel range"),
        ({"inner_attack": "cw", "inner_gradients": "keep"}, "'cw' is no training loss; allowed .*\"pgd\""),
        ({"inner_attack": "trades", "inner_gradients": "keep"}, "'trades' is no training loss"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EntProp(**options)


def test_published_numbers_are_those_of_runs_that_can_be_made():
    rows = EntProp.card.published
    assert len(rows) == 16
    clean, corruption = (
        {str(row.options): row.value for row in rows if row.metric == metric} for metric in ("clean", "corruption")
    )
    for row in rows:
        assert row.architecture == "resnet18"
        EntProp(**row.options)
    # The H-scores that the paper prints beside them, in tables 4, 7 and 9.
    scores = [round(200 * a * b / (a + b), 2) for a, b in zip(clean.values(), corruption.values(), strict=True)]
    assert scores == pytest.approx([65.15, 65.40, 64.58, 66.30, 62.18, 64.74, 63.29, 62.54], abs=0.011)


class TestKeptAndSynchronised(MethodContract):
    method = EntProp(k=0.5, steps=3, inner_gradients="keep", sync=True, rounding="up")


class TestTrueTrades(MethodContract):
    method = EntProp(k=0.5, steps=2, inner_attack="trades", free_first_step=False, loss_weighting="mean")


class TestFreeTradesInEvalMode(MethodContract):
    method = EntProp(k=0.2, steps=3, inner_attack="trades", inner_bn="eval", adversarial_label="first")


class TestRandomCw(MethodContract):
    method = EntProp(steps=2, inner_attack="cw", random_start=True, mix="none", metric="random")


class TestWithoutAttack(MethodContract):
    method = EntProp(steps=0, metric="confidence")


class TestTruePgdKeptAndSummed(MethodContract):
    method = EntProp(k=0.6, steps=2, free_first_step=False, inner_gradients="keep", loss_weighting="sum")
