"""The synthetic CT series: what it says about itself, and that others read the same voxels in the same place."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import read_volume
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.volume import Geometry, Volume, geometry_of
from Testing.files.dicom_checks import errors_of_dciodvfy
from Testing.geometries import GRIDS, SHAPE

VOXELS = np.random.default_rng(0).integers(-1024, 3072, SHAPE).astype(np.int16)
PROVENANCE = {
    "CTSynthesis.Model": "default", "CTSynthesis.ModelVersion": "1.2", "CTSynthesis.Seed": "7", "CTSynthesis.WeightsSHA256": "ab" * 32,
    "CTSynthesis.Version": "0.1.0", "CTSynthesis.Request": "{}",
}  # fmt: skip


def write(folder, grid="oblique", **keywords):
    return write_ct_series(Volume(VOXELS, GRIDS[grid]), folder, provenance=PROVENANCE, **keywords)


def in_dicom_order(name):
    """Voxels and geometry as DICOM orders them: left-handed stacks are turned over."""
    geometry = GRIDS[name]
    if not geometry.is_left_handed:
        return VOXELS, geometry.ijk_to_ras
    matrix = geometry.ijk_to_ras.copy()
    matrix[:3, 3] += matrix[:3, 2] * (SHAPE[0] - 1)
    matrix[:3, 2] *= -1
    return VOXELS[::-1], matrix


@pytest.mark.parametrize("name", GRIDS)
def test_gdcm_reads_the_same_voxels_in_the_same_place(tmp_path, name):
    write(tmp_path / "ct", name)
    voxels, matrix = in_dicom_order(name)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "ct")))
    image = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels)
    assert np.abs(geometry_of(image).ijk_to_ras - matrix).max() < 1e-6


@pytest.mark.parametrize("name", GRIDS)
def test_pydicom_reads_the_same_voxels_in_the_same_place(tmp_path, name):
    files = write(tmp_path / "ct", name)
    voxels, matrix = in_dicom_order(name)
    lps = np.diag([-1, -1, 1, 1]) @ matrix
    normal = None
    for k, file in enumerate(files):
        ds = pydicom.dcmread(file)
        assert np.array_equal(ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept, voxels[k])
        assert np.array(ds.ImagePositionPatient, float) == pytest.approx((lps @ [0, 0, k, 1])[:3], abs=1e-8)
        row, column = np.reshape(np.array(ds.ImageOrientationPatient, float), (2, 3))
        assert row * ds.PixelSpacing[1] == pytest.approx(lps[:3, 0], abs=1e-8)
        assert column * ds.PixelSpacing[0] == pytest.approx(lps[:3, 1], abs=1e-8)
        normal = np.cross(row, column)
    assert normal @ lps[:3, 2] > 0  # slices follow each other along the normal


@pytest.mark.parametrize("name", GRIDS)
def test_our_own_reader_and_3d_slicer(tmp_path, a_scene, name):
    import slicer.util
    import vtk

    files = write(tmp_path / "ct", name)
    voxels, matrix = in_dicom_order(name)
    volume = read_volume(tmp_path / "ct")
    assert np.array_equal(volume.array, voxels) and np.abs(volume.geometry.ijk_to_ras - matrix).max() < 1e-8
    storage = a_scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetSingleFile(0)
    storage.SetFileName(str(files[0]))
    for file in files:
        storage.AddFileName(str(file))
    node = a_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert storage.ReadData(node)
    ijk_to_ras = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(ijk_to_ras)
    assert np.array_equal(slicer.util.arrayFromVolume(node), voxels)
    assert np.abs(slicer.util.arrayFromVTKMatrix(ijk_to_ras) - matrix).max() < 1e-5


@pytest.mark.parametrize("name", GRIDS)
def test_dciodvfy_finds_no_error_in_any_slice(tmp_path, name):
    for file in write(tmp_path / "ct", name):
        assert errors_of_dciodvfy(file) == []


def test_every_slice_says_that_it_is_synthetic(tmp_path):
    for file in write(tmp_path / "ct", description="thorax"):
        ds = pydicom.dcmread(file)
        assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"] and ds[0x0008, 0x001C].value == "YES"
        assert ds.SeriesDescription == "Synthetic thorax"
        assert all(word in ds.DerivationDescription for word in ("Synthetic CT", "model default", "version 1.2", "seed 7", "ab" * 32))
        (equipment,) = ds.ContributingEquipmentSequence
        assert equipment.Manufacturer == "CTSynthesis" and equipment.SoftwareVersions == "0.1.0"
        assert ds.BurnedInAnnotation == "NO" and ds.RescaleType == "HU" and (ds.RescaleSlope, ds.RescaleIntercept) == (1, 0)
        assert list(ds.WindowCenter) == [40, -500] and list(ds.WindowWidth) == [400, 1400]


def test_no_scanner_and_no_patient_is_invented(tmp_path):
    ds = pydicom.dcmread(write(tmp_path / "ct")[0])
    assert ds.PatientName == "SYNTHETIC^CT" and ds.PatientID.startswith("SYNTHETIC-")
    for keyword in ("PatientBirthDate", "PatientSex", "KVP", "Manufacturer", "ReferringPhysicianName", "AccessionNumber"):
        assert keyword in ds and not ds.get(keyword), keyword  # type 2: present, empty
    for keyword in ("ManufacturerModelName", "XRayTubeCurrent", "StationName", "InstitutionName", "AcquisitionDate", "ConvolutionKernel"):
        assert keyword not in ds


def test_uids_are_fresh_and_belong_together(tmp_path):
    first, second = ([pydicom.dcmread(f, stop_before_pixels=True) for f in write(tmp_path / n)] for n in "ab")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({ds.get(keyword) for ds in first}) == 1 and first[0].get(keyword) != second[0].get(keyword)
    uids = [ds.SOPInstanceUID for ds in first + second]
    assert len(set(uids)) == len(uids) == 12 and all(len(uid) <= 64 for uid in uids)
    assert all(ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID for ds in first)


def test_a_patient_only_when_asked_for(tmp_path):
    patient = {"PatientName": "Doe^Jane", "PatientID": "42", "StudyInstanceUID": "1.2.3.4"}
    ds = pydicom.dcmread(write(tmp_path / "ct", patient=patient)[0])
    assert (ds.PatientName, ds.PatientID, ds.StudyInstanceUID) == ("Doe^Jane", "42", "1.2.3.4")
    assert ds[0x0008001C].value == "YES"  # pydicom 2.4 has no keyword for it
    with pytest.raises(UnusableInput, match="KVP cannot be copied"):
        write(tmp_path / "other", patient={"KVP": 120})


def test_file_names_are_the_same_every_time(tmp_path):
    assert [f.name for f in write(tmp_path / "a")] == [f.name for f in write(tmp_path / "b")] == [f"CT{n:04d}.dcm" for n in range(1, 7)]


def test_a_folder_in_use_is_refused_and_an_empty_one_is_filled(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x.dcm").write_text("somebody's")
    with pytest.raises(UnusableInput, match="already holds files"):
        write(tmp_path / "used")
    assert [p.name for p in (tmp_path / "used").iterdir()] == ["x.dcm"]
    (tmp_path / "free").mkdir()
    assert len(write(tmp_path / "free")) == 6


def test_a_sheared_volume_is_refused(tmp_path):
    matrix = GRIDS["axial"].ijk_to_ras.copy()
    matrix[1, 2] = 0.5
    with pytest.raises(UnusableInput, match="perpendicular"):
        write_ct_series(Volume(VOXELS, Geometry(SHAPE, matrix)), tmp_path / "ct", provenance={})
    assert not list(tmp_path.iterdir())
