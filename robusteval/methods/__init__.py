"""The methods: one file per paper, one list."""

from __future__ import annotations

from collections.abc import Mapping

from robusteval.method import Method
from robusteval.methods.advprop import AdvProp
from robusteval.methods.entprop import EntProp
from robusteval.methods.mixup import MixUp
from robusteval.methods.pgd_at import PgdAT
from robusteval.methods.standard import Standard

METHODS: Mapping[str, type[Method]] = {m.name: m for m in (Standard, MixUp, PgdAT, AdvProp, EntProp)}
"""Every method by name."""
