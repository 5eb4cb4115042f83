"""Reading a CT series from DICOM: pydicom says where the slices lie, GDCM (through SimpleITK) decodes them.

Numbers of different files are compared by distance, never after rounding: what a scanner's float32 makes of one and the same number may
lie on either side of any edge.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import UnusableInput
from ..volume import LPS_FROM_RAS, Geometry

_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "SeriesInstanceUID", "SeriesDescription", "FrameOfReferenceUID",
    "NumberOfFrames", "SamplesPerPixel", "Rows", "Columns", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "ImagePositionPatient", "ImageOrientationPatient",
)  # fmt: skip
_ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SAME = 1e-3  # direction cosines that differ by less, and lengths that differ by fewer mm, are one


@dataclass(frozen=True)
class Series:
    """The slices of one series: ``files`` in the order of increasing k, their headers, and where they lie."""

    uid: str
    files: tuple[Path, ...]
    headers: tuple
    geometry: Geometry
    notes: tuple[str, ...] = ()
    copies: tuple[tuple[Path, Path], ...] = ()  # (file of the series, file beside it that says it is the same image)

    @property
    def positions(self) -> np.ndarray:
        """Where each slice lies, as its own header says: (slice, 3), LPS mm of the centre of its first pixel."""
        return np.array([header.ImagePositionPatient for header in self.headers], dtype=float)


def is_dicom(path: Path) -> bool:
    return _begins_like_dicom(path) or path.suffix.lower() in (".dcm", ".dicom")


def _begins_like_dicom(path) -> bool:
    """Whether ``path`` has DICOM's preamble, or begins with an element of its first groups: planning systems export bare data sets."""
    with open(path, "rb") as file:
        start = file.read(132)
    bare = start[:2] in (b"\x02\0", b"\x08\0") and start[3:4] == b"\0"  # (0002,00xx) or (0008,00xx), then how it is coded or how long
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return start[128:] == b"DICM" or (bare and (explicit or start[6:8] == b"\0\0"))


@contextlib.contextmanager
def decoding(path, what):
    """What pydicom raises over a damaged file, becomes the sentence that ``path`` is not ``what``.

    pydicom decodes an element when it is asked for, so that damage shows as any of these, and late.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    damaged = (InvalidDicomError, BytesLengthException, EOFError, OSError, NotImplementedError, struct.error)
    missing = (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError)
    try:
        yield
    except UnusableInput:
        raise
    except (*damaged, *missing) as error:
        raise UnusableInput(f"{path} is damaged or not {what}; copy or export it again.") from error


def read_dataset(path, **how):
    """``pydicom.dcmread(path, **how)``, of a file with preamble or without.

    Raises
    ------
    UnusableInput
        If the file is not DICOM, or is damaged.
    """
    import pydicom

    with decoding(path, "a complete DICOM file"):
        if not _begins_like_dicom(path):
            raise pydicom.errors.InvalidDicomError
        dataset = pydicom.dcmread(path, force=True, **how)
        for _ in dataset:  # decodes each element
            pass
        return dataset


def read_header(path, tags=_TAGS):
    """The data set of ``path`` without its pixels, or None if it is not DICOM."""
    try:
        return read_dataset(path, stop_before_pixels=True, specific_tags=list(tags) if tags else None)
    except UnusableInput:
        return None


def headers_in(folder: Path):
    """``(file, header)`` of each DICOM file that lies directly in ``folder``, by name."""
    files = (file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith("."))
    return [(file, header) for file in files if (header := read_header(file)) is not None and "SOPClassUID" in header]


def _is_image(header, uid=None, frame=None) -> bool:
    """Whether ``header`` is that of an image, and of the series ``uid`` and the ``frame`` of reference where these are given."""
    if "Rows" not in header or header.get("Modality") in ("SEG", "RTDOSE"):
        return False
    return uid in (None, header.get("SeriesInstanceUID")) and frame in (None, header.get("FrameOfReferenceUID"))


def _is_scout(header) -> bool:
    return "LOCALIZER" in (header.get("ImageType") or ())


def find_series(path, uid=None, frame=None) -> Series:
    """The image series in the folder ``path`` (or the series of the file ``path``).

    Scouts are left out, and so are copies of slices; ``notes`` of the series say so.

    Parameters
    ----------
    uid, frame : str, optional
        SeriesInstanceUID and FrameOfReferenceUID; where one is given, images with another do not count.

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
    images = [(file, header) for file, header in headers_in(folder) if _is_image(header, uid, frame)]
    if not images:
        wanted = "the image series that is asked for" if uid or frame else "a DICOM image series"
        raise UnusableInput(f"The folder {folder} does not hold {wanted}; give the folder of the series.")
    scouts = [file for file, header in images if _is_scout(header)]
    series: dict[str, list] = {}
    for file, header in images:
        if not _is_scout(header):
            series.setdefault(str(header.get("SeriesInstanceUID")), []).append((file, header))
    if not series:
        raise UnusableInput(f"{images[0][0]} is a scout (localizer), not a slice; give the folder of the CT series.")
    if len(series) > 1:
        found = "; ".join(f"{items[0][1].get('SeriesDescription') or 'no name'}, {len(items)} images" for items in series.values())
        raise UnusableInput(f"The folder {folder} holds {len(series)} image series ({found}); give one file of the one that is meant.")
    ((uid, items),) = series.items()
    notes = (f"Left out, because they are scouts (localizers): {listed(scouts)}.",) if scouts else ()
    return _ordered(uid, items, folder, notes)


