"""Trains and judges disentangled-BatchNorm methods for robust image classification."""

__version__ = "0.1.0"
