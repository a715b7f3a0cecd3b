"""Many lines of one colour as a single path, which is drawn many times as fast as each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.path import Path


class Strokes(LineCollection):
    """Lines of one colour and width; where two of them cross, a transparent colour is no darker."""

    def set_segments(self, segments: Sequence[Any] | None) -> None:
        """Takes the lines.

        Args:
            segments: of each line its points, (n, 2).
        """
        self._lines = [np.asarray(line, dtype=np.float64) for line in segments or ()]
        points = np.concatenate([np.empty((0, 2)), *self._lines])
        codes = np.full(len(points), Path.LINETO, dtype=np.uint8)
        codes[np.cumsum([0, *map(len, self._lines[:-1])])[: len(self._lines)]] = Path.MOVETO
        self._joined = Path(points, codes)
        self._joined.should_simplify = False  # which is meant for one long line
        self.stale = True

    def get_segments(self) -> list[Any]:
        """The points of each line."""
        return self._lines

    def get_paths(self) -> list[Path]:
        """What is drawn."""
        return [self._joined]
