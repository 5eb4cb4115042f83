"""Reading CT series: tilted, unordered, mixed, uneven, damaged."""

import shutil

import numpy as np
import pydicom
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import NOTES, read_volume
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.volume import Geometry, Volume
from Testing.files.dicom_checks import change, real_dicom, without_preamble
from Testing.geometries import GRIDS, SHAPE

VOXELS = np.random.default_rng(0).integers(-1024, 3072, SHAPE).astype(np.int16)


@pytest.fixture
def a_series(tmp_path):
    """The files of an oblique series with six slices."""
    return write_ct_series(Volume(VOXELS, GRIDS["oblique"]), tmp_path / "ct", provenance={})


def test_the_order_of_files_and_instance_numbers_does_not_matter(a_series):
    for n, file in enumerate(a_series):
        change(file, InstanceNumber=(n * 5) % 7)
        file.rename(file.with_name(f"{(n * 5) % 7}.ima"))
    volume = read_volume(a_series[0].parent)
    assert np.array_equal(volume.array, VOXELS) and volume.geometry.agrees_with(GRIDS["oblique"])


def test_rescale_slopes_of_each_slice_are_applied(a_series):
    for n, file in enumerate(a_series):
        change(file, RescaleSlope=2, RescaleIntercept=-10 * n)
    assert np.array_equal(read_volume(a_series[0].parent).array, VOXELS * 2 - 10 * np.arange(6)[:, None, None])


def test_a_tilted_gantry_keeps_its_shear(a_series):
    for n, file in enumerate(a_series):
        position = np.array(pydicom.dcmread(file).ImagePositionPatient, float) + [0, 0.3 * n, 0]
        change(file, ImagePositionPatient=[f"{x:.9g}" for x in position])
    volume = read_volume(a_series[0].parent)
    assert volume.geometry.is_sheared
    step = GRIDS["oblique"].ijk_to_ras[:3, 2] + [0, -0.3, 0]
    assert volume.geometry.ijk_to_ras[:3, 2] == pytest.approx(step, abs=1e-6)


def test_one_file_chooses_its_series(a_series, tmp_path):
    other = write_ct_series(Volume(VOXELS[:3], Geometry((3, 7, 9), GRIDS["axial"].ijk_to_ras)), tmp_path / "other", provenance={})
    for file in other:
        shutil.copy(file, a_series[0].with_name("other" + file.name))
    with pytest.raises(UnusableInput, match="2 image series"):
        read_volume(a_series[0].parent)
    assert np.array_equal(read_volume(a_series[2]).array, VOXELS)


def test_a_missing_slice_is_refused(a_series):
    a_series[2].unlink()
    with pytest.raises(UnusableInput, match="unevenly spaced .* between slices 2 and 3"):
        read_volume(a_series[0].parent)


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even_enough(tmp_path):
    geometry = Geometry.from_spacing((9, 4, 4), (1, 1, 1.25))
    files = write_ct_series(Volume(np.zeros(geometry.shape, np.int16), geometry), tmp_path / "ct", provenance={})
    for file in files:
        change(file, ImagePositionPatient=[round(float(x), 1) for x in pydicom.dcmread(file).ImagePositionPatient])
    assert read_volume(tmp_path / "ct").geometry.spacing[2] == pytest.approx(1.25, abs=1e-6)


def test_what_makes_no_volume_is_refused(a_series):
    folder = a_series[0].parent

    def refused(word):
        with pytest.raises(UnusableInput, match=word):
            read_volume(folder)

    keep = {file: file.read_bytes() for file in a_series}
    shutil.copy(a_series[1], folder / "copy.dcm")
    change(folder / "copy.dcm", SOPInstanceUID="1.2.3")
    refused("CT0002.dcm and copy.dcm lie at the same place")
    (folder / "copy.dcm").unlink()
    change(a_series[1], Modality="MR")
    change(a_series[0], Modality="MR")
    refused("is MR, not CT")
    a_series[0].write_bytes(keep[a_series[0]])
    a_series[1].write_bytes(keep[a_series[1]])
    change(a_series[3], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    refused(r"differ in size, spacing or orientation \(CT0004.dcm from the others\)")
    a_series[3].write_bytes(keep[a_series[3]])
    change(a_series[3], ImagePositionPatient=None)
    refused("CT0004.dcm does not say where it lies")
    for odd in ({"ImagePositionPatient": [1, 2]}, {"PixelSpacing": [0.8]}, {"ImageOrientationPatient": [1, 0, 0, 0, 1]}):
        a_series[3].write_bytes(keep[a_series[3]])
        change(a_series[3], **odd)
        refused("CT0004.dcm is damaged")
    a_series[3].write_bytes(keep[a_series[3]])
    for file in a_series:
        change(file, PixelSpacing=[0, 0])
    refused("ct: .*spacing of zero")
    for file in a_series:
        file.write_bytes(keep[file])
    a_series[3].write_bytes(keep[a_series[3]][:-40])
    refused("damaged or incomplete")


@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "explicit"])
@pytest.mark.parametrize("ending", [".dcm", ""], ids=["with .dcm", "no ending"])
def test_bare_data_sets_are_dicom(a_series, ending, implicit):
    for file in a_series:
        without_preamble(file, implicit)
        file.rename(file.with_suffix(ending))
    folder = a_series[0].parent
    (folder / "DICOMDIR").write_bytes(b"x" * 300)
    (folder / "report.pdf").write_bytes(b"%PDF-1.4 of the series")
    (folder / "numbers.raw").write_bytes(b"\x08\0\x01\0" * 100)  # begins like one
    for path in (folder, a_series[2].with_suffix(ending)):
        volume = read_volume(path)
        assert np.array_equal(volume.array, VOXELS) and volume.geometry.agrees_with(GRIDS["oblique"])