def series_beside(path, uid, frame=None):
    """The series ``uid`` in the folder of the file ``path``, in a folder within it, or in one beside it; None if it is not there.

    Where ``uid`` is None, the series of the ``frame`` of reference counts, CT before others; UnusableInput if there are several.
    """
    folder = path.resolve().parent
    within, beside = (sorted(p for p in where.iterdir() if p.is_dir()) for where in (folder, folder.parent))
    for candidates in ([folder], within, [p for p in beside if p != folder]):
        found = {}
        for candidate in candidates:
            for header in _headers_near(candidate, path, folder):
                if uid is not None and header.get("SeriesInstanceUID") == uid:
                    return find_series(candidate, uid)
                if uid is None and _is_image(header, frame=frame) and not _is_scout(header):
                    found[str(header.get("SeriesInstanceUID"))] = candidate, header.get("Modality")
        wanted = [one for one in found.items() if one[1][1] == "CT"] or list(found.items())
        if len(wanted) > 1:
            raise UnusableInput(
                f"{path} does not say which series it belongs to, and {len(wanted)} in {listed({where for _, (where, _) in wanted})} "
                "lie in its frame of reference; give the folder of the one that is meant as the reference."
            )
        if wanted:
            ((uid, (where, _)),) = wanted
            return find_series(where, uid)
    return None


def _headers_near(candidate, path, folder):
    try:
        files = [file for file in sorted(candidate.iterdir()) if file.is_file() and file != path.resolve()]
    except PermissionError:
        return
    if candidate != folder:
        files = files[:20]  # another folder holds the series or it does not: do not read a whole disk to know
    yield from (header for file in files if (header := read_header(file)) is not None)


def series_of(path, uid, frame, reference):
    """``(series, notes)`` of the image series that the segmentation ``path`` belongs to; the series is None if it does not lie beside.

    Parameters
    ----------
    uid, frame : str or None
        The series and the frame of reference that ``path`` names.
    reference : path or None
        Where the user says that the series lies. Another series than ``uid`` does, if it lies in the same frame of reference.

    Raises
    ------
    UnusableInput
        If the series is not usable, or the reference holds none that ``path`` can belong to.
    """
    path = Path(path)
    if reference is None:
        series = series_beside(path, uid, frame) if uid or frame else None
    else:
        try:
            series = find_series(reference, uid, None if uid else frame)
        except UnusableInput as error:
            series = find_series(reference)  # what is wrong with the folder itself is said first
            if series.headers[0].get("FrameOfReferenceUID") not in ((frame,) if uid else (frame, None)):
                raise UnusableInput(f"The series in {reference} is not the one that {path} belongs to; give that one.") from error
    if series is None:
        return None, ()
    told = f"the series in {series.files[0].parent}"
    theirs = series.headers[0].get("FrameOfReferenceUID")
    if uid and series.uid != uid:
        return series, (f"{path} was made on another series than {told}, but in the same frame of reference.",)
    if frame and theirs and theirs != frame:
        return series, (f"{path} names another frame of reference than {told}; it was laid on it as its coordinates say.",)
    if not uid:
        fitting = "its frame of reference fits" if frame and theirs else "it was given, and its coordinates were trusted"
        return series, (f"{path} does not name the series that it belongs to; {told} was taken because {fitting}.",)
    return series, ()


