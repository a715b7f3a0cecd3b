"""The methods: one file per paper, one list."""

from __future__ import annotations

from collections.abc import Mapping

from robusteval.method import Method
from robusteval.methods.advprop import AdvProp
from robusteval.methods.arat import ARAT
from robusteval.methods.augmix import AugMix
from robusteval.methods.bn_free import BnFree
from robusteval.methods.counterbalancing_teacher import CounterbalancingTeacher
from robusteval.methods.cutmix import CutMix
from robusteval.methods.entprop import EntProp
from robusteval.methods.fast_advprop import FastAdvProp
from robusteval.methods.fast_at import FastAT
from robusteval.methods.free_at import FreeAT
from robusteval.methods.gaussian_noise import GaussianNoise
from robusteval.methods.invariance_pair import InvariancePair
from robusteval.methods.mart import Mart
from robusteval.methods.mixprop import MixProp
from robusteval.methods.mixup import MixUp
from robusteval.methods.nofrost import NoFrost
from robusteval.methods.pgd_at import PgdAT
from robusteval.methods.randaugment import RandAugment
from robusteval.methods.standard import Standard
from robusteval.methods.trades import Trades

METHODS: Mapping[str, type[Method]] = {
    method.name: method
    for method in (
        Standard,
        # Data augmentation
        MixUp,
        CutMix,
        RandAugment,
        AugMix,
        GaussianNoise,
        # Disentangled BatchNorm
        AdvProp,
        FastAdvProp,
        MixProp,
        EntProp,
        ARAT,
        # Invariance, teachers, and no BatchNorm at all
        InvariancePair,
        BnFree,
        CounterbalancingTeacher,
        # Adversarial training
        PgdAT,
        Trades,
        Mart,
        FreeAT,
        FastAT,
        NoFrost,
    )
}
"""Every method by name."""
