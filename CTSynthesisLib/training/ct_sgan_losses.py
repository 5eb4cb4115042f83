"""Losses of CT-SGAN (Pesaranghader et al. 2021): equation 2 with the vanilla Jensen-Shannon divergence, Wasserstein's in its place, and
the gradient penalty on real data (R1, Mescheder et al. 2018, its reference 15).

Decisions are logits. Equation 2 sums over the N slices of a region and adds the slab's terms; the expectations are means over the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

KINDS = ("wasserstein", "jensen-shannon")


def critic_loss(kind: str, real: list[torch.Tensor], fake: list[torch.Tensor]) -> torch.Tensor:
    """F_volume of equation 2, which D_slice and D_slab minimise.

    Parameters
    ----------
    kind : str
        One of KINDS.
    real, fake : lists of logits
        D_slice's (B, N) and D_slab's (B, 1) for real and for generated volumes: summed over the second axis, averaged over the first.

    Notes
    -----
    -log D = softplus(-logit) and -log(1 - D) = softplus(logit). Wasserstein's critic has no logarithm: -E D(v) + E D(v').
    """
    if kind == "wasserstein":
        return sum((f - r).sum(1).mean() for r, f in zip(real, fake, strict=True))
    return sum((F.softplus(-r) + F.softplus(f)).sum(1).mean() for r, f in zip(real, fake, strict=True))


def generator_loss(kind: str, fake: list[torch.Tensor]) -> torch.Tensor:
    """What G_slice and R_v minimise to maximise equation 2.

    Under Jensen-Shannon that is -log D(v') (Goodfellow et al. 2014, section 3): the same fixed point as log(1 - D(v')), whose gradient
    vanishes as soon as the critics are sure.
    """
    if kind == "wasserstein":
        return sum(-f.sum(1).mean() for f in fake)
    return sum(F.softplus(-f).sum(1).mean() for f in fake)


def gradient_penalty(decisions: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """R1: E[‖∇D(x)‖²] / 2 over real samples ``real`` (B, …), of which ``decisions`` were made with a gradient."""
    (gradient,) = torch.autograd.grad(decisions.sum(), real, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean() / 2