def _ordered(uid, items, folder, notes):
    planes = [_plane(file, header) for file, header in items]
    usual = np.median([grid for grid, _ in planes], axis=0)
    if odd := [file for (file, _), (grid, _) in zip(items, planes, strict=True) if np.abs(grid - usual).max() > SAME]:
        raise UnusableInput(
            f"The slices in {folder} differ in size, spacing or orientation ({listed(odd)} from the others); "
            "take what is no slice of this volume, like scouts and other reconstructions, out of the folder."
        )
    # DICOM's pixel spacing is (between rows, between columns), its orientation (along a row, along a column)
    rows, columns, between_rows, between_columns, *directions = planes[0][0]
    row, column = np.reshape(directions, (2, 3))
    normal = np.cross(row, column)
    order = sorted(range(len(items)), key=lambda n: float(planes[n][1] @ normal))
    kept, copies = _without_copies([(*items[n], planes[n][1]) for n in order])
    files, headers, positions = (tuple(part) for part in zip(*kept, strict=True))
    if copies:
        notes += (f"Left out, because they are copies of slices: {listed(copy for _, copy in copies)}.",)
    if len(files) > 1:
        step = _even_step(np.array(positions), normal, files, folder)
    else:
        stated = headers[0].get("SpacingBetweenSlices") or headers[0].get("SliceThickness")
        notes += () if stated else ("The only slice states no thickness; 1 mm was assumed.",)
        step = normal * float(stated or 1.0)
    matrix = np.column_stack([row * between_columns, column * between_rows, step, positions[0]])
    return Series(uid, files, headers, grid_in_lps((len(files), int(rows), int(columns)), matrix, folder), notes, copies)


def _plane(file, header):
    """``(grid, position)`` of a slice: rows, columns, pixel spacing and direction cosines in one array, and where its first pixel lies."""
    with decoding(file, "an image of a place in the body"):
        if int(header.get("NumberOfFrames") or 1) > 1 or header.SOPClassUID == _ENHANCED_CT:
            raise UnusableInput(f"{file} is a multi-frame image; convert it to single slices or save it as NRRD from 3D Slicer.")
        if not all(header.get(tag) for tag in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")):
            raise UnusableInput(f"{file} does not say where it lies in the body; take scouts and screen captures out of the folder.")
        grid = np.array([header.Rows, header.Columns, *header.PixelSpacing, *header.ImageOrientationPatient], dtype=float)
        position = np.array(header.ImagePositionPatient, dtype=float)
        if grid.shape != (10,) or position.shape != (3,) or not (np.isfinite(grid).all() and np.isfinite(position).all()):
            raise ValueError("numbers that are no place")
    return grid, position


def _without_copies(slices):
    """``(slices, copies)``: ``slices`` (file, header, position) without those that have the same instance UID and place as another."""
    kept, copies, seen = [], [], {}
    for file, header, position in slices:
        uid = header.get("SOPInstanceUID")
        original, there = seen.setdefault(uid, (file, position))
        if uid and original != file and np.linalg.norm(position - there) < SAME:
            copies.append((original, file))
        else:
            kept.append((file, header, position))
    return kept, tuple(copies)


def _even_step(positions, normal, files, folder):
    """The vector from one slice to the next; a slice further than a tenth of it from its place is refused."""
    gaps = np.diff(positions @ normal)
    closest = int(np.argmin(gaps))
    if gaps[closest] < SAME:
        raise UnusableInput(
            f"{files[closest]} and {files[closest + 1].name} lie at the same place; "
            "take all but one phase or reconstruction out of the folder."
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    away = np.linalg.norm(positions - positions[0] - np.arange(len(positions))[:, None] * step, axis=1)
    if away.max() > 0.1 * np.linalg.norm(step):
        usual = np.percentile(gaps, 50, method="lower")
        worst = int(np.argmax(np.abs(gaps - usual)))
        where = f"most {usual:.3g} mm apart, but {gaps[worst]:.3g} mm between slices {worst + 1} and {worst + 2}"
        raise UnusableInput(
            f"The slices in {folder} are unevenly spaced ({where}); "
            "add the missing slices, or load the series in 3D Slicer and save it as NRRD."
        )
    return step


def grid_in_lps(shape, matrix, path) -> Geometry:
    """The geometry of a (3, 4) or (4, 4) ``matrix`` in LPS; what is wrong with it is said of ``path``."""
    try:
        return Geometry(shape, LPS_FROM_RAS @ np.vstack([matrix[:3], [0, 0, 0, 1]]))
    except UnusableInput as error:
        raise UnusableInput(f"{path}: {error}") from error


def listed(files, most=3) -> str:
    """Names of ``files``, no more than ``most`` of them."""
    names = sorted(file.name for file in files)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


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
    slices = [_pixels(file) for file in series.files]
    for kept, copy in series.copies:
        if not np.array_equal(slices[series.files.index(kept)], _pixels(copy)):
            raise UnusableInput(f"{kept} and {copy.name} say that they are the same image, but differ; take one of them out of the folder.")
    thickness = series.headers[0].get("SliceThickness")
    return np.stack(slices), series.geometry, {"SliceThickness": str(thickness)} if thickness else {}, series.notes


def _pixels(file):
    try:
        return np.squeeze(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), axis=0)  # GDCM applies slope and intercept
    except (RuntimeError, ValueError) as error:
        raise UnusableInput(f"{file} is damaged or incomplete; copy or export it again.") from error
