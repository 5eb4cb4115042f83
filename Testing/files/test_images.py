"""NRRD, NIfTI and MetaImage: voxels and geometry come back, for us, for ITK and for 3D Slicer."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import NOTES, read_segmentation, read_volume, write_segmentation, write_volume
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume, geometry_of
from Testing.geometries import GRIDS, SHAPE

VOXELS = np.random.default_rng(0).integers(-1024, 3072, SHAPE).astype(np.int16)
EXACT = {".nrrd": 1e-9, ".mha": 1e-9, ".nii": 1e-4, ".nii.gz": 1e-4}  # NIfTI holds float32
METADATA = {"CTSynthesis.Synthetic": "1", "CTSynthesis.Request": '{"hu": {"Café \\\\ bar": 40}, "s": "a:=b"}\nsecond line'}


@pytest.fixture(params=EXACT)
def extension(request):
    return request.param


@pytest.mark.parametrize("name", GRIDS)
def test_a_volume_comes_back(tmp_path, name, extension):
    path = tmp_path / f"ct{extension}"
    write_volume(Volume(VOXELS, GRIDS[name]), path)
    volume = read_volume(path)
    assert volume.array.dtype == np.int16 and np.array_equal(volume.array, VOXELS)
    assert np.abs(volume.geometry.ijk_to_ras - GRIDS[name].ijk_to_ras).max() < EXACT[extension]
    assert NOTES not in volume.metadata


@pytest.mark.parametrize("name", GRIDS)
def test_itk_reads_the_same(tmp_path, name, extension):
    path = tmp_path / f"ct{extension}"
    write_volume(Volume(VOXELS, GRIDS[name]), path)
    image = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image), VOXELS)
    assert np.abs(geometry_of(image).ijk_to_ras - GRIDS[name].ijk_to_ras).max() < EXACT[extension]


@pytest.mark.parametrize("name", GRIDS)
def test_what_itk_writes_is_read(tmp_path, name, extension):
    from CTSynthesisLib.volume import to_sitk

    path = tmp_path / f"ct{extension}"
    sitk.WriteImage(to_sitk(VOXELS, GRIDS[name]), str(path))
    volume = read_volume(path)
    assert np.array_equal(volume.array, VOXELS)
    assert np.abs(volume.geometry.ijk_to_ras - GRIDS[name].ijk_to_ras).max() < max(EXACT[extension], 1e-9)


@pytest.mark.parametrize("detached", [".nhdr", ".mhd"])
def test_detached_headers_are_read(tmp_path, detached):
    from CTSynthesisLib.volume import to_sitk

    sitk.WriteImage(to_sitk(VOXELS, GRIDS["oblique"]), str(tmp_path / f"ct{detached}"))
    assert np.array_equal(read_volume(tmp_path / f"ct{detached}").array, VOXELS)


def test_3d_slicer_reads_geometry_and_provenance_from_nrrd(tmp_path, a_scene):
    import slicer
    import slicer.util
    import vtk

    write_volume(Volume(VOXELS, GRIDS["oblique"], METADATA), tmp_path / "ct.nrrd")
    storage = a_scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(tmp_path / "ct.nrrd"))
    node = a_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert storage.ReadData(node)
    assert np.array_equal(slicer.util.arrayFromVolume(node), VOXELS)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    assert np.abs(slicer.util.arrayFromVTKMatrix(matrix) - GRIDS["oblique"].ijk_to_ras).max() < 1e-6
    storage = a_scene.AddNewNodeByClass("vtkMRMLNRRDStorageNode")  # the one that 3D Slicer loads NRRD with
    storage.SetFileName(str(tmp_path / "ct.nrrd"))
    node = a_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert storage.ReadData(node)
    for key, value in METADATA.items():
        assert node.GetAttribute(key) == value


def test_metadata_comes_back_from_nrrd(tmp_path):
    write_volume(Volume(VOXELS, GRIDS["axial"], METADATA), tmp_path / "ct.nrrd")
    assert read_volume(tmp_path / "ct.nrrd").metadata == METADATA


def test_nrrd_is_compressed(tmp_path):
    geometry = Geometry.from_spacing((40, 60, 60), (1, 1, 1))
    write_volume(Volume(np.zeros(geometry.shape, np.int16), geometry), tmp_path / "ct.nrrd")
    assert (tmp_path / "ct.nrrd").stat().st_size < 5000


def test_a_sheared_volume_keeps_its_shear(tmp_path):
    matrix = GRIDS["axial"].ijk_to_ras.copy()
    matrix[1, 2] = 0.5
    for extension in (".nrrd", ".mha", ".nii"):
        write_volume(Volume(VOXELS, Geometry(SHAPE, matrix)), tmp_path / f"ct{extension}")
        assert np.abs(read_volume(tmp_path / f"ct{extension}").geometry.ijk_to_ras - matrix).max() < 1e-4


def test_what_was_read_may_be_changed(tmp_path, extension):
    write_volume(Volume(VOXELS, GRIDS["axial"]), tmp_path / f"ct{extension}")
    read_volume(tmp_path / f"ct{extension}").array[0, 0, 0] = 5


def test_floating_point_is_rounded_and_what_is_not_hounsfield_is_refused(tmp_path):
    write_volume(Volume(np.full(SHAPE, -0.6), GRIDS["axial"]), tmp_path / "ct.nrrd")
    assert (read_volume(tmp_path / "ct.nrrd").array == -1).all()
    for value in (np.nan, 40000.0):
        with pytest.raises(UnusableInput):
            write_volume(Volume(np.full(SHAPE, value), GRIDS["axial"]), tmp_path / "bad.nrrd")
    assert not (tmp_path / "bad.nrrd").exists()


def test_labels_come_back(tmp_path, extension):
    labels = np.zeros(SHAPE, np.uint16)
    labels[1:3], labels[4:] = 3, 300
    write_segmentation(LabelMap(labels, GRIDS["oblique"], (Segment(3, "a"), Segment(300, "b"))), tmp_path / f"seg{extension}")
    labelmap = read_segmentation(tmp_path / f"seg{extension}")
    assert np.array_equal(labelmap.array, labels) and [s.value for s in labelmap.segments] == [3, 300]


# -- NIfTI's own ways ----------------------------------------------------------------------------------------------------------------


def nifti(tmp_path, **changes):
    """A file written by us with header fields changed: ``name=(offset, format, values)``."""
    write_volume(Volume(VOXELS, GRIDS["oblique"]), tmp_path / "ct.nii")
    content = bytearray((tmp_path / "ct.nii").read_bytes())
    for offset, kind, values in changes.values():
        struct.pack_into("<" + kind, content, offset, *values)
    (tmp_path / "ct.nii").write_bytes(content)
    return tmp_path / "ct.nii"


@pytest.mark.parametrize("name", GRIDS)
def test_the_qform_holds_the_same_geometry(tmp_path, name):
    write_volume(Volume(VOXELS, GRIDS[name]), tmp_path / "ct.nii")
    content = bytearray((tmp_path / "ct.nii").read_bytes())
    struct.pack_into("<h", content, 254, 0)  # no sform
    (tmp_path / "ct.nii").write_bytes(content)
    assert np.abs(read_volume(tmp_path / "ct.nii").geometry.ijk_to_ras - GRIDS[name].ijk_to_ras).max() < 1e-4


def test_the_sform_decides_even_where_its_spacing_differs_from_pixdim(tmp_path):
    path = nifti(tmp_path, pixdim=(80, "3f", (5, 5, 5)), qform=(252, "h", (0,)))
    assert np.abs(read_volume(path).geometry.ijk_to_ras - GRIDS["oblique"].ijk_to_ras).max() < 1e-4


def test_scaled_values_and_other_units(tmp_path):
    path = nifti(tmp_path, scale=(112, "2f", (0.5, -100)), units=(123, "B", (1,)))  # metres
    volume = read_volume(path)
    assert np.array_equal(volume.array, np.rint(VOXELS * 0.5 - 100))
    assert volume.geometry.spacing == pytest.approx(GRIDS["oblique"].spacing * 1000, rel=1e-5)


def test_big_endian_files_and_a_fourth_dimension_of_one(tmp_path):
    write_volume(Volume(VOXELS, GRIDS["axial"]), tmp_path / "ct.nii")
    little = (tmp_path / "ct.nii").read_bytes()
    big = bytearray(little[:352]) + VOXELS.astype(">i2").tobytes()
    for offset, kind in ((0, "i"), (40, "8h"), (70, "2h"), (76, "8f"), (108, "3f"), (252, "2h"), (256, "6f"), (280, "12f")):
        struct.pack_into(">" + kind, big, offset, *struct.unpack_from("<" + kind, little, offset))
    struct.pack_into(">h", big, 40, 4)
    (tmp_path / "big.nii.gz").write_bytes(gzip.compress(big))
    volume = read_volume(tmp_path / "big.nii.gz")
    assert np.array_equal(volume.array, VOXELS) and volume.geometry.agrees_with(GRIDS["axial"])


def test_a_file_without_orientation_is_read_as_3d_slicer_reads_it_and_says_so(tmp_path):
    path = nifti(tmp_path, forms=(252, "2h", (0, 0)))
    volume = read_volume(path)
    assert np.abs(volume.geometry.ijk_to_ras - geometry_of(sitk.ReadImage(str(path))).ijk_to_ras).max() < 1e-5
    assert "axes" in volume.metadata[NOTES]


def test_an_nrrd_without_spacing_says_that_1_mm_was_assumed(tmp_path):
    header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n\n"
    (tmp_path / "plain.nrrd").write_bytes(header + b"\1" * 64)
    assert "1 mm" in read_volume(tmp_path / "plain.nrrd").metadata[NOTES]


def test_what_a_file_holds_decides_whether_it_is_unpacked(tmp_path):
    write_volume(Volume(VOXELS, GRIDS["axial"]), tmp_path / "ct.nii")
    plain = (tmp_path / "ct.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain))
    for name in ("plain.nii.gz", "packed.nii"):
        assert np.array_equal(read_volume(tmp_path / name).array, VOXELS)


@pytest.mark.parametrize("extension", [".nhdr", ".mhd"])
def test_one_voxel_file_a_slice_is_read(tmp_path, extension):
    for k, plane in enumerate(VOXELS):
        for name in (f"größe {k}.raw", f"s{k}.raw"):
            (tmp_path / name).write_bytes(plane.astype("<i2").tobytes())
    size = "{2} {1} {0}".format(*SHAPE)
    listed = "".join(f"größe {k}.raw\n" for k in range(len(VOXELS)))
    nhdr = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {size}\nspacings: 1 1 1\nencoding: raw\nendian: little\ndata file: "
    mhd = f"ObjectType = Image\nNDims = 3\nBinaryDataByteOrderMSB = False\nElementSpacing = 1 1 1\nDimSize = {size}\n"
    mhd += "ElementType = MET_SHORT\nElementDataFile = "
    for names in (f"LIST{' 2' if extension == '.nhdr' else ''}\n{listed}", f"s%d.raw 0 {len(VOXELS) - 1} 1\n"):
        (tmp_path / f"ct{extension}").write_text((nhdr if extension == ".nhdr" else mhd) + names, encoding="utf-8")
        assert np.array_equal(read_volume(tmp_path / f"ct{extension}").array, VOXELS)