def test_numbers_that_waver_around_an_edge_of_rounding_are_one(a_series):
    """0.0125 and 0.7625 lie halfway between two thousandths: 1e-8 to either side is another number only after rounding."""
    t = 0.0125
    for n, file in enumerate(a_series):
        wavering = (-1) ** n * 1e-8
        row, column = np.array([np.sqrt(1 - t * t), t, 0]), np.array([-t, np.sqrt(1 - t * t), 0])
        change(
            file,
            ImageOrientationPatient=[f"{x:.9f}" for x in (*row + wavering, *column + wavering)],
            PixelSpacing=[f"{0.7625 + wavering:.9f}"] * 2,
            ImagePositionPatient=[0, 0, 2.5 * n],
        )
    volume = read_volume(a_series[0].parent)
    assert np.array_equal(volume.array, VOXELS) and volume.geometry.spacing == pytest.approx((0.7625, 0.7625, 2.5), abs=1e-6)


def test_copies_of_slices_are_left_out_and_named(a_series):
    folder = a_series[0].parent
    for file in a_series[::2]:
        shutil.copy(file, folder / f"{file.stem} (1).dcm")
    volume = read_volume(folder)
    assert np.array_equal(volume.array, VOXELS)
    assert "copies of slices" in volume.metadata[NOTES] and "CT0003" in volume.metadata[NOTES]
    ds = pydicom.dcmread(folder / "CT0003 (1).dcm")
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(folder / "CT0003 (1).dcm")
    with pytest.raises(UnusableInput, match=r"CT0003.*CT0003.*say that they are the same image, but differ"):
        read_volume(folder)


def test_an_instance_uid_used_for_every_slice_makes_no_copies(a_series):
    for file in a_series:
        change(file, SOPInstanceUID="1.2.3")
    volume = read_volume(a_series[0].parent)
    assert np.array_equal(volume.array, VOXELS) and NOTES not in volume.metadata


@pytest.mark.parametrize("series", ["the same series", "a series of its own"])
def test_a_scout_is_left_out_and_named(a_series, series):
    folder = a_series[0].parent
    scout = shutil.copy(a_series[0], folder / "scout.dcm")
    change(scout, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SOPInstanceUID="1.2.3", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    if series == "a series of its own":
        change(scout, SeriesInstanceUID="1.2.4")
    volume = read_volume(folder)
    assert np.array_equal(volume.array, VOXELS) and "scouts (localizers): scout.dcm" in volume.metadata[NOTES]
    for file in a_series:
        file.unlink()
    with pytest.raises(UnusableInput, match="scout.dcm is a scout"):
        read_volume(folder)


def test_multi_frame_images_are_refused_as_such(a_series):
    change(a_series[2], SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", ImagePositionPatient=None)  # its only frame says where it lies
    with pytest.raises(UnusableInput, match="CT0003.dcm is a multi-frame image"):
        read_volume(a_series[0].parent)


def test_a_single_slice_without_thickness_is_read_and_this_is_told(a_series):
    for file in a_series[1:]:
        file.unlink()
    change(a_series[0], SliceThickness=None, SpacingBetweenSlices=None)
    volume = read_volume(a_series[0].parent)
    assert volume.geometry.spacing[2] == pytest.approx(1) and "1 mm" in volume.metadata[NOTES]


def test_a_real_series():
    volume = read_volume(real_dicom("ct-with-seg") / "01.dcm")
    assert volume.geometry.shape == (3, 512, 512) and volume.geometry.spacing == pytest.approx((0.810547, 0.810547, 1.0), abs=1e-4)
    assert volume.array.min() >= -3024 and 0 < np.median(volume.array[volume.array > -200]) < 100  # soft tissue


def test_a_real_series_with_a_missing_slice_is_refused():
    with pytest.raises(UnusableInput, match=r"most 0.8 mm apart, but 1.6 mm between slices 1 and 2"):
        read_volume(real_dicom("uneven-spacing-with-rtstruct"))
