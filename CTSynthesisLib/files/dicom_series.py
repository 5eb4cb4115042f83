"""Reading a CT series from DICOM: pydicom says where the slices lie, GDCM (through SimpleITK) decodes them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import UnusableInput
from ..volume import LPS_FROM_RAS, Geometry

_TAGS = (
    "SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesDescription", "FrameOfReferenceUID", "NumberOfFrames", "SamplesPerPixel",
    "Rows", "Columns", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """The slices of one series: ``files`` in the order of increasing k, their headers, and where they lie."""

    uid: str
    files: tuple[Path, ...]
    headers: tuple
    geometry: Geometry

    @property
    def notes(self) -> tuple[str, ...]:
        if len(self.files) == 1 and not self.headers[0].get("SliceThickness"):
            return ("The only slice states no thickness; 1 mm was assumed.",)
        return ()


def is_dicom(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def read_header(path, tags=_TAGS):
    """The data set of ``path`` without its pixels, or None if it is not DICOM."""
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags) if tags else None)
    except (pydicom.errors.InvalidDicomError, EOFError, OSError, ValueError, KeyError):
        return None


def headers_in(folder: Path):
    """``(file, header)`` of each DICOM file that lies directly in ``folder``, by name."""
    files = (file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith("."))
    return [(file, header) for file in files if (header := read_header(file)) is not None and "SOPClassUID" in header]


def find_series(path, uid=None) -> Series:
    """The image series in the folder ``path`` (or the series of the file ``path``).

    Raises
    ------
    UnusableInput
        If there is no series or more than one, or its slices do not make a volume.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and uid is None:
        header = read_header(path)
        if header is None or "SeriesInstanceUID" not in header:
            raise UnusableInput(f"{path} is damaged or not a DICOM image; copy or export it again.")
        uid = header.SeriesInstanceUID
    series: dict[str, list] = {}
    for file, header in headers_in(folder):
        if "Rows" in header and header.get("Modality") not in ("SEG", "RTDOSE") and uid in (None, header.get("SeriesInstanceUID")):
            series.setdefault(str(header.get("SeriesInstanceUID")), []).append((file, header))
    if not series:
        wanted = "the image series that is asked for" if uid else "a DICOM image series"
        raise UnusableInput(f"The folder {folder} does not hold {wanted}; give the folder of the series.")
    if len(series) > 1:
        found = "; ".join(f"{items[0][1].get('SeriesDescription') or 'no name'}, {len(items)} images" for items in series.values())
        raise UnusableInput(f"The folder {folder} holds {len(series)} image series ({found}); give one file of the one that is meant.")
    ((uid, items),) = series.items()
    return _ordered(uid, items, folder)


def series_beside(path, uid):
    """The series ``uid`` in the folder of the file ``path``, in a folder within it, or in one beside it; None if it is not there."""
    folder = path.resolve().parent
    nearby = [folder, *sorted(p for p in folder.iterdir() if p.is_dir()), *sorted(p for p in folder.parent.iterdir() if p.is_dir())]
    for candidate in dict.fromkeys(nearby):
        try:
            files = [file for file in sorted(candidate.iterdir()) if file.is_file() and file != path.resolve()]
        except PermissionError:
            continue
        if candidate != folder:
            files = files[:20]  # another folder holds the series or it does not: do not read a whole disk to know
        if any((header := read_header(file)) is not None and header.get("SeriesInstanceUID") == uid for file in files):
            return find_series(candidate, uid)
    return None


def _ordered(uid, items, folder):
    for file, header in items:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise UnusableInput(f"{file} is a multi-frame image; convert it to single slices or save it as NRRD from 3D Slicer.")
        if not all(header.get(tag) for tag in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")):
            raise UnusableInput(f"{file} does not say where it lies in the body; take scouts and screen captures out of the folder.")
    if len({(h.Rows, h.Columns, *np.round([*h.ImageOrientationPatient, *h.PixelSpacing], 3)) for _, h in items}) > 1:
        raise UnusableInput(f"The slices in {folder} differ in size, spacing or orientation; take scouts out of the folder.")
    first = items[0][1]
    # DICOM's pixel spacing is (between rows, between columns), its orientation (along a row, along a column)
    row, column = np.reshape(np.array(first.ImageOrientationPatient, dtype=float), (2, 3))
    between_rows, between_columns = (float(x) for x in first.PixelSpacing)
    normal = np.cross(row, column)
    items = sorted(items, key=lambda item: float(np.dot(normal, np.array(item[1].ImagePositionPatient, dtype=float))))
    positions = np.array([item[1].ImagePositionPatient for item in items], dtype=float)
    if len(items) > 1:
        step = _even_step(positions, normal, folder)
    else:
        step = normal * float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1.0)
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([row * between_columns, column * between_rows, step, positions[0]])
    geometry = Geometry((len(items), int(first.Rows), int(first.Columns)), LPS_FROM_RAS @ matrix)
    return Series(uid, tuple(item[0] for item in items), tuple(item[1] for item in items), geometry)


def _even_step(positions, normal, folder):
    """The vector from one slice to the next; a slice further than a tenth of it from its place is refused."""
    gaps = np.diff(positions @ normal)
    if gaps.min() < 1e-3:
        raise UnusableInput(f"Two slices in {folder} lie at the same place; take all but one phase or reconstruction out of the folder.")
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    away = np.linalg.norm(positions - positions[0] - np.arange(len(positions))[:, None] * step, axis=1)
    if away.max() > 0.1 * np.linalg.norm(step):
        usual = Counter(np.round(gaps, 2).tolist()).most_common(1)[0][0]
        worst = int(np.argmax(np.abs(gaps - usual)))
        where = f"most {usual:g} mm apart, but {gaps[worst]:.3g} mm between slices {worst + 1} and {worst + 2}"
        raise UnusableInput(
            f"The slices in {folder} are unevenly spaced ({where}); "
            "add the missing slices, or load the series in 3D Slicer and save it as NRRD."
        )
    return step


def read_series(path):
    """Return ``(array, geometry, metadata, notes)`` of the CT series in the folder ``path`` (or of the file ``path``), in Hounsfield units.

    The metadata hold the slice thickness, which need not be the slice spacing; never what identifies the patient.
    """
    series = find_series(path)
    modality = series.headers[0].get("Modality")
    if modality != "CT":
        raise UnusableInput(f"The series in {path} is {modality}, not CT; give a CT series.")
    if int(series.headers[0].get("SamplesPerPixel") or 1) != 1:
        raise UnusableInput(f"The images in {path} are in color; a CT series is needed.")
    slices = []
    for file in series.files:
        try:
            slices.append(np.squeeze(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), axis=0))  # GDCM applies slope and intercept
        except (RuntimeError, ValueError) as error:
            raise UnusableInput(f"{file} is damaged or incomplete; copy or export it again.") from error
    thickness = series.headers[0].get("SliceThickness")
    return np.stack(slices), series.geometry, {"SliceThickness": str(thickness)} if thickness else {}, series.notes
