"""Errors voxel by voxel: they reward blur, so they are never reported without the texture."""

from __future__ import annotations

import numpy as np

from .texture import box_around

WINDOW = (-1000.0, 1000.0)  # HU; outside it air is air and metal is metal
SLICES = 48  # of which SSIM is taken, evenly spread


def mae(synthetic, real, body) -> float:
    """Mean absolute error, HU, inside the body; both scans cut to -1000..1000 HU. NaN without a body."""
    a, b = _inside(synthetic, real, body)
    return float(np.abs(a - b).mean(dtype=np.float64)) if len(a) else float("nan")


def psnr(synthetic, real, body) -> float:
    """Peak signal-to-noise ratio, dB, inside the body, against the 2000 HU of the window. Infinite where the scans are equal."""
    a, b = _inside(synthetic, real, body)
    if not len(a):
        return float("nan")
    error = np.square(a - b).mean(dtype=np.float64)
    return float(10 * np.log10((WINDOW[1] - WINDOW[0]) ** 2 / error)) if error else float("inf")


def ssim(synthetic, real, body) -> float:
    """Structural similarity (Wang 2004: Gaussian window of 1.5 pixels), of axial slices, averaged over the body's voxels.

    At most 48 slices, evenly spread, are taken.
    """
    from skimage.metrics import structural_similarity

    box = box_around(body, (0, 5, 5))
    if box is None:
        return float("nan")
    synthetic, real, body = (np.asarray(x)[box] for x in (synthetic, real, body))
    if min(body.shape[1:]) < 11:
        return float("nan")
    total, count = 0.0, 0
    for k in np.unique(np.linspace(0, len(body) - 1, SLICES).round().astype(int)):
        a, b = (np.clip(np.asarray(hu[k], np.float32), *WINDOW) for hu in (synthetic, real))
        _, similar = structural_similarity(
            a, b, data_range=WINDOW[1] - WINDOW[0], gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )
        total += similar[body[k]].sum(dtype=np.float64)
        count += np.count_nonzero(body[k])
    return float(total / count)


def _inside(synthetic, real, body):
    return (np.clip(np.asarray(hu)[body].astype(np.float32), *WINDOW) for hu in (synthetic, real))
