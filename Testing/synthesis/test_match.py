"""What a request takes from a scan (HU of each segment, noise, sharpness, slices), and what it says when it cannot."""

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib.anatomy import structure, understand
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.regions import segment_regions
from CTSynthesisLib.synthesis.match import match
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume, resample
from Testing.phantom import hounsfield, thorax

VALUES = {"body": 35, "lung_left": -790, "lung_right": -810, "heart": 140, "aorta": 230, "vertebrae": 290}
MATCHED = [name for name in VALUES if name != "body"]  # what a body consists of is not one value
NOISE = 20.0


@pytest.fixture(scope="module")
def a_patient() -> LabelMap:
    return thorax((24, 192, 216), (1.5, 1.5, 4.0))


@pytest.fixture(scope="module")
def its_scan(a_patient) -> Volume:
    return Volume(hounsfield(a_patient, VALUES, noise=NOISE), a_patient.geometry)


def grainy(grain: np.ndarray, spacing=(1.0, 1.0, 2.0), **metadata) -> Volume:
    """40 HU everywhere, and ``grain`` (k, j, i) in HU."""
    return Volume(np.rint(40 + grain).astype(np.int16), Geometry.from_spacing(grain.shape, spacing), metadata)


def white(shape=(12, 64, 64), sd=NOISE):
    return np.random.default_rng(3).normal(0, sd, shape)


def a_blob(geometry: Geometry) -> LabelMap:
    return LabelMap(np.full(geometry.shape, 1, np.uint8), geometry, (Segment(1, "liver"),))


def matched(labelmap, scan, **request):
    return match(labelmap, scan, Request(**{"inside": "plain", **request}))[0]


# -- Hounsfield values -----------------------------------------------------------------------------------------------------------------


def test_each_segment_gets_its_value_and_the_body_none(a_patient, its_scan):
    request, sentences = match(a_patient, its_scan, Request(inside="plain"))
    assert request.hu == pytest.approx({name: VALUES[name] for name in MATCHED}, abs=2)
    assert request.noise == pytest.approx(NOISE, rel=0.15)
    assert len(sentences) == 1 and "thickness" in sentences[0]  # nothing else had to be assumed


def test_tissues_that_will_be_filled_in_get_the_scan_s_values(a_patient, its_scan):
    """The phantom's interior is labelled no more than "body"; its soft tissue is found in the scan."""
    request = matched(a_patient, its_scan, inside="anatomy")
    assert request.hu["soft_tissue"] == pytest.approx(VALUES["body"], abs=5)
    assert {name: request.hu[name] for name in MATCHED} == pytest.approx({name: VALUES[name] for name in MATCHED}, abs=2)
    own = matched(a_patient, its_scan, inside="anatomy", hu={"soft_tissue": 60.0})
    assert own.hu["soft_tissue"] == 60.0


@pytest.fixture
def searched(monkeypatch):
    """The grids on which tissue regions were looked for."""
    grids = []

    def look(volume):
        grids.append(volume.geometry.spacing.tolist())
        return segment_regions(volume)

    monkeypatch.setattr("CTSynthesisLib.synthesis.match.segment_regions", look)
    return grids


def test_regions_are_looked_for_once_and_on_a_coarse_grid(a_patient, searched):
    fine = thorax((24, 280, 320), (1.0, 1.0, 4.0))
    away = LabelMap(a_patient.array, a_patient.geometry.transformed(np.diag([1.0, 1, -1, 1])), a_patient.segments)
    request = matched(away, Volume(hounsfield(fine, VALUES, noise=NOISE), fine.geometry), inside="anatomy")
    assert len(searched) == 1 and min(searched[0]) >= 2
    assert request.hu["lung_left"] == pytest.approx(-800, abs=12) and request.hu["soft_tissue"] == pytest.approx(35, abs=5)


def test_regions_are_not_looked_for_where_every_tissue_is_told(a_patient, its_scan, searched):
    own = {"gas in the bowel": -900, "lung": -800, "fat": -90, "soft tissue": 50, "blood": 150, "bones": 400, "lung vessels": 20}
    assert matched(a_patient, its_scan, inside="anatomy", hu=own).hu["bones"] == 400 and not searched


def test_the_request_stays_text(a_patient, its_scan):
    request = matched(a_patient, its_scan)
    assert Request.from_json(request.to_json()) == request


