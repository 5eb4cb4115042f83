"""Folders as the collections publish them become scans with what is marked in them, and scans get their lungs."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import write_volume
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.training.nodule_scans import find_lungs, find_scans
from CTSynthesisLib.volume import Volume, to_sitk
from Testing.files.lidc_files import GRID, ball, nodule, write_xml
from Testing.nodule_chest import COARSE, LEFT, RIGHT, chest, ras_of, write_case


def series(folder, volume):
    """A DICOM series in ``folder``, within new parents; returns its UID."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_ct_series(volume, folder, provenance={})
    return str(pydicom.dcmread(next(folder.glob("*.dcm")), stop_before_pixels=True).SeriesInstanceUID)


def test_cases_with_outlined_nodules_and_without(tmp_path):
    volume = write_case(tmp_path / "a", balls=[(LEFT, 20.0), (RIGHT, 14.0)])
    write_case(tmp_path / "b")
    a, b = find_scans(tmp_path)
    assert [(s.name, s.person, len(s.lesions)) for s in (a, b)] == [("a", "a", 2), ("b", "b", 0)]
    by_size = sorted(a.lesions, key=lambda lesion: -lesion.diameter_mm)
    assert by_size[0].centre == pytest.approx(ras_of(volume.geometry, LEFT), abs=0.1)
    assert by_size[0].diameter_mm == pytest.approx(20, abs=2) and by_size[1].diameter_mm == pytest.approx(14, abs=3)
    assert np.array_equal(b.read().array, chest().array)


def test_lidc_as_downloaded_and_nlst_beside_it(tmp_path):
    """PERSON/STUDY/SERIES; nodules count where two readers outlined them."""
    flat = Volume(np.full((4, 512, 512), -800, np.int16), GRID.crop((4, 0, 0), (4, 512, 512)))
    folder = tmp_path / "LIDC-IDRI-0001" / "1.2" / "1.3"
    uid = series(folder, flat)
    shared, alone = (lambda x: nodule("A", *ball((200 + x, 220, 5), 8))), nodule("B", *ball((320, 220, 5), 5))
    write_xml(folder / "069.xml", (shared(0),), (shared(1), alone), uid=uid)
    series(tmp_path / "100012" / "2.1" / "2.2", chest())
    nlst, lidc = find_scans(tmp_path)
    assert (lidc.person, nlst.person) == ("LIDC-IDRI-0001", "100012") and not nlst.lesions
    (lesion,) = lidc.lesions
    assert lesion.centre == pytest.approx((170 - 200.5 * 0.7, 160 - 220 * 0.7, -100 + 5 * 2.5), abs=0.2)
    assert nlst.read().geometry.agrees_with(chest().geometry, tolerance=1e-3)


def test_a_series_whose_annotation_is_damaged_is_left_out_and_told(tmp_path):
    folder = tmp_path / "LIDC-IDRI-0002" / "1.2"
    series(folder, chest())
    (folder / "1.xml").write_text("<LidcReadMessage>")
    write_case(tmp_path / "b")
    told = []
    assert [scan.name for scan in find_scans(tmp_path, told.append)] == ["b"]
    assert len(told) == 1 and "LIDC-IDRI-0002 is left out" in told[0] and "1.xml" in told[0]


def test_luna16_and_synthetic_volumes(tmp_path):
    volume = chest(balls=[(LEFT, 20.0)])
    (tmp_path / "subset0").mkdir()
    for uid in ("1.2.3", "1.2.4"):
        sitk.WriteImage(to_sitk(volume.array, volume.geometry), str(tmp_path / "subset0" / f"{uid}.mhd"))
    x, y, z = ras_of(volume.geometry, LEFT)
    (tmp_path / "annotations.csv").write_text(f"seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,{-x},{-y},{z},20\n")
    with_nodule, without = find_scans(tmp_path)
    assert with_nodule.lesions[0].centre == pytest.approx((x, y, z)) and not without.lesions
    made = tmp_path / "made"
    made.mkdir()
    write_volume(volume, made / "volume-0000.nrrd")
    (made / "volume-0000.seg.nrrd").write_bytes(b"not a scan")
    (made / "manifest.json").write_text("{}")
    assert [scan.name for scan in find_scans(made)] == ["volume-0000"]


def test_nothing_to_find(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UnusableInput, match="holds no scan"):
        find_scans(tmp_path)
    with pytest.raises(UnusableInput, match="no folder"):
        find_scans(tmp_path / "missing")


def test_lungs_are_found_away_from_their_border():
    volume = chest()
    lungs = find_lungs(volume)
    ijk = np.rint(np.linalg.solve(volume.geometry.ijk_to_ras, np.c_[lungs.places, np.ones(len(lungs.places))].T)[:3]).astype(int)
    assert (volume.array[ijk[2], ijk[1], ijk[0]] < -700).mean() > 0.99
    side = np.sign(lungs.places[:, 0] - ras_of(volume.geometry, (0, 0, 24.5))[0])
    assert set(side) == {-1.0, 1.0} and len(lungs.places) * COARSE[1][0] ** 3 / 1000 > 150  # both lungs, in ml
    soft = Volume(np.full((12, 40, 40), 30, np.int16), volume.geometry.crop((0, 0, 0), (12, 40, 40)))
    assert find_lungs(soft) is None
