from robusteval.methods import METHODS
from robusteval.methods.advprop import AdvProp
from robusteval.methods.entprop import EntProp
from robusteval.methods.pgd_at import PgdAT
from robusteval.methods.standard import Standard
from robusteval.testing import MethodContract

for _name, _method in METHODS.items():
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (MethodContract,), {"method": _method()})


class TestSmoothedStandard(MethodContract):
    method = Standard(label_smoothing=0.1)


class TestEntPropWithManySteps(MethodContract):
    method = EntProp(k=0.6, steps=5, inner_bn="train", loss_weighting="sum")


class TestEntPropWithCutMixAndMargin(MethodContract):
    method = EntProp(mix="cutmix", metric="margin", k=0.5, steps=2, update="cumulative")


class TestUntargetedAdvPropInTwoPasses(MethodContract):
    method = AdvProp(targeted=False, forward="two", attack_bn="train-frozen-stats", steps=2)


class TestL2Training(MethodContract):
    method = PgdAT(norm="L2", epsilon=0.5, step_size=0.1, steps=3, attack_bn="train-frozen-stats")


def test_registry_names_are_the_methods_own():
    assert {name: method.name for name, method in METHODS.items()} == {name: name for name in METHODS}
    assert {"standard", "mixup", "pgd_at", "advprop", "entprop"} <= METHODS.keys()
