"""Data sets as checked uint8 tensors with a content digest, their batches, and batched augmentation."""

from robusteval.data.export import export
from robusteval.data.registry import DATASETS, DatasetInfo, Split
from robusteval.data.sets import ImageSet, Verification, load, verify

__all__ = ["DATASETS", "DatasetInfo", "ImageSet", "Split", "Verification", "export", "load", "verify"]
