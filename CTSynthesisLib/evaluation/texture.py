"""The grain of a scan: the radial power spectrum of its noise in even tissue."""

from __future__ import annotations

import numpy as np

PATCH = 18.0  # mm; longer waves are anatomy
SLOPE = 5.0  # HU/mm after smoothing; steeper is an edge or a vessel, and noise of 60 HU stays below
AT_LEAST = 8  # patches
AT_MOST = 4000  # patches; more do not change the mean
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


def noise_spectrum(hu, mask, spacing) -> tuple[np.ndarray, np.ndarray]:
    """Radial noise power spectrum of square patches of 18 mm, in the slice, that lie inside ``mask`` (usually :func:`even_interior`).

    A plane is taken out of each patch and its corners are tapered (Hann), without which slow waves would leak into the fine ones.
    The lowest frequency is left out, because the plane took it.

    Returns
    -------
    frequency, power : (n,) arrays
        1/mm, and HU^2 mm^2 (white noise of spread s has s^2 times the area of a pixel at all of them); NaN with fewer than 8 patches.
    """
    size = [max(8, round(PATCH / s)) for s in (spacing[1], spacing[0])]
    frequency = [np.fft.fftfreq(n, d) for n, d in zip(size, (spacing[1], spacing[0]), strict=True)]
    radius = np.hypot(*np.meshgrid(*frequency, indexing="ij"))
    step = max(1 / (n * d) for n, d in zip(size, (spacing[1], spacing[0]), strict=True))
    ring = np.rint(radius / step).astype(int)
    rings = np.arange(2, int(0.5 / max(spacing[:2]) / step) + 1)  # up to Nyquist, where rings are whole
    corners = _patches(mask, size)
    if len(corners) < AT_LEAST:
        return rings * step, np.full(len(rings), np.nan)
    taper = np.outer(np.hanning(size[0] + 2)[1:-1], np.hanning(size[1] + 2)[1:-1]).astype(np.float32)
    plane = np.stack([np.ones(size), *np.indices(size)], -1).reshape(-1, 3)
    weighted = plane * taper.reshape(-1, 1)  # fitted where the taper lets the patch through
    fit = np.linalg.solve(plane.T @ weighted, weighted.T)
    power = np.zeros(size)
    for start in range(0, len(corners), 256):
        patches = np.stack([hu[k, j : j + size[0], i : i + size[1]] for k, j, i in corners[start : start + 256]]).astype(np.float64)
        flat = patches.reshape(len(patches), -1)
        flat = flat - flat @ fit.T @ plane.T
        power += (np.abs(np.fft.fft2(flat.reshape(patches.shape) * taper)) ** 2).sum(0)
    power *= spacing[0] * spacing[1] / (taper.astype(np.float64) ** 2).sum() / len(corners)
    radial = np.bincount(ring.ravel(), power.ravel()) / np.maximum(np.bincount(ring.ravel()), 1)
    return rings * step, radial[rings]


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


def _patches(mask, size):
    """Corners (k, j, i) of the patches inside the mask, half overlapping, at most 4000 spread evenly."""
    found = []
    for k in np.nonzero(np.count_nonzero(mask, axis=(1, 2)) >= size[0] * size[1])[0]:
        total = np.pad(np.cumsum(np.cumsum(mask[k], 0, dtype=np.int32), 1), ((1, 0), (1, 0)))
        inside = total[size[0] :, size[1] :] - total[: -size[0], size[1] :] - total[size[0] :, : -size[1]] + total[: -size[0], : -size[1]]
        half = max(1, size[0] // 2), max(1, size[1] // 2)
        where = np.argwhere(inside[:: half[0], :: half[1]] == size[0] * size[1]) * half
        found += [(k, j, i) for j, i in where]
    return found[:: -(-len(found) // AT_MOST)] if found else found


def box_around(mask, margin=(0, 0, 0)):
    """The slices that hold a (k, j, i) mask, with a margin in voxels along each axis; None where it is empty."""
    sides = [np.nonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))[0] for axis in range(3)]
    if not len(sides[0]):
        return None
    return tuple(slice(max(0, s[0] - m), s[-1] + 1 + m) for s, m in zip(sides, margin, strict=True))
