"""Reading CT series: tilted, unordered, mixed, uneven, damaged."""

import shutil

import numpy as np
import pydicom
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import read_volume
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.volume import Geometry, Volume
from Testing.files.dicom_checks import real_dicom
from Testing.geometries import GRIDS, SHAPE

VOXELS = np.random.default_rng(0).integers(-1024, 3072, SHAPE).astype(np.int16)


@pytest.fixture
def a_series(tmp_path):
    """The files of an oblique series with six slices."""
    return write_ct_series(Volume(VOXELS, GRIDS["oblique"]), tmp_path / "ct", provenance={})


def change(file, **attributes):
    ds = pydicom.dcmread(file)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.save_as(file)


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
    refused("same place")
    (folder / "copy.dcm").unlink()
    change(a_series[1], Modality="MR")
    change(a_series[0], Modality="MR")
    refused("is MR, not CT")
    a_series[0].write_bytes(keep[a_series[0]])
    a_series[1].write_bytes(keep[a_series[1]])
    change(a_series[3], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    refused("differ in size, spacing or orientation")
    a_series[3].write_bytes(keep[a_series[3]])
    change(a_series[3], ImagePositionPatient=None)
    refused("where it lies")
    a_series[3].write_bytes(keep[a_series[3]][:-40])
    refused("damaged or incomplete")


def test_a_single_slice_without_thickness_is_read_and_this_is_told(a_series):
    from CTSynthesisLib.files import NOTES

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
