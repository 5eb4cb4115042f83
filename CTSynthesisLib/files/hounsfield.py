"""Hounsfield units as every format here holds them: int16."""

from __future__ import annotations

import numpy as np

from ..errors import UnusableInput
from ..volume import AIR_HU

_LOWEST, _HIGHEST = -32768, 32767
_FEW = 0.01  # share of the voxels that may not fit, whatever their values


def as_hounsfield(array: np.ndarray, what) -> np.ndarray:
    """``array`` as int16, rounded.

    Raises
    ------
    UnusableInput
        If a value is not finite or does not fit; the sentence begins with ``what`` holds them.
    """
    array = _whole(array, what)
    low, high = float(array.min()), float(array.max())
    if low < _LOWEST or high > _HIGHEST:
        raise UnusableInput(f"{what} holds values from {low:g} to {high:g}, which are not Hounsfield units; give a CT in HU.")
    return array.astype(np.int16, copy=False)


def read_as_hounsfield(array: np.ndarray, path) -> tuple[np.ndarray, tuple[str, ...]]:
    """``array`` of a file as int16 HU, and notes on what did not fit.

    What lies below int16 is padding, which fills what the scanner did not see, and becomes air; so does one value above it that fills the
    corners of the image. Other values above it are metal in an extended scale and are cut to the range.

    Raises
    ------
    UnusableInput
        If a value is not finite, or many voxels do not fit that have not all one value.
    """
    array = _whole(array, path)
    low, high = float(array.min()), float(array.max())
    if low >= _LOWEST and high <= _HIGHEST:
        return array.astype(np.int16, copy=False), ()
    hu = np.clip(array, _LOWEST, _HIGHEST).astype(np.int16)
    notes = ()
    corners = array[np.ix_(*((0, n - 1) for n in array.shape))]
    for outside, extreme, sign in ((array < _LOWEST, low, "down"), (array > _HIGHEST, high, "up")):
        count = int(np.count_nonzero(outside))
        few, one_value = count <= _FEW * array.size, bool((array[outside] == extreme).all())
        if count == array.size or not (few or one_value):
            raise UnusableInput(f"{path} holds values from {low:g} to {high:g}, which are not Hounsfield units; give a CT in HU.")
        if count:
            is_metal = sign == "up" and (few or np.mean(corners == extreme) < 0.5)  # saturated within the image, not around it
            hu[outside] = _HIGHEST if is_metal else AIR_HU
            values = f"{extreme:g}" if one_value else f"{sign} to {extreme:g}"
            became = f"metal ({_HIGHEST} HU)" if is_metal else f"air ({AIR_HU} HU)"
            share = f"{count} of {array.size} voxels"
            notes += (f"Values of {values} HU, beyond what a CT file can hold, were read as {became}: {share}.",)
    return hu, notes


def _whole(array, what):
    if array.dtype.kind != "f":
        return array
    if not np.isfinite(array).all():
        raise UnusableInput(f"{what} holds voxels that are not finite numbers; replace them by -1000 (air) first.")
    return np.rint(array)
