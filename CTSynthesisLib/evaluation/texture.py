"""The grain of a scan: the radial power spectrum of its noise in even tissue."""

from __future__ import annotations

import numpy as np

from ..synthesis.spectrum import noise_spectrum

SLOPE = 5.0  # HU/mm after smoothing; steeper is an edge or a vessel, and noise of 60 HU stays below
UNSEEN = 1.0  # HU of white noise that nobody sees: two spectra below it do not differ


def even_interior(hu, mask, spacing) -> np.ndarray:
    """The homogeneous part of ``mask``: 2 mm from its border in the slice, and where the blurred slice is flat.

    Parameters
    ----------
    hu, mask : (k, j, i) arrays
        HU and bool.
    spacing : (i, j, k)
        Millimetres.

    Returns
    -------
    (k, j, i) bool array
    """
    from scipy.ndimage import binary_erosion, gaussian_filter

    even = np.zeros(mask.shape, bool)
    box = box_around(mask, (0, *(int(np.ceil(9 / s)) for s in (spacing[1], spacing[0]))))
    if box is None:
        return even
    inside = mask[box]
    for _ in range(max(1, round(2 / min(spacing[:2])))):
        inside = binary_erosion(inside, np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool))
    pixel = np.array([spacing[1], spacing[0]])
    for k in np.nonzero(inside.any((1, 2)))[0]:
        smooth = gaussian_filter(np.asarray(hu[box][k], np.float32), 3.0 / pixel, truncate=2.5)
        down, across = np.gradient(smooth, *pixel)
        inside[k] &= down**2 + across**2 < SLOPE**2
    even[box] = inside
    return even


def spectrum_distance(synthetic, real, mask, spacing) -> float:
    """Mean absolute log ratio of two scans' spectra inside ``mask``, at the same places: where the real scan is even.

    So detail of the synthetic scan where the real one is even counts as grain.
    """
    even = even_interior(real, mask, spacing)
    pixel = spacing[0] * spacing[1]
    return spectrum_difference(noise_spectrum(synthetic, even, spacing), noise_spectrum(real, even, spacing), floor=UNSEEN**2 * pixel)


def spectrum_difference(one, other, floor: float = 0.5) -> float:
    """Mean absolute log ratio of two spectra, (frequency, power), over the frequencies that both have; NaN if there are none.

    ``floor`` (HU^2 mm^2) is added to both: 0.5 is white noise of 1 HU at a pixel of 0.7 mm.
    """
    (f, a), (g, b) = one, other
    if not (len(f) and len(g)) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    common = f[(f >= g[0] - 1e-9) & (f <= g[-1] + 1e-9)]
    if not len(common):
        return float("nan")
    ratio = (np.interp(common, f, a) + floor) / (np.interp(common, g, b) + floor)
    return float(np.abs(np.log(ratio)).mean())


def box_around(mask, margin=(0, 0, 0)):
    """The slices that hold a (k, j, i) mask, with a margin in voxels along each axis; None where it is empty."""
    sides = [np.nonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))[0] for axis in range(3)]
    if not len(sides[0]):
        return None
    return tuple(slice(max(0, s[0] - m), s[-1] + 1 + m) for s, m in zip(sides, margin, strict=True))
