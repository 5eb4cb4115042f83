"""The guide of the fast path's second pass: it leads towards the reference, and what it adds stays where it belongs."""

import numpy as np
import pytest
import torch

from CTSynthesisLib.synthesis.style_features import load_encoder
from CTSynthesisLib.synthesis.style_guide import LAYERS, Shown, grams_of, guide_of, guides_of, step_of
from CTSynthesisLib.synthesis.style_refine import gram_distance, grams
from CTSynthesisLib.synthesis.texture_transfer import faded

LUNG, MUSCLE = (1,), (2,)
GROUPS = {LUNG: LUNG, MUSCLE: MUSCLE}
SPREADS = {LUNG: 25.0, MUSCLE: 25.0}


def _slices(spread, seed, slices=4, side=64):
    """Two tissues side by side with grain, in HU, and their labels; beyond them lies air."""
    labels = np.zeros((slices, side, side), np.uint8)
    labels[:, 8:-8, 8 : side // 2], labels[:, 8:-8, side // 2 : -8] = 1, 2
    grain = np.random.default_rng(seed).normal(0, spread, labels.shape)
    return np.choose(labels, (-1000, -800, 40)) + np.where(labels > 0, grain, 0), labels


@pytest.fixture(scope="module")
def reference():
    return Shown.of(*_slices(25, 1), GROUPS)


@pytest.fixture(scope="module")
def guides(reference):
    return guides_of(load_encoder(), reference, Shown.of(*_slices(18, 2), GROUPS), SPREADS)


def _stepped(guides, hu, labels, strength=1.0, keys=(LUNG, MUSCLE), origin=(0, 0, 0)):
    return step_of(hu, labels, [(key, strength, guides[key]) for key in keys], origin)


def _distances(hu, labels, reference):
    wanted, found = (grams_of(load_encoder(), shown.hu, shown.masks) for shown in (reference, Shown.of(hu, labels, GROUPS)))
    return {key: gram_distance(found[key], wanted[key]) for key in GROUPS}


def test_gram_matrices_are_those_of_the_slow_path(monkeypatch):
    monkeypatch.setenv("CTSYNTHESIS_PRECISION", "float32")
    shown = Shown.of(*_slices(20, 3), {MUSCLE: MUSCLE})
    found, wanted = grams_of(load_encoder(), shown.hu, shown.masks)[MUSCLE], grams(load_encoder(), shown.hu, shown.masks[MUSCLE])
    for layer, gram in found.items():
        assert torch.allclose(gram, wanted[layer], rtol=1e-3, atol=1e-4)


def test_a_step_leads_towards_the_reference_on_slices_that_were_never_measured(guides, reference):
    hu, labels = _slices(18, 5)
    before, after = (_distances(x, labels, reference) for x in (hu, hu + _stepped(guides, hu, labels)))
    for key in GROUPS:
        assert after[key] < 0.8 * before[key]


def test_slices_that_are_as_the_reference_are_left_nearly_alone(reference):
    near = guides_of(load_encoder(), reference, Shown.of(*_slices(25, 7), GROUPS), SPREADS)
    hu, labels = _slices(25, 8)
    assert np.abs(_stepped(near, hu, labels)).max() < 25 / 3 and all(guide.step < 3 for guide in near.values())


def test_what_is_added_stays_within_a_pixel_of_the_structures_and_goes_with_strength(guides):
    hu, labels = _slices(18, 6)
    whole = _stepped(guides, hu, labels, keys=(MUSCLE,))
    near = np.logical_or.reduce([np.roll(labels == 2, (dj, di), (1, 2)) for dj in (-1, 0, 1) for di in (-1, 0, 1)])
    assert (whole[~near] == 0).all() and np.abs(whole[labels == 2]).mean() > 0.1
    assert np.allclose(_stepped(guides, hu, labels, 0.5, (MUSCLE,)), whole / 2, atol=1e-5)


def test_slices_and_crops_on_the_world_s_lattice_are_styled_alike(guides):
    hu, labels = _slices(18, 6, slices=6)
    whole = _stepped(guides, hu, labels)
    assert (_stepped(guides, hu[2:4], labels[2:4]) == whole[2:4]).all()
    part = (slice(None), slice(3, None), slice(5, None))  # what is cut away is air
    assert np.abs(_stepped(guides, hu[part], labels[part], origin=(0, 3, 5)) - whole[part]).max() < 0.02 * np.abs(whole).max()


def test_the_guide_is_the_derivative_of_the_distance_blurred(monkeypatch):
    monkeypatch.setenv("CTSYNTHESIS_PRECISION", "float32")
    features, (hu, labels) = load_encoder(), _slices(20, 9, slices=1)
    x, mask = torch.from_numpy(hu).float(), torch.from_numpy(labels == 2)
    target = {layer: gram * 0.7 for layer, gram in grams(features, x, mask).items() if layer in LAYERS}
    y = x.clone().requires_grad_()
    found = features(y[:, None], tuple(target))
    distance = 0
    for layer, b in target.items():
        share = torch.nn.functional.avg_pool2d(mask[:, None].float(), mask.shape[-1] // found[layer].shape[-1])
        f = (found[layer] * share.sqrt())[0].flatten(1)
        distance = distance + share.sum() * (f @ f.T / share.sum() - b).square().sum() / (4 * len(b) ** 2)
    (wanted,) = torch.autograd.grad(distance, y)
    with torch.no_grad():
        shares = {layer: torch.nn.functional.avg_pool2d(mask[:, None].float(), mask.shape[-1] // f.shape[-1]) for layer, f in found.items()}
        a = {n: (f * shares[n].sqrt())[0].flatten(1) @ (f * shares[n].sqrt())[0].flatten(1).T / shares[n].sum() for n, f in found.items()}
    # each layer's term is weighed by its own area, which is what the guide, a sum over positions, leaves out
    matrices = {layer: (a[layer] - b) / len(b) ** 2 for layer, b in target.items()}
    guide = guide_of(features, x, torch.where(mask, 0, -1), [matrices])
    assert torch.allclose(guide, faded(wanted), rtol=1e-3, atol=1e-5)
