"""Chest scans for the nodule experiment, and the nodules that are known in them, from folders as the collections publish them.

A folder may hold, at once or alone:

- cases as everywhere in this project: ``NAME/ct.nrrd``, with ``segmentation.nrrd`` + ``labels.json`` that name a nodule, tumour or GTV;
- LIDC-IDRI as downloaded: ``LIDC-IDRI-0001/STUDY/SERIES/*.dcm`` with LIDC's XML in the folder of the series;
- LUNA16: ``annotations.csv`` and ``SERIES-UID.mhd`` at any depth;
- DICOM series without annotations, NLST for one: ``PERSON/STUDY/SERIES/*.dcm``;
- single volumes, as ``ctsynthesis volume`` writes them: ``NAME.nrrd`` (or ``.nii``, ``.nii.gz``, ``.mha``).

A scan without annotations counts as free of nodules, as paper 004 takes NLST's scans; whoever gives the folder vouches for that.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import UnusableInput
from ..files import read_segmentation, read_volume
from ..files.lidc import read_lidc
from ..files.luna16 import read_luna16
from ..regions import REGIONS, segment_regions
from ..volume import Geometry, Volume, resample

LESION = re.compile(r"nodule|tumou?r|lesion|(?<![a-z])gtv", re.IGNORECASE)  # target volumes with a margin (CTV, PTV) are not the lesion
OTHER_FILES = (".xml", ".csv", ".json", ".txt", ".nrrd", ".npy", ".npz", ".mhd", ".raw", ".nii", ".gz", ".png")
SINGLE = (".nii.gz", ".nrrd", ".nii", ".mha")
READERS = 2  # of LIDC's, that have to agree on a nodule
LUNG_GRID = 3.0  # mm; where the lungs are found
FEWEST_LUNG_ML = 100.0
INSIDE_MM = 4.0  # a nodule's centre lies at least so deep in the lung


@dataclass(frozen=True)
class Lesion:
    """A nodule that people marked: its centre in RAS mm and the diameter of the ball of its volume."""

    centre: tuple[float, float, float]
    diameter_mm: float


@dataclass(frozen=True)
class Scan:
    """One scan; ``person`` keeps all scans of one person on the same side of a split."""

    name: str
    person: str
    path: Path
    lesions: tuple[Lesion, ...] = ()

    def read(self) -> Volume:
        """The CT in axial LPS order of its file, HU."""
        return read_volume(self.path)


def find_scans(data, report=print) -> list[Scan]:
    """Every chest scan below ``data``, by name; what cannot be used is told to ``report`` and left out.

    Raises
    ------
    UnusableInput
        If there is none.
    """
    data = Path(data)
    if not data.is_dir():
        raise UnusableInput(f"There is no folder {data}; name one with cases (NAME/ct.nrrd), LIDC-IDRI, LUNA16 or other DICOM series.")
    scans: list[Scan] = []
    for path in sorted(data.glob("*/ct.nrrd")) or sorted(data.glob("ct.nrrd")):
        scans.append(Scan(path.parent.name, path.parent.name, path, _outlined(path.parent)))
    scans += _luna16(data)
    for path in sorted(data.iterdir()):
        if path.name.lower().endswith(SINGLE) and ".seg." not in path.name and path.name != "segmentation.nrrd" and path.stem != "ct":
            name = path.name[: -len(next(ending for ending in SINGLE if path.name.lower().endswith(ending)))]
            scans.append(Scan(name, name, path))
    taken = {scan.path.parent for scan in scans}
    for folder, _, names in sorted(os.walk(data)):
        folder = Path(folder)
        if folder not in taken and (scan := _series(data, folder, sorted(names), report)) is not None:
            scans.append(scan)
    if not scans:
        raise UnusableInput(
            f"{data} holds no scan: neither NAME/ct.nrrd nor SERIES.mhd beside LUNA16's annotations.csv nor DICOM series of CT."
        )
    return sorted(scans, key=lambda scan: scan.name)


def _outlined(folder: Path) -> tuple[Lesion, ...]:
    """Connected parts of what a case's segmentation calls a lesion."""
    path = next((folder / name for name in ("segmentation.nrrd", "segmentation.seg.nrrd") if (folder / name).is_file()), None)
    if path is None:
        return ()
    labelmap = read_segmentation(path)
    values = [segment.value for segment in labelmap.segments if LESION.search(segment.name)]
    if not values:
        return ()
    mask = sitk.GetImageFromArray(np.isin(labelmap.array, values).astype(np.uint8))
    parts = sitk.GetArrayFromImage(sitk.ConnectedComponent(mask, True))
    return tuple(_lesion(parts == value, labelmap.geometry) for value in range(1, int(parts.max()) + 1))


