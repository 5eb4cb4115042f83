"""Writing a synthetic CT as a DICOM series that says in every slice that it is synthetic."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import UnusableInput
from ..volume import Geometry, Volume
from .beside import written_beside
from .hounsfield import as_hounsfield

SYNTHETIC_DATA = 0x0008001C  # by number: the pydicom 2.4 of 3D Slicer 5.10 does not know the keyword SyntheticData, and would not write it

# what may be copied from a patient, and only when the caller asks for it
PATIENT_KEYWORDS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime",
    "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def write_ct_series(volume: Volume, folder, *, provenance, description="Synthetic CT", patient=None) -> list[Path]:
    """Write ``volume`` as one CT Image per slice into the new folder ``folder``.

    Parameters
    ----------
    provenance : dict
        What made the volume: ``Model``, ``ModelVersion``, ``WeightsSHA256``, ``Seed``, ``Version`` (``CTSynthesis.`` may lead each).
        It goes into DerivationDescription (0008,2111) and ContributingEquipmentSequence (0018,A001).
    description : str
        SeriesDescription (0008,103E); ``Synthetic`` is put before it where it does not begin with it.
    patient : dict, optional
        DICOM keywords (see ``PATIENT_KEYWORDS``) to take over; without it the patient is ``SYNTHETIC^CT`` in a study of its own.

    Returns
    -------
    list of Path
        The files, in the order of the slices.

    Raises
    ------
    UnusableInput
        If the volume is sheared, the folder holds files already, or a patient keyword is not one of those above.
    SynthesisFailed
        If the disk is full. Nothing is left behind.
    """
    from pydicom.uid import generate_uid

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UnusableInput(f"The DICOM folder {folder} already holds files; choose a new or empty one, so that series are not mixed.")
    if unknown := sorted(set(patient or ()) - set(PATIENT_KEYWORDS)):
        raise UnusableInput(f"{unknown[0]} cannot be copied from a patient; choose among {', '.join(PATIENT_KEYWORDS)}.")
    array, geometry = right_handed(as_hounsfield(volume.array, "The volume"), volume.geometry)
    provenance = {key.removeprefix("CTSynthesis."): str(value) for key, value in provenance.items()}
    common = _series_attributes(geometry, provenance, description, patient or {})
    positions = geometry.to_lps() @ np.stack([[0, 0, k, 1] for k in range(len(array))]).T
    names = [f"CT{k + 1:04d}.dcm" for k in range(len(array))]
    with written_beside(folder) as part:
        part.mkdir()
        for k, (name, pixels) in enumerate(zip(names, array, strict=True)):
            _write_slice(part / name, common, pixels, positions[:3, k], k + 1, generate_uid(prefix=None))
    return [folder / name for name in names]


def right_handed(array, geometry: Geometry):
    """``(array, geometry)`` in DICOM's order, slices along the cross product of row and column: left-handed stacks are turned over."""
    if geometry.is_sheared:
        raise UnusableInput(
            "The volume's axes are not perpendicular, which a DICOM CT series cannot hold; resample it to a straight grid first (--like)."
        )
    if not geometry.is_left_handed:
        return array, geometry
    matrix = geometry.ijk_to_ras @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, geometry.shape[0] - 1], [0, 0, 0, 1]])
    return array[::-1], Geometry(geometry.shape, matrix)


