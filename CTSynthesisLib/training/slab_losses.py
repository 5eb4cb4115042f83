"""Losses of the default model beside the adversarial one; all on network units (…, H, W)."""

from __future__ import annotations

import torch.nn.functional as F

from .slab_data import blur

FLOOR = 2e-5  # square of about 2 HU of soft tissue in network units: finer grain than that does not count


KNEE = 0.5  # network units, about 270 HU of soft tissue: below it errors count by their square


def blurred_error(fake, real, weight=None, sigma: float = 1.0):
    """Smooth L1 error of the blurred images: right Hounsfield values and borders, without punishing grain that cannot match.

    By their squares, grain and what no condition tells pull little, borders and bone much. With plain L1 every unpredictable voxel pulls
    as hard as a wrong border, and for hundreds of iterations the network learned nothing but each structure's median.
    ``weight`` says how much each voxel counts.
    """
    error = F.smooth_l1_loss(blur(fake, sigma), blur(real, sigma), beta=KNEE, reduction="none")
    return error.mean() if weight is None else (weight * error).mean()


def spread_error(fake, real, window: int = 9):
    """Mean absolute log ratio of local spreads: grain of the right strength everywhere, whatever its realisation."""

    def energy(x):
        grain = (x - blur(x)).square().reshape(-1, 1, *x.shape[-2:])
        return F.avg_pool2d(grain, window, stride=4)

    return 0.5 * ((energy(fake) + FLOOR).log() - (energy(real) + FLOOR).log()).abs().mean()


def feature_error(fake, real):
    """Mean absolute difference of the critic's features over their mean size, mean over layers (Wang et al. 2018, pix2pixHD, eq. 4).

    The division gives each layer the same say.
    """
    errors = []
    for f, r in zip(fake, real, strict=True):
        r = r.detach().float()
        errors.append((f.float() - r).abs().mean() / r.abs().mean().clamp(min=1e-6))
    return sum(errors) / len(errors)
