"""Reading the annotations of the Lung Image Database Consortium (LIDC-IDRI): nodules that up to four readers outlined in XML.

An outline is a chain of pixels of the series' own matrix, slice by slice; the slices are named by their z position. It runs along the
first pixels *outside* the nodule (LIDC XML documentation, 2009), so the mask is what it encloses, without it. The XML does not say how
large a pixel is: the DICOM series is needed, or its geometry.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UnusableInput
from ..volume import Geometry, LabelMap, Segment, resample_labels
from .rtstruct import fill_even_odd

NODULE = ("SCT", "27925004", "Nodule")
SMALL, NON_NODULE = "nodule < 3 mm", "non-nodule"
MATRIX = 512  # pixels a side of every LIDC slice


@dataclass(frozen=True, eq=False)
class Outline:
    """What one reader drew of one nodule, as a mask (k, j, i) that begins at voxel ``start`` of the series' grid."""

    reader: int
    name: str
    mask: np.ndarray
    start: tuple[int, int, int]
    characteristics: dict[str, int]  # subtlety, margin, lobulation, spiculation, texture, malignancy, ...: ratings from 1


@dataclass(frozen=True)
class Mark:
    """A single point that one reader set: a nodule below 3 mm, or something of at least 3 mm that is no nodule."""

    kind: str  # SMALL or NON_NODULE
    reader: int
    centre_ijk: tuple[float, float, float]
    centre_ras: tuple[float, float, float]  # mm


@dataclass(frozen=True, eq=False)
class Nodule:
    """One nodule of at least 3 mm: the outlines of different readers that share voxels."""

    outlines: tuple[Outline, ...]
    geometry: Geometry

    @cached_property
    def readers(self) -> int:
        return len({outline.reader for outline in self.outlines})

    @cached_property
    def _masks(self) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Each reader's mask (reader, k, j, i) in the box around all of them, and the voxel where the box begins."""
        start = np.min([o.start for o in self.outlines], axis=0)
        stop = np.max([np.add(o.start, o.mask.shape) for o in self.outlines], axis=0)
        rows = sorted({outline.reader for outline in self.outlines})
        masks = np.zeros((len(rows), *(stop - start)), bool)
        for outline in self.outlines:
            window = tuple(slice(b, b + n) for b, n in zip(np.subtract(outline.start, start), outline.mask.shape, strict=True))
            masks[rows.index(outline.reader)][window] |= outline.mask
        return masks, tuple(int(n) for n in start)

    def consensus(self, at_least: int = 2) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Mask (k, j, i) of what at least so many readers outlined, and the voxel of the series' grid where it begins."""
        masks, start = self._masks
        return masks.sum(0) >= at_least, start

    @cached_property
    def _core(self):
        """The consensus of two; of one, where only one reader drew it or no two share a voxel."""
        mask, start = self.consensus(min(2, self.readers))
        return (mask, start) if mask.any() else self.consensus(1)

    @property
    def centre_ijk(self) -> tuple[float, float, float]:
        """Centre of mass in voxel indices (i, j, k) of the series' grid."""
        mask, start = self._core
        return tuple(float(n) for n in (np.argwhere(mask).mean(0) + start)[::-1])

    @property
    def centre_ras(self) -> tuple[float, float, float]:
        """The same in RAS mm."""
        return _to_ras(self.geometry, self.centre_ijk)

    @property
    def diameter_mm(self) -> float:
        """Diameter of the ball with the readers' mean volume, as LUNA16 takes it."""
        volume = self._masks[0].sum((1, 2, 3)).mean() * self.geometry.voxel_ml * 1000
        return float((6 * volume / np.pi) ** (1 / 3))


@dataclass(frozen=True, eq=False)
class LidcReading:
    """All that the readers of one scan marked, on the series' own grid ``geometry``."""

    series_uid: str
    geometry: Geometry
    readers: int
    nodules: tuple[Nodule, ...]
    marks: tuple[Mark, ...]
    notes: tuple[str, ...] = ()

    @property
    def small_nodules(self) -> tuple[Mark, ...]:
        return tuple(mark for mark in self.marks if mark.kind == SMALL)

    @property
    def non_nodules(self) -> tuple[Mark, ...]:
        return tuple(mark for mark in self.marks if mark.kind == NON_NODULE)

    def labelmap(self, geometry: Geometry | None = None, at_least: int = 2) -> LabelMap:
        """Nodules that at least so many readers outlined, one segment each, on a CT's ``geometry`` (default: the series' own grid).

        Nodules on which too few readers agree get no segment.
        """
        array, segments = np.zeros(self.geometry.shape, np.uint16), []
        for nodule in self.nodules:
            mask, start = nodule.consensus(at_least)
            if mask.any():
                value = len(segments) + 1
                array[tuple(slice(b, b + n) for b, n in zip(start, mask.shape, strict=True))][mask] = value
                segments.append(Segment(value, f"nodule {value}", code=NODULE))
        if geometry is not None and not geometry.agrees_with(self.geometry):
            array = resample_labels(array, self.geometry, geometry)
        return LabelMap(array, geometry or self.geometry, tuple(segments))


