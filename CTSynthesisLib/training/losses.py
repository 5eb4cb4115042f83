"""Losses of Habijan & Galić (2022): least-squares adversarial loss (equation 2) and mean absolute error, weighed by λ (equation 3).

Equation 3 writes ``min_G max_D`` over the squared errors of equation 2. Taken literally, D would maximise its own error; as in least
squares GANs (and the paper's text: D is "forced to give specific values for the real and fake samples"), each network
minimises its own squares here: D draws real pairs to 1 and generated pairs to 0, G draws generated pairs to 1.
"""

from __future__ import annotations

import torch


def critic_loss(on_real: torch.Tensor, on_fake: torch.Tensor) -> torch.Tensor:
    """Equation 2, the discriminator's side: E[(1 - D(y, x))²] + E[D(y, G(y))²], the mean over all decisions of the batch."""
    return (1 - on_real).square().mean() + on_fake.square().mean()


def adversarial_loss(on_fake: torch.Tensor) -> torch.Tensor:
    """Equation 2, the generator's side: E[(1 - D(y, G(y)))²]."""
    return (1 - on_fake).square().mean()


def mean_absolute_error(generated: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The reconstruction term of equation 3, pixel by pixel: E[|x - G(y)|], in units of the network's [0, 1]."""
    return (generated - target).abs().mean()


def generator_loss(on_fake: torch.Tensor, generated: torch.Tensor, target: torch.Tensor, adversarial_weight: float) -> torch.Tensor:
    """Equation 3: λ · adversarial loss + mean absolute error. λ weighs the *adversarial* term."""
    return adversarial_weight * adversarial_loss(on_fake) + mean_absolute_error(generated, target)


def accuracy(decisions: torch.Tensor, real: bool) -> torch.Tensor:
    """Share of decisions on the right side of 1/2 (figure 3): above it for ``real`` pairs, at or below for generated ones."""
    return ((decisions > 0.5) == real).float().mean()
