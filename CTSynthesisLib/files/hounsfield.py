"""Hounsfield units as every format here holds them: int16."""

from __future__ import annotations

import numpy as np

from ..errors import UnusableInput


def as_hounsfield(array: np.ndarray, what) -> np.ndarray:
    """``array`` as int16, rounded.

    Raises
    ------
    UnusableInput
        If a value is not finite or does not fit; the sentence begins with ``what`` holds them.
    """
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise UnusableInput(f"{what} holds voxels that are not finite numbers; replace them by -1000 (air) first.")
        array = np.rint(array)
    low, high = float(array.min()), float(array.max())
    if low < -32768 or high > 32767:
        raise UnusableInput(f"{what} holds values from {low:g} to {high:g}, which are not Hounsfield units; give a CT in HU.")
    return array.astype(np.int16, copy=False)
