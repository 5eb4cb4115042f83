"""LIDC's XML: what each reader outlined, where two agree, and what is no nodule."""

import re
from pathlib import Path

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import NOTES, read_segmentation, read_volume
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.files.lidc import read_lidc
from CTSynthesisLib.volume import Geometry, Volume
from Testing.files.lidc_files import GRID, ball, disc, nodule, non_nodule, ring, roi, write_xml

CASE = Path(__file__).resolve().parents[2] / ".data" / "ct" / "lidc-idri-0001"


@pytest.fixture
def a_reading(tmp_path):
    """Two readers outline the same nodule, one a little to the left; one outlines another alone; both set single points."""
    point = nodule("small", roi(6, [(300, 310)]), ratings="")
    first = (nodule("A", *ball((200, 220, 5), 8)), nodule("B", *ball((320, 220, 5), 5)), point)
    second = (nodule("1", *ball((204, 220, 5), 8)), non_nodule(2, 250, 260))
    return write_xml(tmp_path / "069.xml", first, second)


def test_what_each_reader_outlined_without_the_outline_itself(a_reading):
    reading = read_lidc(a_reading, series=GRID)
    assert (reading.series_uid, reading.readers, len(reading.nodules)) == ("1.2.3.4.5", 2, 2)
    shared, alone = sorted(reading.nodules, key=lambda n: -n.readers)
    assert (shared.readers, alone.readers) == (2, 1)
    for outline in shared.outlines:
        assert outline.mask.shape[0] == 3 and outline.mask.sum() == 3 * disc((200, 220), 8)
        assert outline.characteristics == {"spiculation": 4}
    assert {outline.name for outline in shared.outlines} == {"A", "1"}


def test_positions_in_voxels_and_mm_and_the_diameter(a_reading):
    alone = min(read_lidc(a_reading, series=GRID).nodules, key=lambda n: n.readers)
    assert alone.centre_ijk == pytest.approx((320, 220, 5))
    assert alone.centre_ras == pytest.approx((170 - 320 * 0.7, 160 - 220 * 0.7, -100 + 5 * 2.5))  # x and y of RAS fall along i and j
    volume = 3 * disc((320, 220), 5) * 0.7 * 0.7 * 2.5
    assert alone.diameter_mm == pytest.approx((6 * volume / np.pi) ** (1 / 3))


def test_consensus_takes_what_so_many_readers_outlined(a_reading):
    reading = read_lidc(a_reading, series=GRID)
    agreed = reading.labelmap()
    assert [segment.name for segment in agreed.segments] == ["nodule 1"]
    k, j, i = np.nonzero(agreed.array)
    assert set(k) == {4, 5, 6} and (i.min(), i.max()) == (196, 208) and (j.min() + j.max()) / 2 == 220
    everything = reading.labelmap(at_least=1)
    assert len(everything.segments) == 2 and (everything.array == 1).sum() > (agreed.array == 1).sum()


def test_small_nodules_and_non_nodules_are_told_apart(a_reading):
    reading = read_lidc(a_reading, series=GRID)
    assert [(m.reader, m.centre_ijk) for m in reading.small_nodules] == [(1, (300, 310, 6))]
    assert [(m.reader, m.centre_ijk) for m in reading.non_nodules] == [(2, (250, 260, 2))]
    assert reading.non_nodules[0].centre_ras == pytest.approx((170 - 250 * 0.7, 160 - 260 * 0.7, -95))


def test_an_exclusion_is_a_hole_that_keeps_its_own_outline(tmp_path):
    path = write_xml(tmp_path / "a.xml", (nodule("A", roi(5, ring((200, 220), 9)), roi(5, ring((200, 220), 3), "FALSE")),))
    (one,) = read_lidc(path, series=GRID).nodules
    assert one.outlines[0].mask.sum() == disc((200, 220), 9) - disc((200, 220), 3)


def test_masks_on_the_grid_of_a_cropped_and_resampled_ct(a_reading):
    reading = read_lidc(a_reading, series=GRID)
    geometry = GRID.crop((1, 150, 120), (10, 140, 160)).with_spacing((0.9, 0.9, 2.5))
    there = reading.labelmap(geometry)
    ml = (there.array > 0).sum() * geometry.voxel_ml / ((reading.labelmap().array > 0).sum() * GRID.voxel_ml)
    assert there.array.shape == geometry.shape and ml == pytest.approx(1, abs=0.05)
    ijk = np.argwhere(there.array).mean(0)[::-1]
    shared = max(reading.nodules, key=lambda n: n.readers)
    assert (geometry.ijk_to_ras @ [*ijk, 1])[:3] == pytest.approx(shared.centre_ras, abs=0.3)


