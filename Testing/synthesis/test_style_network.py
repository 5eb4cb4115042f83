"""The style network in use: its guide leads towards the reference, what it adds stays where it belongs, and a missing file is said."""

import numpy as np
import pytest
import torch

from CTSynthesisLib.anatomy import Tissue
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.modelstore import save_model
from CTSynthesisLib.networks.style_unet import StyleUNet, StyleUNetConfig
from CTSynthesisLib.synthesis import organ_style, style_network
from CTSynthesisLib.synthesis.condition import LUNG, SOFT
from CTSynthesisLib.synthesis.organ_style import style_ct
from CTSynthesisLib.synthesis.style_features import load_features
from CTSynthesisLib.synthesis.style_network import Shown, bounded, changed, guide_on, moments_each, painted, told_of
from CTSynthesisLib.synthesis.style_reference import Style, reference_of
from CTSynthesisLib.synthesis.style_refine import gram_distance, grams
from CTSynthesisLib.synthesis.texture_transfer import measure
from CTSynthesisLib.volume import Volume
from Testing.phantom import hounsfield, thorax

ONE, TWO = (1,), (2,)
GROUPS = {ONE: ONE, TWO: TWO}


def _slices(spread, seed, slices=4, side=64):
    """Two tissues side by side with grain: HU and labels; beyond them lies air."""
    labels = np.zeros((slices, side, side), np.uint8)
    labels[:, 8:-8, 8 : side // 2], labels[:, 8:-8, side // 2 : -8] = 1, 2
    grain = np.random.default_rng(seed).normal(0, spread, labels.shape)
    return np.choose(labels, (-1000, -800, 40)) + np.where(labels > 0, grain, 0), labels


@pytest.fixture(scope="module")
def told():
    (theirs, labels), (ours, _) = _slices(25, 1), _slices(18, 2)
    mask = {key: torch.from_numpy(labels == key[0]) for key in GROUPS}
    groups = {key: (measure(torch.from_numpy(theirs).float(), mask[key]), t) for key, t in ((ONE, Tissue.LUNG), (TWO, Tissue.MUSCLE))}
    return told_of(load_features(), Shown.of(theirs, labels, GROUPS), Shown.of(ours, labels, GROUPS), groups)


@pytest.fixture
def network(tmp_path):
    """An untrained network, which takes the step that it is told, as a model file."""
    torch.manual_seed(0)
    config = StyleUNetConfig(width=(8, 8, 8, 8), code=8)
    card = save_model(tmp_path, StyleUNet(config).state_dict(), name="style_network", title="", kind="style_network", version="",
                      description="", network={"unet": config.__dict__}, hu_map={})  # fmt: skip
    return card.path


def test_moments_are_those_of_the_slow_paths_gram_matrices(monkeypatch):
    monkeypatch.setenv("CTSYNTHESIS_PRECISION", "float32")
    hu, labels = _slices(20, 3)
    mask = torch.from_numpy(labels == 2)
    hu = torch.from_numpy(hu).float()
    found, wanted = moments_each(load_features(), hu, {"": mask})[""].grams, grams(load_features(), hu, mask)
    for layer, gram in wanted.items():
        assert float((found[layer] - gram).norm() / gram.norm()) < 1e-3


def test_a_step_against_the_guide_leads_towards_the_reference_in_slices_that_were_never_measured(told):
    content, labels = _slices(18, 5)
    target = moments_each(load_features(), *_of(_slices(25, 1)))
    masks = torch.stack([torch.from_numpy(labels == v) for v in (1, 2)], 1)
    guide = bounded(guide_on(load_features(), torch.from_numpy(content).float(), masks.float(), [told[ONE], told[TWO]]))
    step = painted(torch.tensor([told[v].step * told[v].spread for v in (ONE, TWO)]), masks)
    stepped = torch.from_numpy(content).float() - step * guide
    before, after = (moments_each(load_features(), *_of((hu, labels))) for hu in (content, stepped.numpy()))
    for key in GROUPS:
        assert gram_distance(after[key].grams, target[key].grams) < 0.9 * gram_distance(before[key].grams, target[key].grams)


def _of(slices):
    shown = Shown.of(*slices, GROUPS)
    return shown.hu, shown.masks


def test_what_is_added_is_local_seeded_and_stays_within_a_pixel_of_the_structures(told, network):
    hu, labels = _slices(18, 6, slices=6)
    kinds = np.array([0, LUNG, SOFT])

    def run(hu=hu, strength=1.0, of=(TWO,), seed=1, part=slice(None)):
        styles = [(v, strength, told[v]) for v in of]
        return changed(hu[part], labels[part], kinds, styles, (part.start or 0, 0, 0), seed=seed, name=network)

    whole = run()
    near = np.logical_or.reduce([np.roll(labels == 2, (dj, di), (1, 2)) for dj in (-1, 0, 1) for di in (-1, 0, 1)])
    assert (whole[~near] == 0).all() and np.abs(whole[labels == 2]).mean() > 0.1
    assert np.allclose(run(strength=0.5), whole / 2, atol=1e-5) and not run(strength=0.0).any()
    assert (run() == whole).all()
    assert np.abs(run(part=slice(1, 5))[1:-1] - whole[2:4]).max() < 0.05 * np.abs(whole).max()  # slices see one neighbour to either side


def test_without_its_file_the_fast_path_goes_on_and_says_so(monkeypatch):
    labelmap = thorax((6, 60, 70), (4.0, 4.0, 6.0))
    scan = Volume(hounsfield(labelmap, None, 20), labelmap.geometry)
    monkeypatch.setattr(organ_style, "is_there", lambda: False)
    _, sentences = style_ct(scan, reference_of(scan, "the reference", labelmap), Style(structures=("aorta",)), labelmap=labelmap)
    assert any("style network is not installed" in sentence for sentence in sentences)


def test_a_network_of_another_shape_is_refused(tmp_path):
    small, large = StyleUNetConfig(width=(8, 8, 8, 8), code=8), StyleUNetConfig()
    card = save_model(tmp_path, StyleUNet(small).state_dict(), name="style_network", title="", kind="style_network", version="",
                      description="", network={"unet": large.__dict__}, hu_map={})  # fmt: skip
    with pytest.raises(UnusableInput, match="do not fit"):
        style_network.load(card.path)