def read_lidc(path, *, series=None) -> LidcReading:
    """Read LIDC's XML file ``path``.

    Parameters
    ----------
    series : path or Geometry, optional
        The CT series that was read: its DICOM folder, its volume as a file with LIDC's full 512 × 512 matrix, or its geometry. By itself
        the DICOM series is found in the folder of the XML or beside it, as LIDC packs them. A cropped or resampled CT does not do here:
        read with the original's geometry, then ask :meth:`LidcReading.labelmap` for the masks on the CT's grid.

    Raises
    ------
    UnusableInput
        If ``path`` is no LIDC annotation of a CT, its series is missing, or an outline lies outside it.
    """
    path = Path(path)
    root = _root(path)
    uid = (root.findtext("ResponseHeader/SeriesInstanceUid") or "").strip()
    geometry, notes = _geometry(path, uid, series)
    _check(geometry, path)
    outlines, marks, dropped = [], [], 0
    sessions = root.findall("readingSession")
    for reader, session in enumerate(sessions, start=1):
        for item in session.findall("unblindedReadNodule"):
            rois = item.findall("roi")
            points = [_points(roi, "edgeMap", path) for roi in rois]
            if sum(map(len, points)) == 1 and len(rois) == 1:  # LIDC outlines nothing below 3 mm: it sets one point
                marks.append(_mark(SMALL, reader, points[0][0], rois[0], geometry, path))
            elif (outline := _outline(item, reader, rois, points, geometry, path)) is not None:
                outlines.append(outline)
            else:
                dropped += 1
        for item in session.findall("nonNodule"):
            marks += [_mark(NON_NODULE, reader, point, item, geometry, path) for point in _points(item, "locus", path)]
    nodules = tuple(Nodule(tuple(group), geometry) for group in _groups(outlines))
    notes += (f"Left out, because they enclose no pixel: {dropped} outlines in {path.name}.",) if dropped else ()
    return LidcReading(uid, geometry, len(sessions), nodules, tuple(marks), notes)


def read_consensus(path, *, reference=None):
    """``(labelmap, notes)`` of the nodules that at least two readers outlined, as ``read_segmentation`` wants them."""
    reading = read_lidc(path, series=reference)
    labelmap = reading.labelmap()
    alone = len(reading.nodules) - len(labelmap.segments)
    notes = (f"Left out, because no two readers agree on them: {alone} of {len(reading.nodules)} nodules in {Path(path).name}.",)
    notes = notes if alone else ()
    return labelmap, reading.notes + notes


def _root(path):
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise UnusableInput(f"There is no file {path}; check its name.") from None
    except (ElementTree.ParseError, UnicodeDecodeError, OSError) as error:
        raise UnusableInput(f"{path} cannot be read as XML ({error}); download or copy it again.") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # every release of LIDC has another namespace
    if root.tag == "IdriReadMessage":
        raise UnusableInput(f"{path} annotates a chest radiograph; give the XML file of a CT series (LidcReadMessage).")
    if root.tag != "LidcReadMessage" or root.find("readingSession") is None:
        raise UnusableInput(f"{path} is not an annotation file of LIDC (a LidcReadMessage with readingSession); give LIDC's own XML.")
    return root


def _geometry(path, uid, series) -> tuple[Geometry, tuple[str, ...]]:
    if isinstance(series, Geometry):
        return series, ()
    from .dicom_series import find_series, series_beside

    if series is None:
        found = series_beside(path, uid)
        if found is None:
            raise UnusableInput(
                f"The CT series that {path} annotates does not lie beside it, and the XML does not tell the size of a pixel; "
                "give the folder of its DICOM series."
            )
        return found.geometry, found.notes
    series = Path(series)
    if series.is_file() and series.suffix.lower() not in (".dcm", ".dicom", ""):
        from . import read_volume

        return read_volume(series).geometry, ()
    try:
        found = find_series(series, uid)
    except UnusableInput as error:
        raise UnusableInput(f"{path} annotates the series {uid}: {error}") from error
    return found.geometry, found.notes


