"""Counter-based randomness: every draw is a pure function of (seed, purpose, step, sample index).

No generator has a state, so nothing of it is stored in a checkpoint, a resumed run draws what an
uninterrupted one would have drawn, and the draws of a sample do not depend on which batch it is in.
Uniform draws are bit-equal on every device.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF


def _signed(value: int) -> int:
    """The int32 with the same bits as the low 32 bits of a Python integer."""
    value &= _MASK32
    return value - (1 << 32) if value >> 31 else value


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int32 (torch's own is arithmetic)."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3 (Appleby, public domain): a bijection with full avalanche."""
    x = (x ^ _shift(x, 16)) * _signed(0x85EBCA6B)
    x = (x ^ _shift(x, 13)) * _signed(0xC2B2AE35)
    return x ^ _shift(x, 16)


@dataclass(frozen=True)
class Stream:
    """A named stream of randomness.

    >>> a = Stream.of(0).at("crop", 3).uniform(torch.tensor([5, 6]), 2)
    >>> b = Stream.of(0).at("crop", 3).uniform(torch.tensor([6]), 2)
    >>> bool((a[1] == b[0]).all())
    True
    """

    key: bytes

    @classmethod
    def of(cls, seed: int) -> Stream:
        """The root stream of a seed."""
        return cls(hashlib.sha256(b"robusteval-1:%d" % seed).digest())

    def at(self, *purpose: str | int) -> Stream:
        """The sub-stream for a purpose, an epoch, a step, ... (order matters)."""
        state = hashlib.sha256(self.key)
        for part in purpose:
            text = f"{type(part).__name__}:{part}".encode()
            state.update(b"%d:" % len(text) + text)
        return Stream(state.digest())

    @property
    def seed(self) -> int:
        """A 63-bit integer for libraries that want a seed of their own."""
        return int.from_bytes(self.key[:8], "little") >> 1

    def bits(self, index: Tensor, *shape: int) -> Tensor:
        """Random int32 (len(index), *shape), all 32 bits uniform; row i depends on ``index[i]`` only."""
        words = [_signed(int.from_bytes(self.key[i : i + 4], "little")) for i in range(0, 16, 4)]
        low = (index & _MASK32).to(torch.int64)
        low = torch.where(low >= 1 << 31, low - (1 << 32), low).to(torch.int32)
        high = (index >> 32).to(torch.int32)
        # Two independent 32-bit hashes of the row, so that rows do not collide at a few thousand samples.
        first = _mix(_mix(low ^ words[0]) + (high ^ words[1]))
        second = _mix(_mix(low + words[2]) ^ (high + words[3]))
        position = torch.arange(math.prod(shape), dtype=torch.int32, device=index.device)
        mixed = _mix(position.unsqueeze(0) ^ first.unsqueeze(1)) + second.unsqueeze(1)
        return _mix(mixed).reshape(len(index), *shape)

    def uniform(self, index: Tensor, *shape: int) -> Tensor:
        """Float32 (len(index), *shape) in [0, 1), multiples of 2**-24."""
        return _shift(self.bits(index, *shape), 8).to(torch.float32) * 2.0**-24

    def integers(self, index: Tensor, high: int, *shape: int) -> Tensor:
        """Int64 (len(index), *shape) in [0, high), ``high`` up to 2**20 (bias below 2**-12)."""
        assert 0 < high <= 1 << 20
        wide = _shift(self.bits(index, *shape), 1).to(torch.int64)
        return (wide * high) >> 31

    def normal(self, index: Tensor, *shape: int) -> Tensor:
        """Standard normal float32 (len(index), *shape), by Box and Muller's transform."""
        first = self.at("radius").uniform(index, *shape)
        angle = self.at("angle").uniform(index, *shape) * (2 * math.pi)
        return torch.sqrt(-2 * torch.log1p(-first)) * torch.cos(angle)

    def permutation(self, n: int) -> Tensor:
        """A random order of range(n), int64 on the CPU."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(n, generator=generator)

    def beta(self, alpha: float) -> float:
        """One draw of Beta(alpha, alpha), the mixing coefficient of MixUp and CutMix."""
        import numpy as np

        return float(np.random.default_rng(self.seed).beta(alpha, alpha))
