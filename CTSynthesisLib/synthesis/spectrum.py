"""The radial noise power spectrum of axial slices."""

from __future__ import annotations

import numpy as np

PATCH = 18.0  # mm; longer waves are anatomy
AT_LEAST = 8  # patches
AT_MOST = 4000  # patches; more do not change the mean


def noise_spectrum(hu, mask, spacing) -> tuple[np.ndarray, np.ndarray]:
    """Radial noise power spectrum of square patches of 18 mm, in the slice, that lie inside ``mask`` (even tissue).

    A plane is taken out of each patch and its corners are tapered (Hann), without which slow waves would leak into the fine ones.
    The lowest frequency is left out, because the plane took it.

    Returns
    -------
    frequency, power : (n,) arrays
        1/mm, and HU^2 mm^2 (white noise of spread s has s^2 times the area of a pixel at all of them); NaN with fewer than 8 patches.
    """
    frequency, power = cross_spectra([hu], mask, spacing)
    return frequency, power[0, 0]


def cross_spectra(parts, mask, spacing, corners: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """:func:`noise_spectrum` of several images ``parts`` on one grid, and the real parts of the spectra that each two have in common.

    With ``corners`` it goes on beyond Nyquist's frequency to that of the diagonal, where rings are no longer whole.

    Returns
    -------
    frequency : (n,) array
        1/mm.
    power : (parts, parts, n) array
        HU^2 mm^2; that of a sum of the parts is the sum over all entries.
    """
    size = [max(8, round(PATCH / s)) for s in (spacing[1], spacing[0])]
    frequency = [np.fft.fftfreq(n, d) for n, d in zip(size, (spacing[1], spacing[0]), strict=True)]
    radius = np.hypot(*np.meshgrid(*frequency, indexing="ij"))
    step = max(1 / (n * d) for n, d in zip(size, (spacing[1], spacing[0]), strict=True))
    ring = np.rint(radius / step).astype(int).ravel()
    highest = 0.5 / max(spacing[:2]) * (1.3 if corners else 1.0)
    rings = np.arange(2, int(highest / step) + 1)
    places = _patches(mask, size)
    if len(places) < AT_LEAST:
        return rings * step, np.full((len(parts), len(parts), len(rings)), np.nan)
    taper = np.outer(np.hanning(size[0] + 2)[1:-1], np.hanning(size[1] + 2)[1:-1]).astype(np.float32)
    plane = np.stack([np.ones(size), *np.indices(size)], -1).reshape(-1, 3)
    weighted = plane * taper.reshape(-1, 1)  # fitted where the taper lets the patch through
    fit = np.linalg.solve(plane.T @ weighted, weighted.T)
    power = np.zeros((len(parts), len(parts), ring.size))
    for start in range(0, len(places), 256):
        waves = []
        for hu in parts:
            patches = np.stack([hu[k, j : j + size[0], i : i + size[1]] for k, j, i in places[start : start + 256]]).astype(np.float64)
            flat = patches.reshape(len(patches), -1)
            flat = flat - flat @ fit.T @ plane.T
            waves.append(np.fft.fft2(flat.reshape(patches.shape) * taper).reshape(len(patches), -1))
        for a, one in enumerate(waves):
            for b, other in enumerate(waves[: a + 1]):
                power[a, b] += (one.real * other.real + one.imag * other.imag).sum(0)
    power *= spacing[0] * spacing[1] / (taper.astype(np.float64) ** 2).sum() / len(places)
    radial = np.zeros((len(parts), len(parts), ring.max() + 1))
    for a, b in np.ndindex(len(parts), len(parts)):
        radial[a, b] = np.bincount(ring, power[max(a, b), min(a, b)]) / np.maximum(np.bincount(ring), 1)
    return rings * step, radial[:, :, rings]


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
