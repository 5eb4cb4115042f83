"""Losses of Krishna & Mueller (2019), equations 2 to 9, on features (B, N_l, H_l, W_l) of style layers (SL) and content layers (CL).

M_l is the number of positions H_l·W_l of a layer, N_l its number of feature maps. Masks are (B, 1, H, W), one a segment; they are brought
to each layer's size. Equations 6 and 7 divide by M_l whatever a segment's area, as published: a segment weighs by the square of its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..synthesis.style_features import gram, mask_at, masked_gram

Features = dict[int, torch.Tensor]


def content_loss_of_layer(result: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Equation 2: 1 / (2 N_l M_l) · Σ |R_ij - O_ij|²."""
    return (result - original).square().sum() / (2 * _maps(result) * _positions(result))


def style_loss_of_layer(result: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Equation 4: 1 / (4 N_l² M_l²) · ‖G(R) - G(S)‖²_F, the Gram matrices by equation 3."""
    return _gram_distance(gram(result), gram(style), result)


def total_variation(x: torch.Tensor) -> torch.Tensor:
    """Equation 5: squared differences of neighbouring pixels, summed, of images (B, 1, H, W).

    The paper prints the same difference, of x_{w,h+1}, twice; what is meant is one along each of the two directions of the image.
    """
    return (x[..., 1:, :] - x[..., :-1, :]).square().sum() + (x[..., :, 1:] - x[..., :, :-1]).square().sum()


def style_loss(result: Features, style: Features, masks: Sequence[torch.Tensor], style_masks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Equation 6: Σ over segments and style layers of 1 / (4 N_l² M_l²) · ‖RR_sg - SS_sg‖²_F.

    ``masks`` and ``style_masks`` are those of the same segments in the generated and in the style image.
    """
    total = torch.zeros((), device=next(iter(result.values())).device)
    for mask, style_mask in zip(masks, style_masks, strict=True):
        for layer, features in result.items():
            total = total + _gram_distance(masked_gram(features, mask), masked_gram(style[layer], style_mask), features)
    return total


def content_loss(result: Features, original: Features, masks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Equation 7: Σ over segments and content layers of 1 / (2 N_l M_l) · ‖R_sg - O_sg‖²."""
    total = torch.zeros((), device=next(iter(result.values())).device)
    for mask in masks:
        for layer, features in result.items():
            share = mask_at(mask, features)
            total = total + content_loss_of_layer(features * share, original[layer] * share)
    return total


def generator_loss(on_fake: torch.Tensor, style: torch.Tensor, content: torch.Tensor, variation: torch.Tensor, weights) -> torch.Tensor:
    """Equation 8: -Σ log D(G(y, z), y) + w_s L_s + w_c L_c + w_tv L_tv.

    ``on_fake`` holds D's logits, ``weights`` the three numbers (w_s, w_c, w_tv).
    """
    w_s, w_c, w_tv = weights
    return -F.logsigmoid(on_fake).sum() + w_s * style + w_c * content + w_tv * variation


def critic_loss(on_real: torch.Tensor, on_fake: torch.Tensor) -> torch.Tensor:
    """Equation 9: -Σ [log D(x, y) + log(1 - D(G(y, z), y))], from D's logits.

    The paper prints the minus before the first logarithm only; D minimises both, as in every GAN of this form.
    """
    return -(F.logsigmoid(on_real) + F.logsigmoid(-on_fake)).sum()


def _gram_distance(one: torch.Tensor, other: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return (one - other).square().sum() / (4 * _maps(features) ** 2 * _positions(features) ** 2)


def _maps(features: torch.Tensor) -> int:
    return features.shape[1]


def _positions(features: torch.Tensor) -> int:
    return features.shape[-2] * features.shape[-1]