def _check(geometry, path):
    """LIDC's pixel numbers mean something only on the grid they were drawn on."""
    if geometry.shape[1:] != (MATRIX, MATRIX):
        size = f"{geometry.shape[2]} × {geometry.shape[1]}"
        raise UnusableInput(
            f"{path} counts pixels of LIDC's {MATRIX} × {MATRIX} slices, but the CT has {size} and was cropped or resampled; "
            "give the folder of the original DICOM series."
        )
    if not np.allclose(geometry.directions, np.diag([-1, -1, 1]), atol=1e-2):  # i to the left, j to the back, k to the head
        raise UnusableInput(f"The CT that belongs to {path} is not an axial stack from feet to head; give the original DICOM series.")


def _points(item, tag, path) -> list[tuple[int, int]]:
    try:
        return [(round(float(p.findtext("xCoord"))), round(float(p.findtext("yCoord")))) for p in item.findall(tag)]
    except (TypeError, ValueError, OverflowError) as error:
        raise UnusableInput(f"{path} is damaged: a point in it has no coordinates; download or copy it again.") from error


def _slice_of(item, geometry, path) -> int:
    """Index k of the slice at the z position of ``item``, at most half a slice away."""
    try:
        z = float(item.findtext("imageZposition"))
        if not np.isfinite(z):
            raise ValueError("not a height")
    except (TypeError, ValueError) as error:
        raise UnusableInput(f"{path} is damaged: an outline in it has no slice position; download or copy it again.") from error
    position = (z - geometry.origin[2]) / geometry.spacing[2]
    k = int(np.floor(position + 0.5))
    if not 0 <= k < geometry.shape[0] or abs(position - k) > 0.45:
        low, high = geometry.origin[2], geometry.origin[2] + geometry.spacing[2] * (geometry.shape[0] - 1)
        raise UnusableInput(
            f"{path} has an outline at z = {z:g} mm, where the CT (z from {low:g} to {high:g} mm) has no slice; "
            "give the series that it annotates."
        )
    return k


def _mark(kind, reader, point, item, geometry, path) -> Mark:
    ijk = (float(point[0]), float(point[1]), float(_slice_of(item, geometry, path)))
    return Mark(kind, reader, ijk, _to_ras(geometry, ijk))


def _outline(item, reader, rois, points, geometry, path) -> Outline | None:
    """Fill every slice's outline; those with ``inclusion`` FALSE are holes, and their own pixels belong to the nodule."""
    everything = np.array([p for chain in points for p in chain]).reshape(-1, 2)
    if not len(everything):
        return None
    if everything.min() < 0 or everything.max() >= MATRIX:
        raise UnusableInput(f"{path} has an outline outside the {MATRIX} × {MATRIX} pixels of its slices; download or copy it again.")
    low, high = everything.min(0), everything.max(0)
    slices = [_slice_of(roi, geometry, path) for roi in rois]
    mask = np.zeros((max(slices) - min(slices) + 1, *(high - low + 1)[::-1]), bool)
    for inclusion in (True, False):
        for roi, k, chain in zip(rois, slices, points, strict=True):
            if chain and ((roi.findtext("inclusion") or "TRUE").strip().upper() == "TRUE") == inclusion:
                polygon = np.array(chain) - low
                inside = fill_even_odd([polygon.astype(float)], mask.shape[1:])
                inside[polygon[:, 1], polygon[:, 0]] = False
                plane = mask[k - min(slices)]
                plane[inside] = inclusion
    if not mask.any():
        return None
    kept = tuple(slice(n.min(), n.max() + 1) for n in np.nonzero(mask))
    start = tuple(int(one.start + n) for one, n in zip(kept, (min(slices), low[1], low[0]), strict=True))
    ratings = {one.tag: int(one.text) for one in item.findall("characteristics/*") if (one.text or "").strip().isdigit()}
    return Outline(reader, item.findtext("noduleID") or "", mask[kept], start, ratings)


def _groups(outlines) -> list[list[Outline]]:
    """Outlines that share a voxel, directly or through others, belong to one nodule."""
    groups: list[list[Outline]] = []
    for outline in outlines:
        touched = [group for group in groups if any(_overlap(outline, other) for other in group)]
        groups = [group for group in groups if group not in touched] + [[one for group in touched for one in group] + [outline]]
    return sorted(groups, key=lambda group: outlines.index(group[0]))


def _overlap(a: Outline, b: Outline) -> bool:
    low = np.maximum(a.start, b.start)
    high = np.minimum(np.add(a.start, a.mask.shape), np.add(b.start, b.mask.shape))
    if (high <= low).any():
        return False
    one, two = (o.mask[tuple(slice(lo - s, hi - s) for lo, hi, s in zip(low, high, o.start, strict=True))] for o in (a, b))
    return bool((one & two).any())


def _to_ras(geometry, ijk) -> tuple[float, float, float]:
    return tuple(float(n) for n in (geometry.ijk_to_ras @ np.array([*ijk, 1.0]))[:3])
