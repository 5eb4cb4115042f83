"""What the seed adds to the learned anatomy: smooth, without folds, and as large as it says."""

from dataclasses import replace

import pytest
import torch

from CTSynthesisLib.synthesis.anatomy_frame import identity
from CTSynthesisLib.synthesis.anatomy_model import chest_geometry, laid_out
from CTSynthesisLib.synthesis.anatomy_variation import CELLS, HEART, VARIED_CELLS, VARIED_MM, Habitus, _gradient_with_divergence, varied
from CTSynthesisLib.synthesis.ct_sgan import EXTENT_MM
from CTSynthesisLib.synthesis.standard_anatomy import standard_anatomy

NONE = Habitus(volumes=dict.fromkeys(Habitus().volumes, 0.0), breath=0, kyphosis=0, scoliosis=0, heart_axis=0, heart_place=0, chance=0,
               fat=0, fat_parts=(0, 0, 0), breasts=0)  # fmt: skip
NOWHERE = torch.zeros(3, 36, 20, 28)
GRID = chest_geometry((48, 72, 72), EXTENT_MM)
VALUE = {u.segment.name: u.segment.value for u in standard_anatomy().understood}
DRAWN = torch.randn(32, generator=torch.Generator().manual_seed(3 ^ 0x5EED))  # by seed 3


def a_chest(habitus, seed=3):
    return laid_out(varied(NOWHERE, seed, habitus), GRID, VARIED_CELLS)


def size(labels, *names):
    return float(sum((labels == VALUE[name]).sum() for name in names))


def middle(labels, *names):
    """Mean place (k, j, i) in voxels."""
    at = torch.from_numpy(sum(labels == VALUE[name] for name in names)).nonzero().float()
    return at.mean(0)


@pytest.fixture(scope="module")
def the_standard():
    return a_chest(NONE)


def test_without_variation_a_place_stays_where_it_is_and_a_seed_is_a_person():
    assert varied(NOWHERE, 3, NONE).abs().max() < 1e-3
    assert torch.equal(varied(NOWHERE, 3), varied(NOWHERE, 3)) and not torch.equal(varied(NOWHERE, 3), varied(NOWHERE, 4))


@pytest.mark.parametrize("seed", range(4))
def test_nothing_folds(seed):
    wild = replace(Habitus(), breath=30, kyphosis=14, chance=6, breasts=1)
    at = identity(VARIED_MM, VARIED_CELLS) + varied(NOWHERE, seed, wild)
    slopes = [at.diff(dim=axis)[:, :71, :107, :111] / VARIED_MM for axis in (1, 2, 3)]
    assert torch.linalg.det(torch.stack(slopes, -1).permute(1, 2, 3, 0, 4)).min() > 0.02


def test_an_organ_grows_by_what_was_drawn_and_no_other_does(the_standard):
    grown = a_chest(replace(NONE, volumes=NONE.volumes | {HEART: 0.3}))
    heart, liver, spleen = (size(grown, *names) / size(the_standard, *names) for names in (HEART, ("liver",), ("spleen",)))
    assert heart == pytest.approx((0.3 * DRAWN[list(NONE.volumes).index(HEART)]).exp().item(), rel=0.1)
    assert liver == pytest.approx(1, abs=0.05) and spleen == pytest.approx(1, abs=0.05)


def test_breath_moves_the_diaphragm_and_leaves_the_spine(the_standard):
    breathed = a_chest(replace(NONE, breath=20.0))
    dome, spine = (
        (middle(breathed, name) - middle(the_standard, name))[0].item() * 6 for name in ("diaphragm", "vertebrae_T9")  # slices of 6 mm
    )
    lungs = size(breathed, "lung_left", "lung_right") / size(the_standard, "lung_left", "lung_right")
    drawn = 20.0 * DRAWN[len(NONE.volumes)].item()  # mm that the dome moves down; the rest of the diaphragm, less
    assert 0.3 < -dome / drawn < 1 and abs(spine) < 0.15 * abs(drawn)
    assert (lungs > 1.05) == (drawn > 0)


def test_fat_thickens_under_the_skin_and_what_lies_in_it_stays(the_standard):
    fatter = a_chest(replace(NONE, fat=0.5), seed=6)
    inner = (the_standard > 0) & (the_standard != VALUE["subcutaneous_fat"])
    share = (fatter == VALUE["subcutaneous_fat"]).sum() / (the_standard == VALUE["subcutaneous_fat"]).sum()
    assert not 0.87 < share < 1.15
    assert (fatter[inner] == the_standard[inner]).mean() > 0.97
    with_breasts = a_chest(replace(NONE, breasts=1.0), seed=6)
    front = slice(0, 36)
    assert ((with_breasts > 0) & (the_standard == 0))[:, front].sum() > 5 * ((with_breasts > 0) & (the_standard == 0))[:, 36:].sum()


def test_a_gradient_has_the_divergence_that_was_asked_for():
    x = identity(8.0, CELLS)
    wanted = (-x.square().sum(0) / (2 * 50.0**2)).exp()
    field = _gradient_with_divergence(wanted)
    found = sum(field[axis].diff(n=1, dim=axis)[:43, :43, :59] for axis in range(3)) / 8.0
    between = torch.nn.functional.avg_pool3d(wanted[None], 2, stride=1)[0] - wanted.mean()
    assert (found - between).abs().max() < 0.06 and wanted.max() > 0.9