def _lesion(mask, geometry: Geometry) -> Lesion:
    ijk = np.argwhere(mask).mean(0)[::-1]
    centre = (geometry.ijk_to_ras @ [*ijk, 1.0])[:3]
    return Lesion(tuple(float(n) for n in centre), float((6 * mask.sum() * geometry.voxel_ml * 1000 / np.pi) ** (1 / 3)))


def _luna16(data: Path) -> list[Scan]:
    tables = sorted(data.rglob("annotations.csv"))
    if not tables:
        return []
    found = read_luna16(tables[0])
    scans = []
    for path in sorted(data.rglob("*.mhd")):
        lesions = tuple(Lesion(f.centre_ras, f.diameter_mm) for f in found.get(path.stem, ()) if f.diameter_mm)
        scans.append(Scan(path.stem, path.stem, path, lesions))
    return scans


def _series(data: Path, folder: Path, names, report) -> Scan | None:
    """The CT series in ``folder``, or None; LIDC's XML may lie in it."""
    from ..files.dicom_series import is_dicom, read_header

    images = (name for name in names if not name.startswith(".") and not name.lower().endswith(OTHER_FILES))
    first = next((folder / name for name in images), None)
    if first is None or not is_dicom(first) or (header := read_header(first)) is None or header.get("Modality") != "CT":
        return None
    where = folder.relative_to(data)
    person = where.parts[0] if where.parts else folder.name
    lesions: tuple[Lesion, ...] = ()
    for xml in (folder / name for name in names if name.lower().endswith(".xml")):
        try:
            reading = read_lidc(xml, series=folder)
        except UnusableInput as error:
            report(f"note: {person} is left out: {error}")
            return None
        lesions += tuple(Lesion(n.centre_ras, n.diameter_mm) for n in reading.nodules if n.readers >= READERS)
    return Scan("-".join(where.parts) or folder.name, person, folder, lesions)


@dataclass(frozen=True, eq=False)
class Lungs:
    """Where in a scan a nodule may lie: ``places`` (n, 3) in RAS mm, on a grid of 3 mm, and their bounding box's centre."""

    places: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        return (self.places.min(0) + self.places.max(0)) / 2


def find_lungs(volume: Volume) -> Lungs | None:
    """The lungs' inside, at least ``INSIDE_MM`` from their border and outside large vessels; None where there are no lungs to speak of."""
    geometry = volume.geometry.with_spacing((LUNG_GRID,) * 3)
    coarse = Volume(resample(volume.array, volume.geometry, geometry, outside=-1024), geometry)
    try:
        labels = segment_regions(coarse).array
    except UnusableInput:
        return None
    lungs, vessels = (labels == next(s.value for s in REGIONS if s.name == name) for name in ("lungs", "lung_vessels"))
    if lungs.sum() * geometry.voxel_ml < FEWEST_LUNG_ML:
        return None
    image = sitk.GetImageFromArray((lungs | vessels).astype(np.uint8))
    image.SetSpacing(geometry.spacing.tolist())
    depth = -sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True))
    kji = np.argwhere(lungs & (depth >= INSIDE_MM))
    if not len(kji):
        return None
    return Lungs((kji[:, ::-1] @ geometry.ijk_to_ras[:3, :3].T + geometry.origin).astype(np.float32))
