"""Files in, files out: every format that CTSynthesis reads and writes, behind four functions.

Geometry is brought to RAS and values to Hounsfield units here and nowhere else. What had to be assumed while reading is told in
``metadata[NOTES]``, one sentence a line.
"""

from __future__ import annotations

import os
from pathlib import Path

from .. import __version__
from ..errors import UnusableInput
from ..volume import LabelMap, Volume
from . import label_map, metaimage, nifti, nrrd, seg_nrrd
from .beside import written_beside
from .between import sparse_segments
from .hounsfield import as_hounsfield, read_as_hounsfield

NOTES = "CTSynthesis.Notes"

_READABLE = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
_WRITABLE = (".nrrd", ".nii.gz", ".nii", ".mha")


def read_volume(path) -> Volume:
    """Read a CT volume from ``.nrrd``, ``.nhdr``, ``.nii``, ``.nii.gz``, ``.mha``, ``.mhd``, or the folder (or one file) of a DICOM series.

    Returns
    -------
    Volume
        int16 HU. NRRD's key/value fields are its ``metadata``. What does not fit is handled by :func:`hounsfield.read_as_hounsfield`.

    Raises
    ------
    UnusableInput
        If the file cannot be read as a three-dimensional volume of Hounsfield units.
    """
    path = _existing(path)
    if path.is_dir() or (_extension(path) not in _READABLE and _is_dicom(path)):
        from . import dicom_series

        array, geometry, metadata, notes = dicom_series.read_series(path)
    else:
        array, geometry, metadata, notes = _read_image(path)
    if array.ndim != 3:
        raise UnusableInput(f"{path} holds {array.shape[-1]} values per voxel (a color image or a segmentation); one is needed.")
    array, more = read_as_hounsfield(array, path)
    return Volume(array, geometry, _with_notes(metadata, notes + more))


def read_segmentation(path, *, labels=None, reference=None) -> LabelMap:
    """Read a segmentation: ``.seg.nrrd``, a label map, DICOM SEG or RTSTRUCT; from LIDC's ``.xml`` the nodules that two readers outlined.

    Parameters
    ----------
    labels : path, optional
        Table that names the values of a label map; one in or beside it is found by itself (see :mod:`label_table`). It may be that of a
        whole labelling: what the map does not show is told.
    reference : path, optional
        Folder of the DICOM series that an RTSTRUCT, a SEG or LIDC's XML refers to; found by itself when it lies beside.

    Notes
    -----
    Where segments overlap, the finer structure wins over its parent, then the later segment over the earlier. Labels too large to count on
    are renumbered (:mod:`renumber`); :func:`write_segmentation` and every report show them as they were.

    Raises
    ------
    UnusableInput
        If the file is no segmentation, or no voxel is labelled.
    """
    path = _existing(path)
    extension = _extension(path)
    if extension in _READABLE:
        array, geometry, metadata, notes = _read_image(path)
        if seg_nrrd.holds_segments(metadata):
            labelmap, more = seg_nrrd.segments_from(array, geometry, metadata, path, rank=_rank)
        elif array.ndim != 3:
            raise UnusableInput(f"{path} holds {array.shape[-1]} values per voxel but no segments; a label map has one label per voxel.")
        else:
            labelmap, more = label_map.labelmap_from(array, geometry, path, labels, metadata)
        notes += (*more, *sparse_segments(labelmap))
    elif extension == ".xml":
        from . import lidc

        labelmap, notes = lidc.read_consensus(path, reference=reference)
    elif path.is_dir() or _is_dicom(path):
        labelmap, notes = _read_dicom_segmentation(path, reference)
    else:
        raise UnusableInput(f"{path} is not a segmentation that can be read; give .seg.nrrd, NRRD, NIfTI, MHA, DICOM SEG or RTSTRUCT.")
    if not labelmap.array.any():
        raise UnusableInput(f"{path} is empty: no voxel belongs to a segment; paint or load a segmentation first.")
    return LabelMap(labelmap.array, labelmap.geometry, labelmap.segments, _with_notes(labelmap.metadata, notes))


