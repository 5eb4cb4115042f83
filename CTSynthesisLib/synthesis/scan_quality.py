"""What a scan's grain says about how it was made: noise level, sharpness of the kernel, and how much neighbouring slices share.

Training measures every slab with this, and ``--match`` a whole scan, so that the generator is told in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

FEWEST_VOXELS = 500
SOFT_TISSUE_HU = (-50.0, 150.0)


@dataclass(frozen=True)
class ScanQuality:
    """``noise`` is the standard deviation of the grain in HU; ``sharpness`` one minus the correlation of neighbouring pixels' grain (0.2
    for soft to 1.3 for sharp kernels); ``slice_correlation`` the correlation of the grain of neighbouring slices (0 for thin ones, towards
    0.8 for thick ones that overlap), None for a single slice."""

    noise: float
    sharpness: float
    slice_correlation: float | None


def measure(hu: torch.Tensor, soft: torch.Tensor) -> ScanQuality | None:
    """Quality of axial slices ``hu`` (D, H, W), read where ``soft`` (bool, same shape) says there is even soft tissue.

    None where fewer than 500 voxels do.
    """
    if soft.sum() < FEWEST_VOXELS:
        return None
    grain = (hu - blur(hu)).clamp(-200, 200)
    noise = 1.4826 * float(grain[soft].abs().median())
    sharpness = 1 - _correlation(grain[:, :, :-1], grain[:, :, 1:], soft[:, :, :-1] & soft[:, :, 1:])
    pairs = soft[:-1] & soft[1:]
    across = _correlation(grain[:-1], grain[1:], pairs) if pairs.sum() >= FEWEST_VOXELS else None
    return ScanQuality(noise, min(max(sharpness, 0.0), 1.5), across if across is None else min(max(across, 0.0), 1.0))


def _correlation(a, b, where) -> float:
    a, b = a[where], b[where]
    return float((a * b).mean() / (0.5 * (a.square() + b.square())).mean().clamp(min=1e-3))


def blur(x, sigma: float = 1.5):
    """Gaussian blur of each slice, edges replicated; ``x`` is (..., H, W)."""
    radius = int(2.5 * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device) / sigma) ** 2)
    taps = taps / taps.sum()
    flat = F.pad(x.reshape(-1, 1, *x.shape[-2:]).float(), (radius,) * 4, mode="replicate")
    with torch.autocast(x.device.type, enabled=False):  # in bfloat16 the blur would round to 8 HU and drown the grain
        return F.conv2d(F.conv2d(flat, taps[None, None, :, None]), taps[None, None, None, :]).reshape(x.shape)