def test_as_lidc_packs_it_the_series_is_found_beside_the_xml(tmp_path):
    """The XML lies in the folder of the DICOM series; then it reads like any segmentation."""
    import pydicom

    array = np.full((3, 512, 512), -800, np.int16)
    folder = tmp_path / "series"
    write_ct_series(Volume(array, GRID.crop((4, 0, 0), array.shape)), folder, provenance={})
    uid = pydicom.dcmread(next(folder.glob("*.dcm"))).SeriesInstanceUID
    readers = [(nodule("A", *ball((200 + n, 220, 5), 8)),) for n in (0, 1)] + [(nodule("B", *ball((320, 220, 5), 5)),)]
    labelmap = read_segmentation(write_xml(folder / "069.xml", *readers, uid=uid))
    assert labelmap.geometry.agrees_with(GRID.crop((4, 0, 0), array.shape)) and len(labelmap.segments) == 1
    assert "no two readers agree" in labelmap.metadata[NOTES]
    (folder / "copy.dcm").write_bytes((folder / "CT0002.dcm").read_bytes())
    for reference in (None, folder):  # what was assumed of the series is told here too
        assert "copies of slices" in read_segmentation(folder / "069.xml", reference=reference).metadata[NOTES]


def test_numbers_a_last_digit_away_are_the_same_pixels_and_slices(tmp_path):
    """Written by another tool: 199.9999999 is pixel 200, and -87.5000001 the slice at -87.5."""
    height = GRID.origin[2] + GRID.spacing[2] * 5
    rois = [roi(5, ring((200, 220), 8), z=height + away) for away in (-1e-4, 1e-4)]
    text = write_xml(tmp_path / "a.xml", *((nodule("A", one),) for one in rois)).read_text()
    (tmp_path / "b.xml").write_text(re.sub(r"<(.)Coord>(\d+)<", lambda found: f"<{found[1]}Coord>{int(found[2]) - 1e-7:.7f}<", text))
    for name in ("a.xml", "b.xml"):
        (one,) = read_lidc(tmp_path / name, series=GRID).nodules
        assert one.readers == 2 and one.centre_ijk == pytest.approx((200, 220, 5))
    (tmp_path / "c.xml").write_text(re.sub("<imageZposition>[^<]*<", "<imageZposition>nan<", text))
    with pytest.raises(UnusableInput, match="c.xml is damaged: an outline in it has no slice position"):
        read_lidc(tmp_path / "c.xml", series=GRID)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<a><b></a>", "cannot be read as XML"),
        ("<LidcReadMessage/>", "not an annotation file of LIDC"),
        ("<IdriReadMessage><readingSession/></IdriReadMessage>", "chest radiograph"),
    ],
)
def test_files_that_are_something_else(tmp_path, text, said):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UnusableInput, match=said):
        read_lidc(tmp_path / "a.xml", series=GRID)


def test_a_ct_that_the_xml_does_not_belong_to(a_reading, tmp_path):
    with pytest.raises(UnusableInput, match="does not lie beside it"):
        read_lidc(a_reading)
    with pytest.raises(UnusableInput, match="400 × 312 and was cropped or resampled"):
        read_lidc(a_reading, series=Geometry.from_spacing((12, 312, 400), (0.7, 0.7, 2.5)))
    with pytest.raises(UnusableInput, match="has no slice"):
        read_lidc(a_reading, series=GRID.crop((6, 0, 0), (6, 512, 512)))
    with pytest.raises(UnusableInput, match="not an axial stack"):
        read_lidc(a_reading, series=GRID.reordered((0, 1, 2), (True, False, False)))
    broken = write_xml(tmp_path / "b.xml", (nodule("A", roi(5, [(1, 2)]).replace("<xCoord>1</xCoord>", "")),))
    with pytest.raises(UnusableInput, match="no coordinates"):
        read_lidc(broken, series=GRID)


@pytest.mark.skipif(not CASE.exists(), reason="the public scan lidc-idri-0001 is not here (.data/ct)")
def test_a_real_annotation_agrees_with_the_stored_mask_and_with_luna16():
    """The stored CT is LIDC's, cropped and resampled from 512 × 512 pixels of 0.703125 mm, in the same millimetres."""
    original = Geometry.from_spacing((133, 512, 512), (0.703125, 0.703125, 2.5), (166.0, 171.7, -340.0))
    reading = read_lidc(CASE / "annotations.xml", series=original)
    (one,) = reading.nodules
    assert (one.readers, len(reading.small_nodules), len(reading.non_nodules)) == (4, 9, 13)
    luna16 = (-56.20840547, -86.34341278, -115.8675792)  # LUNA16's annotations.csv, x and y turned to RAS; 23.35 mm
    assert one.centre_ras == pytest.approx(luna16, abs=0.5) and one.diameter_mm == pytest.approx(23.35, abs=0.5)
    stored = read_segmentation(CASE / "segmentation.nrrd").array > 0
    ours = reading.labelmap(read_volume(CASE / "ct.nrrd").geometry).array > 0
    assert 2 * (ours & stored).sum() / (ours.sum() + stored.sum()) > 0.98