def test_what_the_user_set_is_kept(a_patient, its_scan):
    own = {"bone": 500.0, "Lung_Left": -700.0}  # a coarser structure counts for the vertebrae
    request = matched(a_patient, its_scan, hu=own, noise=7.0, kernel="sharp", thickness=1.5, slice_correlation=0.9)
    assert {name: request.hu[name] for name in own} == own
    assert sorted(set(request.hu) - set(own)) == ["aorta", "heart", "lung_right"]
    assert (request.noise, request.kernel, request.sharpness) == (7.0, "sharp", None)
    assert (request.thickness, request.slice_correlation) == (1.5, 0.9)
    painted = tuple(Segment(s.value, s.name, s.code, hu=99.0 if s.name == "heart" else None) for s in a_patient.segments)
    assert "heart" not in matched(LabelMap(a_patient.array, a_patient.geometry, painted), its_scan).hu


def test_a_scan_of_the_patient_on_another_grid(a_patient, its_scan):
    turned = its_scan.geometry.reordered((2, 0, 1), (False, True, False))
    turned = turned.with_spacing(turned.spacing * [1.3, 0.8, 1.1])
    scan = Volume(resample(its_scan.array, its_scan.geometry, turned, outside=-1000), turned)
    assert matched(a_patient, scan).hu == pytest.approx({name: VALUES[name] for name in MATCHED}, abs=6)


def test_a_scan_of_a_part_gives_what_it_shows(a_patient, its_scan):
    """The vessels lie outside it: they keep their own value and do not get the lungs'."""
    array = a_patient.array.copy()
    array[:5][(array[:5] == 2)] = 9
    segments = tuple(Segment(s.value, s.name.replace("lung_left", "lungs")) for s in a_patient.segments)
    labelmap = LabelMap(array, a_patient.geometry, (*segments, Segment(9, "lung_vessels")))
    part = Volume(its_scan.array[6:], its_scan.geometry.crop((6, 0, 0), (18, 192, 216)))
    request, sentences = match(labelmap, part, Request(inside="plain"))
    assert request.hu["lungs"] == pytest.approx(VALUES["lung_left"], abs=2)
    assert any("'lung_vessels'" in sentence for sentence in sentences)
    (vessels,) = (u for u in understand(labelmap.segments, hu=request.hu) if u.segment.value == 9)
    assert vessels.mean_hu == structure("lung_vessels").mean()


def test_a_consolidated_lung_is_matched_where_the_segments_were_drawn_on_the_scan(a_patient):
    scan = Volume(hounsfield(a_patient, {**VALUES, "lung_left": -30, "lung_right": -100}, noise=NOISE), a_patient.geometry)
    assert matched(a_patient, scan).hu["lung_left"] == pytest.approx(-30, abs=2)


@pytest.mark.parametrize(("shift", "words"), [((0, 0, 900), "does not overlap"), ((100, 0, 0), "other anatomy")])
def test_a_scan_of_someone_else_gives_tissue_medians_and_says_so(shift, words):
    patient = thorax((24, 96, 108), (3.0, 3.0, 4.0))
    array = hounsfield(patient, VALUES, noise=NOISE)
    move = np.eye(4)
    move[:3, 3] = shift
    bone = patient.array == 6  # trabeculae: an even 290 HU would be contrast-filled blood
    array[bone] = np.random.default_rng(1).normal(420, 120, bone.sum())
    request, sentences = match(patient, Volume(array, patient.geometry.transformed(move)), Request(inside="plain"))
    (told,) = (sentence for sentence in sentences if words in sentence)
    assert "lung" in told and "median" in told
    assert request.hu["lung_left"] == request.hu["lung_right"] == pytest.approx(-800, abs=15)
    assert request.hu["aorta"] == pytest.approx(230, abs=15) and structure("heart").mean() < request.hu["heart"] < 200
    assert request.hu["vertebrae"] == pytest.approx(420, abs=40)


def test_a_scan_of_nobody_is_refused_when_its_tissues_are_needed(a_patient, its_scan):
    far = its_scan.geometry.transformed(np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 5000.0], [0, 0, 0, 1]]))
    with pytest.raises(UnusableInput, match="No body"):
        match(a_patient, Volume(np.full(far.shape, -1000, np.int16), far), Request(inside="plain"))


# -- how it was scanned ----------------------------------------------------------------------------------------------------------------