def write_volume(volume: Volume, path):
    """Write ``volume`` as int16 to ``.nrrd`` (compressed, with its metadata), ``.nii``, ``.nii.gz`` or ``.mha``, by the name of ``path``.

    Raises
    ------
    UnusableInput, SynthesisFailed
        If ``path`` cannot be written; nothing is left behind.
    """
    path = Path(path)
    array = as_hounsfield(volume.array, "The volume")
    described = "Synthetic CT, CTSynthesis " + __version__ if "CTSynthesis.Synthetic" in volume.metadata else "CT"
    _write(path, array, volume.geometry, volume.metadata, described)


def write_segmentation(labelmap: LabelMap, path):
    """Write ``labelmap`` to ``.seg.nrrd``, as 3D Slicer keeps segments, or as bare labels like :func:`write_volume`."""
    path = Path(path)
    if path.name.lower().endswith(".seg.nrrd"):
        with written_beside(path) as part:
            seg_nrrd.write_seg_nrrd(part, labelmap, _without_notes(labelmap.metadata))
    else:
        _write(path, label_map.smallest_type(labelmap.labels), labelmap.geometry, labelmap.metadata, "Label map")


def _write(path, array, geometry, metadata, description):
    extension = _extension(path)
    if extension not in _WRITABLE:
        known = f"{', '.join(_WRITABLE[:-1])} or {_WRITABLE[-1]}"
        raise UnusableInput(f"{path} cannot be written because its format is not known; end the name in {known}.")
    with written_beside(path) as part:
        if extension == ".nrrd":
            nrrd.write_nrrd(part, array, geometry, _without_notes(metadata))
        elif extension == ".mha":
            metaimage.write_metaimage(part, array, geometry)
        else:
            nifti.write_nifti(part, array, geometry, compressed=extension == ".nii.gz", description=description)


def _read_image(path):
    try:
        if _extension(path) in (".nii", ".nii.gz"):
            array, geometry, notes = nifti.read_nifti(path)
            return array, geometry, {}, notes
        return metaimage.read_metaimage(path) if _extension(path) in (".mha", ".mhd") else nrrd.read_with_itk(path)
    except UnusableInput as error:
        if str(path) in str(error):
            raise
        raise UnusableInput(f"{path}: {error}") from error  # a geometry that is none does not know its file
    except (ValueError, OverflowError) as error:
        raise UnusableInput(f"{path} is damaged: its header cannot be understood; copy or export it again.") from error
    except MemoryError as error:
        raise UnusableInput(f"{path} does not fit into this machine's memory; crop or resample it first.") from error


def _read_dicom_segmentation(path, reference):
    from . import dicom_seg, dicom_series, rtstruct

    readers = {"SEG": dicom_seg.read_dicom_seg, "RTSTRUCT": rtstruct.read_rtstruct}
    candidates = dicom_series.headers_in(path) if path.is_dir() else [(path, dicom_series.read_header(path))]
    if candidates == [(path, None)]:
        raise UnusableInput(f"{path} is damaged or not a DICOM file; copy or export it again.")
    found = [(file, modality) for file, header in candidates if (modality := str(header.get("Modality"))) in readers]
    if len(found) != 1:
        what = f"{len(found)} DICOM segmentations" if found else "no DICOM SEG or RTSTRUCT"
        raise UnusableInput(f"{path} holds {what}; give the file of the segmentation.")
    ((file, modality),) = found
    return readers[modality](file, reference=reference, rank=_rank)


def _rank(segment):
    from .. import anatomy

    return anatomy.depth(segment)


def _with_notes(metadata, notes):
    metadata = _without_notes(metadata)
    return metadata | {NOTES: "\n".join(notes)} if notes else metadata


def _without_notes(metadata):
    """What was assumed while reading one file is nothing to write into another."""
    return {key: value for key, value in metadata.items() if key != NOTES}


def _existing(path) -> Path:
    path = Path(path)
    if not path.exists():
        raise UnusableInput(f"There is no file {path}; check its name.")
    if not os.access(path, os.R_OK):
        raise UnusableInput(f"{path} may not be read; change its permissions or copy it.")
    if path.is_file() and path.stat().st_size == 0:
        raise UnusableInput(f"{path} is empty (0 bytes); copy or export it again.")
    return path


def _extension(path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def _is_dicom(path) -> bool:
    from . import dicom_series

    return dicom_series.is_dicom(path)
