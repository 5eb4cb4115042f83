"""Losses of paper 001 against values computed by hand and a slow reference, position by position."""

import math

import pytest
import torch

from CTSynthesisLib.synthesis.style_features import gram, mask_at, normalised_gram
from CTSynthesisLib.training import style_losses


@pytest.fixture
def features():
    """Two layers' features of a generated, an original and a style image; masks of two segments on 8 × 8 pixels."""
    g = torch.Generator().manual_seed(3)
    layers = {1: (3, 8, 8), 3: (4, 4, 4)}
    images = [{layer: torch.rand(1, *shape, generator=g) for layer, shape in layers.items()} for _ in range(3)]
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    odd = (torch.rand(1, 1, 8, 8, generator=g) > 0.5).float()
    return *images, [left, 1 - left], [odd, 1 - odd]


def test_equation_2_by_hand():
    result, original = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]]), torch.tensor([[[[0.0, 2.0]], [[3.0, 2.0]]]])  # N = 2, M = 2
    assert style_losses.content_loss_of_layer(result, original).item() == pytest.approx((1 + 0 + 9 + 4) / (2 * 2 * 2))


def test_equation_3_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]])
    assert gram(features)[0].tolist() == [[5.0, 8.0], [8.0, 16.0]]


def test_equation_4_by_hand():
    result, style = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]]]])
    # G(R) = [[5, 8], [8, 16]], G(S) = [[1, 1], [1, 2]]
    assert style_losses.style_loss_of_layer(result, style).item() == pytest.approx((16 + 49 + 49 + 196) / (4 * 4 * 4))


def test_equation_5_goes_in_both_directions():
    x = torch.tensor([[[[0.0, 1.0], [3.0, 7.0]]]])
    assert style_losses.total_variation(x).item() == (3 - 0) ** 2 + (7 - 1) ** 2 + (1 - 0) ** 2 + (7 - 3) ** 2
    rows = torch.arange(4.0)[:, None].expand(1, 1, 4, 4)
    assert style_losses.total_variation(rows) == style_losses.total_variation(rows.transpose(2, 3)) == 12


def test_equation_6_against_a_slow_reference(features):
    result, _, style, masks, style_masks = features
    expected = 0.0
    for mask, style_mask in zip(masks, style_masks, strict=True):
        for layer, r in result.items():
            _, n, h, w = r.shape
            share, style_share = (_mean_of_squares(m, 8 // h) for m in (mask, style_mask))
            for a in range(n):
                for b in range(n):
                    rr = sum(r[0, a, y, x] * r[0, b, y, x] * share[y][x] ** 2 for y in range(h) for x in range(w))
                    s = style[layer]
                    ss = sum(s[0, a, y, x] * s[0, b, y, x] * style_share[y][x] ** 2 for y in range(h) for x in range(w))
                    expected += float(rr - ss) ** 2 / (4 * n**2 * (h * w) ** 2)  # by the layer's area, not the segment's
    assert style_losses.style_loss(result, style, masks, style_masks).item() == pytest.approx(expected, rel=1e-4)


def test_equation_7_against_a_slow_reference(features):
    result, original, _, masks, _ = features
    expected = 0.0
    for mask in masks:
        for layer, r in result.items():
            _, n, h, w = r.shape
            share = _mean_of_squares(mask, 8 // h)
            o = original[layer]
            total = sum(float((r[0, a, y, x] - o[0, a, y, x]) * share[y][x]) ** 2 for a in range(n) for y in range(h) for x in range(w))
            expected += total / (2 * n * h * w)
    assert style_losses.content_loss(result, original, masks).item() == pytest.approx(expected, rel=1e-4)


def test_equations_8_and_9_from_the_discriminators_beliefs():
    logits = torch.tensor([0.3]), torch.tensor([-1.2])
    on_real, on_fake = (1 / (1 + math.exp(-float(x))) for x in logits)
    loss = style_losses.generator_loss(logits[1], torch.tensor(2.0), torch.tensor(3.0), torch.tensor(5.0), (0.1, 0.01, 0.001))
    assert loss.item() == pytest.approx(-math.log(on_fake) + 0.1 * 2 + 0.01 * 3 + 0.001 * 5)
    assert style_losses.critic_loss(*logits).item() == pytest.approx(-math.log(on_real) - math.log(1 - on_fake))


def test_the_preset_weighs_a_segment_by_its_size_and_the_normalised_gram_does_not(features):
    result, _, _, masks, _ = features
    f = result[1]
    flat = torch.ones_like(f)
    assert mask_at(masks[0], result[3]).shape[-2:] == (4, 4)
    small = torch.zeros(1, 1, 8, 8)
    small[..., :1] = 1
    assert torch.allclose(normalised_gram(flat, masks[0]), normalised_gram(flat, small))  # half the image and an eighth of it
    one, other = (style_losses.style_loss({1: flat}, {1: 0 * flat}, [m], [m]) for m in (masks[0], small))
    assert one / other == pytest.approx(16)


def _mean_of_squares(mask, size):
    """The share of each square of ``size`` pixels that the mask fills."""
    side = mask.shape[-1] // size
    return [[float(mask[0, 0, y * size : (y + 1) * size, x * size : (x + 1) * size].mean()) for x in range(side)] for y in range(side)]
