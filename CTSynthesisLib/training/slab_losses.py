"""Losses of the default model beside the adversarial one; all on network units (…, H, W)."""

from __future__ import annotations

import torch.nn.functional as F

from ..synthesis.scan_quality import blur

KNEE = 0.5  # network units, about 270 HU of soft tissue: below it errors count by their square
FLOOR = 4e-6  # square of about 1 HU of soft tissue, 4 of lung: finer grain than that does not count


def blurred_error(fake, real, weight=None, sigma: float = 1.0):
    """Smooth L1 error of the blurred images: right Hounsfield values and borders, without punishing grain that cannot match.

    By their squares, grain and what no condition tells pull little, borders and bone much. With plain L1 every unpredictable voxel pulls
    as hard as a wrong border, and for hundreds of iterations the network learned nothing but each structure's median.
    ``weight`` says how much each voxel counts.
    """
    error = F.smooth_l1_loss(blur(fake, sigma), blur(real, sigma), beta=KNEE, reduction="none")
    return error.mean() if weight is None else (weight * error).mean()


def spread_error(fake, real):
    """Mean absolute log ratio of local spreads in each band and between neighbouring slices (B, D, H, W): grain of the right strength,
    spectrum and continuity everywhere, whatever its realisation.

    The critics see this last; without it grain had half its strength for thousands of iterations.
    """
    errors = [(f - r).abs().mean() for f, r in zip(_log_spreads(fake), _log_spreads(real), strict=True)]
    return sum(errors) / len(errors)


def _log_spreads(x):
    """Half the logarithm of the energy near each pixel: of three bands, and of two bands' change from slice to slice."""
    narrow, medium, wide = blur(x, 0.8), blur(x, 1.6), blur(x, 3.2)
    fine, middle, coarse = x - narrow, narrow - medium, medium - wide
    for band, window in ((fine, 9), (middle, 13), (coarse, 25), (fine.diff(dim=1), 9), (middle.diff(dim=1), 13)):
        energy = F.avg_pool2d(band.square().flatten(0, 1)[:, None], window, stride=4)
        yield 0.5 * (energy + FLOOR).log()


def feature_error(fake, real):
    """Mean absolute difference of the critic's features over their mean size, mean over layers (Wang et al. 2018, pix2pixHD, eq. 4).

    The division gives each layer the same say.
    """
    errors = []
    for f, r in zip(fake, real, strict=True):
        r = r.detach().float()
        errors.append((f.float() - r).abs().mean() / r.abs().mean().clamp(min=1e-6))
    return sum(errors) / len(errors)