def test_a_soft_kernel_measures_softer_than_a_sharp_one():
    sharp = grainy(white())
    blurred = [sitk.GetArrayFromImage(sitk.DiscreteGaussian(sitk.GetImageFromArray(one), 0.7)) for one in white(sd=60)]
    soft, labelmap = grainy(np.stack(blurred)), a_blob(sharp.geometry)
    assert matched(labelmap, soft).sharpness < 0.7 < 1.0 < matched(labelmap, sharp).sharpness


def test_slices_that_overlap_correlate():
    grain = white((13, 64, 64))
    thick = grainy((grain[1:] + grain[:-1]) / 2)
    labelmap = a_blob(thick.geometry)
    assert matched(labelmap, thick).slice_correlation == pytest.approx(0.5, abs=0.05)
    assert matched(labelmap, grainy(grain[1:])).slice_correlation == pytest.approx(0, abs=0.05)
    every_other = a_blob(Geometry.from_spacing((6, 64, 64), (1, 1, 4)))  # its slices share none of the scan's
    assert matched(every_other, thick).slice_correlation == pytest.approx(0, abs=0.05)
    finer = a_blob(Geometry.from_spacing((24, 64, 64), (1, 1, 1)))
    request, sentences = match(finer, thick, Request(inside="plain"))
    assert request.slice_correlation is None and any("as far apart" in sentence for sentence in sentences)


def test_the_grain_s_spectrum_is_read_unless_the_user_says_how_noisy_it_is_to_be():
    sharp = grainy(white())
    labelmap = a_blob(sharp.geometry)
    found = matched(labelmap, sharp).grain
    np.testing.assert_allclose(found.power, NOISE**2 * 1.0, rtol=0.2)  # white, at pixels of 1 mm²
    np.testing.assert_allclose(found.change, 2 * NOISE**2, rtol=0.2)
    assert matched(labelmap, sharp, noise=5.0).grain is None and matched(labelmap, sharp, kernel="soft").grain is None
    assert matched(labelmap, sharp, slice_correlation=0.5).grain.change is None


def test_noise_is_that_of_the_pixels_that_will_be_generated():
    fine = grainy(white((12, 96, 96), sd=40))
    coarse = a_blob(Geometry.from_spacing((12, 32, 32), (3, 3, 2)))
    assert matched(coarse, fine).noise < 0.5 * matched(a_blob(fine.geometry), fine).noise


def test_the_slices_are_axial_whatever_way_the_scan_is_stored():
    grain = white((13, 64, 64))
    thick = grainy((grain[1:] + grain[:-1]) / 2)
    axes, flips = (2, 0, 1), (True, False, True)
    turned = Volume(np.ascontiguousarray(np.flip(thick.array.transpose(axes), (0, 2))), thick.geometry.reordered(axes, flips))
    one, other = (matched(a_blob(thick.geometry), scan) for scan in (thick, turned))
    assert (one.noise, one.sharpness, one.thickness) == pytest.approx((other.noise, other.sharpness, other.thickness), rel=0.02)
    assert one.slice_correlation == pytest.approx(other.slice_correlation, abs=0.02)


def test_the_slice_thickness_is_the_stated_one_or_the_spacing():
    labelmap = a_blob(grainy(white()).geometry)
    assert matched(labelmap, grainy(white(), SliceThickness="3.75")).thickness == 3.75
    assert matched(labelmap, grainy(white(), SliceThickness="unknown")).thickness == 2.0


def test_a_scan_without_soft_tissue_leaves_noise_open_and_says_so():
    air = Volume(np.full((6, 40, 40), -900, np.int16), Geometry.from_spacing((6, 40, 40), (1, 1, 2)))
    request, sentences = match(
        LabelMap(np.ones((6, 40, 40), np.uint8), air.geometry, (Segment(1, "lung_left"),)), air, Request(inside="plain")
    )
    assert (request.noise, request.sharpness, request.slice_correlation) == (None, None, None)
    assert any("noise" in sentence for sentence in sentences)
    assert request.hu == {"lung_left": -900}


def test_padding_counts_as_air(a_patient, its_scan):
    """A field of view that ends within the lungs: padding in a segment weighs no more than air would."""
    found = []
    for value in (-1000, -3024):
        scan = Volume(np.where(np.arange(216) < 70, value, its_scan.array).astype(np.int16), its_scan.geometry)
        found.append(match(a_patient, scan, Request(inside="plain")))
    assert found[0] == found[1]
