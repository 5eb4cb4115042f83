"""Organ-wise style through its doors: what changes, what must not, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from CTSynthesisLib.anatomy import understand
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis import organ_style
from CTSynthesisLib.synthesis.generate import Cancelled, generate
from CTSynthesisLib.synthesis.organ_style import margin_mm, restyle, style_ct, style_segmentation
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.synthesis.style_features import load_features
from CTSynthesisLib.synthesis.style_reference import Chosen, Style, choose, reference_of
from CTSynthesisLib.synthesis.style_refine import grain_energies, gram_distance, grams, refine
from CTSynthesisLib.synthesis.texture_transfer import Noise, Transfer, apply, faded, fit, measure, zones
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume
from Testing.phantom import hounsfield, thorax

OLD = {"body": 20, "lung_left": -850, "lung_right": -850, "heart": 45, "aorta": 40, "vertebrae": 250}
NEW = {"body": 20, "lung_left": -780, "lung_right": -780, "heart": 180, "aorta": 220, "vertebrae": 350}
SHAPE, SPACING = (8, 72, 84), (3.0, 3.0, 4.0)


def phantom(values, noise, shape=SHAPE, spacing=SPACING):
    labelmap = thorax(shape, spacing)
    return Volume(hounsfield(labelmap, values, noise), labelmap.geometry), labelmap


@pytest.fixture(scope="module")
def content():
    return phantom(OLD, 10.0)


@pytest.fixture(scope="module")
def reference():
    return reference_of(*_named(phantom(NEW, 30.0, (10, 80, 90))))


def _named(pair):
    return pair[0], "the reference", pair[1]


def inside(labelmap, *names):
    return np.isin(labelmap.array, [s.value for s in labelmap.segments if s.name in names])


def one_pixel_more(mask):
    """The mask and its in-plane neighbours, diagonals included: the stated margin."""
    return np.logical_or.reduce([np.roll(mask, (dj, di), (1, 2)) for dj in (-1, 0, 1) for di in (-1, 0, 1)])


# -- the texture itself ------------------------------------------------------------------------------------------------------------------


def test_a_texture_becomes_the_references_in_mean_spread_spectrum_and_between_slices():
    g = torch.Generator().manual_seed(2)
    content = torch.randn(8, 96, 96, generator=g) * 10 + 40
    smooth = torch.nn.functional.avg_pool2d(torch.randn(10, 1, 108, 108, generator=g), 5, 1)[:, 0, 4:100, 4:100] * 100
    target = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) / 6**0.5 - 700
    mask = torch.zeros(8, 96, 96, dtype=torch.bool)
    mask[:, 8:90, 10:88] = True
    wanted = measure(target, mask)
    found = measure(apply(content, mask.float(), fit(content, mask, wanted), 1.0, noise=Noise(9, (0, 0, 0), content.shape)), mask)
    assert found.mean == pytest.approx(wanted.mean, abs=3) and found.spread == pytest.approx(wanted.spread, rel=0.1)
    assert found.bands[:3] == pytest.approx(wanted.bands[:3], rel=0.2)
    assert found.slice_correlation[1] == pytest.approx(wanted.slice_correlation[1], abs=0.12)


def _block(level, *, rim=None, seed=0):
    """A square of HU ``level`` with noise, its outermost pixels at ``rim``; and its mask."""
    mask = torch.zeros(4, 72, 72, dtype=torch.bool)
    mask[:, 8:64, 8:64] = True
    x = torch.full(mask.shape, float(level))
    if rim is not None:
        x[zones(mask)[1]] = rim
    return x + 8 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)), mask


def test_the_outermost_pixels_become_the_references_outermost_pixels():
    (content, mask), (cortex, _) = _block(300), _block(150, rim=700, seed=1)
    core, rim = zones(mask)
    result = apply(content, mask.float(), fit(content, mask, measure(cortex, mask)), 1.0, noise=Noise(0, (0, 0, 0), content.shape))
    assert result[core].median() == pytest.approx(150, abs=5) and result[rim].median() == pytest.approx(700, abs=5)


def test_a_steady_transfer_brings_another_level_to_the_references_mean():
    (content, mask), (wanted, _), (darker, _) = _block(40), _block(90, seed=1), _block(10, seed=2)
    loose, steady = (fit(content, mask, measure(wanted, mask), steady=held) for held in (False, True))
    found = [float(apply(darker, mask.float(), t, 1.0, noise=Noise(0, (0, 0, 0), darker.shape))[mask].mean()) for t in (loose, steady)]
    assert found[0] < 72 and found[1] == pytest.approx(90, abs=14)


def test_a_border_is_not_brightened_by_what_the_reference_touches():
    (content, mask), (reference, _) = _block(50, rim=-60), _block(50, rim=-60, seed=1)
    rim = zones(mask)[1]
    content[:, 8], reference[:, 8:64, 8:11] = torch.where(mask[:, 8], 50.0, content[:, 8]), 300.0  # full pixels; contrast medium
    result = apply(content, mask.float(), fit(content, mask, measure(reference, mask)), 1.0, noise=Noise(0, (0, 0, 0), content.shape))
    assert result[:, 8, 20:60].mean() < 90 and result[rim].median() < 0


def test_one_vessel_does_not_fall_apart_into_the_references_several():
    mask = _block(0)[1]
    content, aorta, atrium = (level + (_block(0, seed=n)[0] / 4) for n, level in enumerate((40, 200, 420)))
    content = content + torch.linspace(-5, 5, content.shape[-1])  # a vessel's own unevenness
    several = torch.where(torch.arange(content.shape[-1]) < 0.6 * content.shape[-1], aorta, atrium)
    result = apply(content, mask.float(), fit(content, mask, measure(several, mask)), 1.0, noise=Noise(0, (0, 0, 0), content.shape))
    left, right = (float(part[inside].median()) for part, inside in zip(result.chunk(2, -1), mask.chunk(2, -1), strict=True))
    assert abs(right - left) < 40 and result[mask].mean() == pytest.approx(several[mask].mean(), abs=15)


def test_borders_of_thin_vessels_are_no_grain_for_thick_ones():
    thick, mask = _block(40)
    thin = torch.zeros_like(mask)
    thin[:, 8:64, ::6] = thin[:, 8:64, 1::6] = True
    transfer = fit(thick, mask, measure(torch.where(thin, 40.0, -800.0) + 60 * torch.randn(thin.shape), thin))
    assert not any(transfer.grain) and any(fit(thick, mask, measure(4 * thick, mask)).grain)


def test_thick_vessels_do_not_fade_after_thin_ones():
    masks = torch.zeros(2, 4, 72, 72)
    masks[..., 8:64, 8:64:9] = masks[..., 8:64, 9:64:9] = masks[..., 8:64, 10:64:9] = 1
    masks[0, :, 20:30, 8:22] = masks[1, :, 20:40, 8:64] = 1  # one short thick vessel in the reference, much of the content
    scan, content = (-800 + height * faded(faded(faded(mask))) for mask, height in zip(masks, (960, 860), strict=True))
    transfer = fit(content, masks[1] > 0, measure(scan, masks[0] > 0))
    result = apply(content, masks[1], transfer, 1.0, noise=Noise(0, (0, 0, 0), content.shape))
    assert result[:, 24:36, 12:60].median() > 80


def test_strength_runs_from_the_content_to_the_style():
    x = torch.randn(4, 40, 40, generator=torch.Generator().manual_seed(1)) * 10
    mask = torch.ones(4, 40, 40)
    transfer = Transfer((1.0,) * 5, (0.0,) * 5, (0.0,) * 5, (-20.0, 20.0), (80.0, 120.0))
    none, half, whole = (apply(x, mask, transfer, strength, noise=Noise(0, (0, 0, 0), x.shape)) for strength in (0.0, 0.5, 1.0))
    assert torch.allclose(none, x, atol=1e-3)
    assert (half - x).mean() == pytest.approx(50, abs=0.1) and (whole - x).mean() == pytest.approx(100, abs=0.1)


def test_segments_of_one_style_have_no_rim_where_they_meet():
    understood = understand((Segment(1, "heart_atrium_left"), Segment(2, "heart_ventricle_left")))
    labels = np.zeros((2, 48, 64), np.uint8)
    labels[:, 8:40, 8:32], labels[:, 8:40, 32:56] = 1, 2
    geometry = Geometry.from_spacing(labels.shape, (1, 1, 2), (0, 0, 0))
    volume = Volume(np.choose(labels, (-100, 45, 40)).astype(np.int16), geometry)
    darker = Transfer((1.0,) * 5, (0.0,) * 5, (0.0,) * 5, (0.0, 100.0), (200.0, 300.0), ((0.0, 100.0), (0.0, 100.0)))
    transfers = [(Chosen(one, (7,), 1.0), darker, hu - 45.0) for one, hu in zip(understood, (45, 40), strict=True)]
    styled = restyle(volume, LabelMap(labels, geometry, tuple(u.segment for u in understood)), transfers, seed=0)
    assert (styled[:, 12:36, 12:52] > 200).all() and styled[:, 20, 8].max() < 100


def test_grain_lives_in_the_world_so_a_crop_keeps_it():
    geometry = Geometry.from_spacing((6, 60, 60), (1.0, 1.0, 2.0))
    array = np.ones((6, 60, 60), np.uint16)
    labelmap = LabelMap(array, geometry, (Segment(1, "liver"),))
    volume = Volume(np.full(array.shape, 50, np.int16), geometry)
    ref = reference_of(*_named(phantom(NEW, 30.0)))
    chosen = choose(_understood(replace(labelmap, segments=(Segment(1, "heart"),))), ref, Style())[0][0]
    grainy = Transfer((1.0,) * 5, (10.0, 0, 6.0, 0, 0), (0.0,) * 5, (0.0, 100.0), (0.0, 100.0))
    whole = restyle(volume, labelmap, [(chosen, grainy, 0.0)], seed=3)
    corner = (2, 9, 13)
    part = tuple(slice(c, c + 40 if n else 6) for n, c in enumerate(corner))
    shape = whole[part].shape
    small = geometry.crop(corner, shape)
    cropped = restyle(Volume(volume.array[part], small), LabelMap(array[part], small, labelmap.segments), [(chosen, grainy, 0.0)], seed=3)
    assert whole.std() > 8
    assert np.abs(cropped[:, 1:-1, 1:-1].astype(int) - whole[part][:, 1:-1, 1:-1]).mean() < 1.5  # coarse bands feel the mask's edge


def _understood(labelmap):
    from CTSynthesisLib.anatomy import understand

    return understand(labelmap.segments)


# -- from a CT ---------------------------------------------------------------------------------------------------------------------------


def test_of_a_ct_only_the_chosen_structures_and_one_pixel_change(content, reference):
    scan, labelmap = content
    result, sentences = style_ct(scan, reference, Style(structures=("heart",)), labelmap=labelmap)
    heart = inside(labelmap, "heart")
    near = one_pixel_more(heart)
    assert (result.array[~near] == scan.array[~near]).all() and result.array.dtype == np.int16
    assert margin_mm(labelmap.geometry) == pytest.approx(3 * 2**0.5)
    core = heart & ~inside(labelmap, "aorta")
    assert np.median(result.array[core]) == pytest.approx(180, abs=10)
    assert result.array[core].std() == pytest.approx(30, rel=0.35)
    assert np.abs(result.array.astype(int) - scan.array)[(labelmap.array > 0) & ~heart].mean() < 20
    facts = json.loads(result.metadata["CTSynthesis.Style"])
    assert facts["strength"] == {"heart": 1.0} and facts["reference"] == "the reference" and result.metadata["CTSynthesis.Synthetic"] == "1"


def test_strengths_of_single_structures(content, reference):
    scan, labelmap = content
    result, _ = style_ct(scan, reference, Style(strengths={"heart": 0.5, "vertebrae": 0.0}), labelmap=labelmap)
    assert np.median(result.array[inside(labelmap, "heart")]) == pytest.approx((45 + 180) / 2, abs=10)
    assert (result.array == scan.array)[inside(labelmap, "vertebrae")].mean() > 0.5  # its border takes on the neighbours'
    assert np.median(result.array[inside(labelmap, "lung_left")]) == pytest.approx(-780, abs=10)


def test_seeds_are_variants_of_one_style(content, reference):
    scan, labelmap = content
    one, again, other = (style_ct(scan, reference, Style(), labelmap=labelmap, seed=seed)[0].array for seed in (1, 1, 2))
    heart = inside(labelmap, "heart")
    assert (one == again).all()
    difference = (one.astype(float) - other)[heart].std() / 2**0.5
    assert 0.3 < difference / one[heart].std() < 1.4


def test_a_segmentation_on_another_grid_is_resampled_and_told(content, reference):
    scan, labelmap = content
    coarse = thorax((8, 36, 42), (6.0, 6.0, 4.0), labelmap.geometry.origin + [-1.5, -1.5, 0])
    _, sentences = style_ct(scan, reference, Style(), labelmap=coarse)
    assert any("resampled to the grid of the content" in s for s in sentences)
    elsewhere = replace(labelmap, geometry=Geometry.from_spacing(SHAPE, SPACING, (5000.0, 0, 0)))
    with pytest.raises(UnusableInput, match="does not overlap the content"):
        style_ct(scan, reference, Style(), labelmap=elsewhere)


# -- from a segmentation -----------------------------------------------------------------------------------------------------------------


def test_a_segmentation_is_drawn_in_the_references_style(content, reference):
    labelmap = content[1]
    request = Request(seed=4, device="cpu")
    result, plain = style_segmentation(labelmap, reference, request, Style(structures=("heart", "lung_left")))
    assert (plain.array == generate(labelmap, request).volume.array).all()
    heart, lung = inside(labelmap, "heart"), inside(labelmap, "lung_left")
    assert np.median(result.volume.array[heart]) == pytest.approx(180, abs=25) and np.median(plain.array[heart]) < 90
    assert np.median(result.volume.array[lung]) == pytest.approx(-780, abs=30)
    far = ~one_pixel_more(heart | lung)
    assert (result.volume.array[far] == plain.array[far]).all()
    assert result.volume.metadata["CTSynthesis.Seed"] == "4" and "CTSynthesis.Style" in result.volume.metadata


def test_a_reference_is_measured_once_and_again_when_it_changes(content, reference, monkeypatch):
    drawn = []
    monkeypatch.setattr(organ_style, "generate", lambda part, *more, **named: drawn.append(part) or generate(part, *more, **named))

    def runs(reference, seed):
        drawn.clear()
        style_segmentation(content[1], reference, Request(seed=seed, device="cpu"), Style(structures=("aorta",)))
        return len(drawn)

    first, other_seed = runs(reference, 1), runs(replace(reference, name="again"), 2)
    assert first > 1 and other_seed == 1  # the content alone
    brighter = replace(reference, scan=replace(reference.scan, array=reference.scan.array + 10))
    assert runs(brighter, 1) == first


def test_cancelling_stops_it(content, reference):
    with pytest.raises(Cancelled):
        style_segmentation(content[1], reference, Request(device="cpu"), Style(), cancelled=lambda: True)


# -- the slow path -----------------------------------------------------------------------------------------------------------------------


def test_refining_brings_the_gram_matrices_nearer_and_touches_nothing_else(content, reference):
    scan, labelmap = content
    few = replace(labelmap, array=labelmap.array[2:6].copy(), geometry=labelmap.geometry.crop((2, 0, 0), (4, *SHAPE[1:])))
    heart, theirs = inside(few, "heart"), reference.scan.array[inside(reference.labelmap, "heart")]
    start = scan.array[2:6].copy()
    start[heart] += np.int16(theirs.mean() - start[heart].mean())  # as the fast path leaves it
    chosen, _ = choose(_understood(few), reference, Style(structures=("heart",)))
    ticks = []
    result = refine(start, few, chosen, reference, steps=20, between=ticks.append)
    target = grams(load_features(), *(torch.from_numpy(a) for a in (
        reference.scan.array.astype(np.float32), inside(reference.labelmap, "heart"))))  # fmt: skip
    images = (torch.from_numpy(v.astype(np.float32)) for v in (start, result))
    before, after = (gram_distance(grams(load_features(), v, torch.from_numpy(heart)), target) for v in images)
    assert after < 0.9 * before
    far = ~one_pixel_more(heart)
    assert (result[far] == start[far]).all() and (result != start).any()
    assert ticks[-1] == 1.0 and len(ticks) == 20

    def stop(fraction):
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        refine(start, few, chosen, reference, steps=3, between=stop)

    again, half = (refine(start, few, [replace(one, strength=s) for one in chosen], reference, steps=2) for s in (1.0, 0.5))
    assert (again == refine(start, few, chosen, reference, steps=2)).all()
    assert np.abs((half.astype(float) - start) - 0.5 * (again.astype(float) - start)).max() <= 1.0  # rounding to whole HU, twice


def test_refining_gives_slabs_what_the_volume_lacks(content, reference):
    scan, labelmap = content
    two = np.full(8, 2)  # slabs of four times the same slice, of which one is 30 HU brighter; on average the heart is 20 HU too dark
    few = replace(labelmap, array=labelmap.array[two], geometry=labelmap.geometry.crop((0, 0, 0), (8, *SHAPE[1:])))
    heart, wanted = inside(few, "heart"), reference.scan.array[inside(reference.labelmap, "heart")].mean()
    more = wanted - scan.array[two][heart].mean() - 20 + np.repeat((-15, 15), 4)
    start = np.where(heart, scan.array[two] + more[:, None, None], scan.array[two]).astype(np.int16)
    chosen, _ = choose(_understood(few), reference, Style(structures=("heart",)))
    change = refine(start, few, chosen, reference, steps=20).astype(float) - start
    assert abs(change[heart].mean() - 20) < 8
    assert abs(change[:4][heart[:4]].mean() - change[4:][heart[4:]].mean()) < 12


def test_stripes_are_seen_in_one_band_of_the_grain():
    x = torch.arange(36.0)
    for period, scale in ((2, 0), (6, 1)):
        stripes = (40 * torch.cos(2 * torch.pi * x / period)).expand(1, 36, 36)
        bands = [float(band.mean()) for band in grain_energies(stripes)]
        assert np.argmax(bands) == 3 * scale and bands[3 * scale] > 2 * sorted(bands)[-2]
        turned = [float(band.mean()) for band in grain_energies(stripes.mT)]
        assert np.argmax(turned) == 3 * scale + 1


# -- what is refused ---------------------------------------------------------------------------------------------------------------------


def test_a_structure_that_the_reference_lacks_is_named_with_those_that_exist(content):
    scan, labelmap = phantom(NEW, 30.0)
    without = LabelMap(np.where(labelmap.array == 4, 1, labelmap.array).astype(np.uint16), labelmap.geometry,
                       tuple(s for s in labelmap.segments if s.value not in (4, 5)))  # fmt: skip
    without = replace(without, array=np.where(without.array == 5, 1, without.array).astype(np.uint16))
    ref = reference_of(scan, "the reference", without)
    with pytest.raises(UnusableInput, match="shows no heart; it has .*lung_left.*vertebrae"):
        style_ct(*[content[0], ref, Style(structures=("heart",))], labelmap=content[1])
    _, sentences = style_ct(content[0], ref, Style(), labelmap=content[1])
    assert any("heart" in s and "keep the content's look" in s for s in sentences)
    with pytest.raises(UnusableInput, match="no structure 'spleen'.*heart"):
        style_ct(content[0], ref, Style(structures=("spleen",)), labelmap=content[1])


@pytest.mark.parametrize("change", (lambda hu: np.clip(hu, 0, None), lambda hu: (hu + 1024) // 4, lambda hu: hu * 0))
def test_a_style_scan_that_is_not_ct_is_refused(content, change):
    scan, labelmap = content
    with pytest.raises(UnusableInput, match="does not look like CT"):
        reference_of(Volume(change(scan.array), scan.geometry), "mr.nrrd", labelmap)


@pytest.mark.parametrize("values", ({"strength": 1.2}, {"strength": -0.1}, {"strengths": {"heart": 2.0}}, {"refine": -1}))
def test_strengths_and_steps_out_of_range_are_refused(values):
    with pytest.raises(UnusableInput, match="0-1|0 to 10000"):
        Style(**values)


def _named_as(labelmap, names):
    return _understood(replace(labelmap, segments=tuple(replace(s, name=names.get(s.name, s.name), code=None) for s in labelmap.segments)))


def test_groups_and_parents_select_their_members(content, reference):
    understood = _named_as(content[1], {"lung_left": "Lung L", "lung_right": "Lung R", "vertebrae": "vertebrae_T8"})

    def styled(*structures, **strengths):
        chosen, _ = choose(understood, reference, Style(structures, strengths=strengths or None))
        return {one.item.segment.name: one.strength for one in chosen}

    assert styled("lung") == styled("Lungs") == {"Lung L": 1.0, "Lung R": 1.0} and styled("right lung") == {"Lung R": 1.0}
    assert styled("bones") == styled("vertebrae") == styled("vertebra") == {"vertebrae_T8": 1.0}
    strengths = styled(**{"Lung R": 0.9, "lung": 0.5, "left lung": 0.2, "bones": 0.3})
    assert strengths == {"Lung L": 0.2, "Lung R": 0.9, "heart": 1.0, "aorta": 1.0, "vertebrae_T8": 0.3}
    with pytest.raises(UnusableInput, match="no structure 'kidneys'; it has .*Lung L"):
        styled("kidneys")


def test_a_group_of_which_the_reference_shows_but_some_is_styled_as_far_as_it_goes(content):
    scan, labelmap = phantom(NEW, 30.0)
    ref = reference_of(scan, "the reference", replace(labelmap, array=np.where(np.isin(labelmap.array, (2, 3)), labelmap.array, 0)))
    understood = _named_as(content[1], {"lung_left": "lung_upper_lobe_left", "aorta": "lung_tumor", "heart": "liver"})
    chosen, sentences = choose(understood, ref, Style(("lung",)))
    assert [one.item.segment.name for one in chosen] == ["lung_upper_lobe_left", "lung_right"] and "lung_tumor" in sentences[0]
    with pytest.raises(UnusableInput, match="shows no liver"):
        choose(understood, ref, Style(("lung", "liver")))