def _series_attributes(geometry, provenance, description, patient):
    """The data set of what all slices share."""
    from pydicom.dataset import Dataset
    from pydicom.uid import CTImageStorage, generate_uid
    from pydicom.valuerep import format_number_as_ds

    now = datetime.datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.InstanceCreationDate = ds.ContentDate = ds.SeriesDate = date
    ds.InstanceCreationTime = ds.ContentTime = ds.SeriesTime = time
    ds.add_new(SYNTHETIC_DATA, "CS", "YES")
    ds.Modality = "CT"
    description = description.replace("\\", "/")  # DICOM separates values by it
    ds.SeriesDescription = (description if description.startswith("Synthetic") else f"Synthetic {description}")[:64]
    ds.DerivationDescription = _derivation(provenance)
    ds.ImageComments = "Synthetic image made from a segmentation. Not a scan of a patient. Not for diagnosis."
    # the patient and the study
    study = generate_uid(prefix=None)
    ds.StudyInstanceUID, ds.StudyID, ds.StudyDate, ds.StudyTime = study, "1", date, time
    ds.AccessionNumber = ds.ReferringPhysicianName = ds.PatientBirthDate = ds.PatientSex = ""
    ds.PatientName, ds.PatientID = "SYNTHETIC^CT", f"SYNTHETIC-{study[-8:]}"
    for keyword, value in patient.items():
        setattr(ds, keyword, value)
    # the series: type 2 attributes of a scanner stay empty, because there was none
    ds.SeriesInstanceUID, ds.FrameOfReferenceUID = generate_uid(prefix=None), generate_uid(prefix=None)
    ds.SeriesNumber, ds.AcquisitionNumber = 1, None
    ds.Manufacturer = ds.PositionReferenceIndicator = ds.PatientPosition = ds.Laterality = ""
    ds.KVP = None
    ds.ContributingEquipmentSequence = [_equipment(provenance, now)]
    # the grid: PixelSpacing is (between rows, between columns)
    row, column = _orthonormal(geometry.to_lps()[:3, :2])
    spacing = [format_number_as_ds(float(x)) for x in geometry.spacing]
    ds.PixelSpacing = [spacing[1], spacing[0]]
    ds.SliceThickness = ds.SpacingBetweenSlices = spacing[2]
    ds.ImageOrientationPatient = [format_number_as_ds(float(x)) for x in (*row, *column)]
    # the voxels
    ds.Rows, ds.Columns = geometry.shape[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
    ds.WindowCenter, ds.WindowWidth, ds.WindowCenterWidthExplanation = [40, -500], [400, 1400], ["Soft tissue", "Lung"]
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    return ds


def _derivation(provenance):
    words = [f"Synthetic CT made by CTSynthesis {provenance.get('Version', __version__)} from a segmentation"]
    for key, said in (("Model", "model"), ("ModelVersion", "version"), ("WeightsSHA256", "weights SHA-256"), ("Seed", "seed")):
        if provenance.get(key):
            words.append(f"{said} {provenance[key]}")
    return ", ".join(words)[:1024]


def _equipment(provenance, now):
    from pydicom.dataset import Dataset

    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109102", "DCM", "Processing Equipment"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.Manufacturer = item.ManufacturerModelName = "CTSynthesis"
    item.SoftwareVersions = provenance.get("Version", __version__)
    item.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    item.ContributionDescription = _derivation(provenance)
    return item


def _orthonormal(axes):
    """Row and column direction, exactly perpendicular: what is within the tolerance of a sheared grid is not in DICOM's."""
    row = axes[:, 0] / np.linalg.norm(axes[:, 0])
    column = axes[:, 1] - row * np.dot(row, axes[:, 1])
    return row, column / np.linalg.norm(column)


def _write_slice(path, common, pixels, position, number, uid):
    from pydicom.dataset import FileDataset, FileMetaDataset, validate_file_meta
    from pydicom.uid import ExplicitVRLittleEndian
    from pydicom.valuerep import format_number_as_ds

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = common.SOPClassUID, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.FileMetaInformationGroupLength = 0  # set when the file is written
    validate_file_meta(meta, enforce_standard=True)
    ds = FileDataset(path, common, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False, is_little_endian=True)
    ds.SOPInstanceUID, ds.InstanceNumber = uid, number
    ds.ImagePositionPatient = [format_number_as_ds(float(x)) for x in position]
    ds.PixelData = np.ascontiguousarray(pixels, "<i2").tobytes()
    ds.save_as(path)  # without enforce_file_format, which the pydicom 2.4 of 3D Slicer 5.10 does not know
