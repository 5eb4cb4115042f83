"""Volumes and label maps on their geometry; the only place where geometry is computed.

Arrays are indexed ``(k, j, i)``: slice, row, column. World coordinates are RAS millimetres, as in 3D Slicer; ITK's and DICOM's LPS
appear only at the border (:meth:`Geometry.to_lps`, :func:`geometry_of`, :func:`to_sitk`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import SimpleITK as sitk

from .errors import UnusableInput
from .renumber import LARGEST_LABEL, renumbered, replaced
from .smoothing import smoothed

AIR_HU = -1000
LOWEST_HU = -1024  # what a scanner stores at least; a voxel below it was not measured
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a grid lie.

    Parameters
    ----------
    shape : (k, j, i)
        Number of slices, rows and columns.
    ijk_to_ras : (4, 4) array
        Maps homogeneous voxel indices (i, j, k, 1) of voxel centres to RAS millimetres.

    Raises
    ------
    UnusableInput
        If the matrix is not finite or singular, or the grid is empty.
    """

    shape: tuple[int, int, int]
    ijk_to_ras: np.ndarray

    def __post_init__(self):
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        shape = tuple(int(n) for n in self.shape)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise UnusableInput("The image geometry holds values that are not finite numbers; repair its spacing, origin and directions.")
        if len(shape) != 3 or min(shape) < 1:
            raise UnusableInput(f"The image is not three-dimensional (its shape is {shape}); a stack of slices is needed.")
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        if spacing.min() <= 0:
            raise UnusableInput("The image has a voxel spacing of zero; set the spacing in mm before loading it.")
        if abs(np.linalg.det(matrix[:3, :3] / spacing)) < 1e-3:
            raise UnusableInput("The image's direction matrix is singular, so its voxels have no place in space; repair its directions.")
        matrix.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "ijk_to_ras", matrix)

    @classmethod
    def from_spacing(cls, shape, spacing, origin=(0.0, 0.0, 0.0)) -> Geometry:
        """An axial LPS grid, as a scanner makes it: i runs to the patient's left, j to the back, k to the head.

        ``spacing`` is (i, j, k) in mm, ``origin`` the RAS position of voxel (0, 0, 0).
        """
        matrix = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
        matrix[:3, 3] = origin
        return cls(shape, matrix)

    @property
    def spacing(self) -> np.ndarray:
        """Voxel spacing along (i, j, k) in mm."""
        return np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    @property
    def directions(self) -> np.ndarray:
        """Unit vectors of the i, j and k axes in RAS, as columns."""
        return self.ijk_to_ras[:3, :3] / self.spacing

    @property
    def origin(self) -> np.ndarray:
        """RAS position of the centre of voxel (0, 0, 0) in mm."""
        return self.ijk_to_ras[:3, 3]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.ijk_to_ras[:3, :3])) / 1000.0)

    @property
    def is_left_handed(self) -> bool:
        return bool(np.linalg.det(self.ijk_to_ras[:3, :3]) < 0)

    @property
    def is_sheared(self) -> bool:
        """Whether the axes are not perpendicular to each other (beyond 1e-3)."""
        directions = self.directions
        return bool(np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3)

    @property
    def slice_axis(self) -> int:
        """The array axis (0 = k, 1 = j, 2 = i) that runs most nearly head to foot."""
        return 2 - int(np.argmax(np.abs(self.directions[2])))

    def lattice_origin(self) -> tuple[int, int, int]:
        """Integer position (k, j, i) of voxel (0, 0, 0) on the world's lattice along this grid's own axes and spacing.

        A crop of a grid keeps the lattice positions of its voxels, so what is computed from them does not depend on the crop. The
        fixed offset keeps the rounding away from 0 and 1/2, where origins commonly lie.
        """
        steps = np.linalg.solve(self.ijk_to_ras[:3, :3], self.origin)  # origin in units of (i, j, k) steps
        return tuple(int(n) for n in np.floor(steps + 0.387)[::-1])

    @property
    def anatomical_axes(self) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
        """Array axes (and whether to flip them) that run foot to head, front to back and the patient's right to left.

        ``array.transpose(axes)``, then flipped where the second tuple says so, is as close to an axial stack as the grid allows.
        """
        direction = self.directions[:, ::-1]  # columns for array axes k, j, i
        best = max(permutations(range(3)), key=lambda axes: abs(direction[(2, 1, 0), axes]).sum())
        wanted = ((2, 1), (1, -1), (0, -1))  # (RAS component, sign): to the head, to the back, to the left
        return best, tuple(bool(direction[ras, axis] * sign < 0) for (ras, sign), axis in zip(wanted, best, strict=True))

    def reordered(self, axes, flips) -> Geometry:
        """The geometry of ``array.transpose(axes)`` flipped along the new axes where ``flips`` says so."""
        matrix = np.eye(4)
        matrix[:3, 3] = self.origin
        for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
            step = self.ijk_to_ras[:3, 2 - old]
            matrix[:3, 2 - new] = -step if flip else step
            matrix[:3, 3] += step * (self.shape[old] - 1) if flip else 0
        return Geometry(tuple(self.shape[axis] for axis in axes), matrix)

    def crop(self, start, shape) -> Geometry:
        """The geometry of the sub-grid of ``shape`` that begins at voxel ``start`` (both (k, j, i))."""
        matrix = self.ijk_to_ras.copy()
        matrix[:3, 3] = (self.ijk_to_ras @ np.array([start[2], start[1], start[0], 1.0]))[:3]
        return Geometry(shape, matrix)

    def with_spacing(self, spacing) -> Geometry:
        """The grid over the same box with another ``spacing`` (i, j, k) in mm."""
        spacing = np.asarray(spacing, dtype=np.float64)
        if spacing.shape != (3,) or not np.isfinite(spacing).all() or spacing.min() <= 0:
            raise UnusableInput("A spacing is three positive numbers in mm, for example 0.8,0.8,2.")
        old = self.spacing
        count = np.maximum(1, np.round(np.array(self.shape[::-1]) * old / spacing)).astype(int)
        matrix = self.ijk_to_ras.copy()
        matrix[:3, :3] = self.directions * spacing
        box = np.array(self.shape[::-1]) * old
        # both grids begin at the same voxel corner; a single voxel that is larger than the box lies about its middle
        matrix[:3, 3] += self.directions @ ((np.where(box < spacing, box, spacing) - old) / 2)
        return Geometry(tuple(count[::-1]), matrix)

    def transformed(self, ras_to_ras: np.ndarray) -> Geometry:
        """The same grid moved by a linear transform of RAS space."""
        return Geometry(self.shape, np.asarray(ras_to_ras, dtype=np.float64) @ self.ijk_to_ras)

    def agrees_with(self, other: Geometry, tolerance: float = 1e-4) -> bool:
        """Whether both grids have the same shape and no voxel lies further apart than ``tolerance`` mm."""
        if self.shape != other.shape:
            return False
        corners = np.array([[i, j, k, 1] for i in (0, self.shape[2]) for j in (0, self.shape[1]) for k in (0, self.shape[0])], float)
        return bool(np.abs((self.ijk_to_ras - other.ijk_to_ras) @ corners.T).max() <= tolerance)

    def to_lps(self) -> np.ndarray:
        """The voxel-to-world matrix in LPS millimetres (ITK, DICOM)."""
        return LPS_FROM_RAS @ self.ijk_to_ras


@dataclass(frozen=True)
class Segment:
    """One segment of a label map.

    ``code`` is a coded concept (scheme designator, value, meaning), for example ``("SCT", "10200004", "Liver")``. ``modifier`` is the
    coded laterality, if the file gave one. ``hu`` is a Hounsfield value that the user gave for this segment.

    ``value`` is what the voxels of a :class:`LabelMap` hold, 1 to ``LARGEST_LABEL``. Where the user's own value is larger (an identifier of
    an ontology, say), it is kept as ``own``; whatever is written out or shown has ``label``.
    """

    value: int
    name: str
    code: tuple[str, str, str] | None = None
    modifier: tuple[str, str, str] | None = None
    color: tuple[float, float, float] | None = None
    hu: float | None = None
    own: int | None = None

    @property
    def label(self) -> int:
        """The label value as the user knows it."""
        return self.value if self.own is None else self.own


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume: int16 Hounsfield units ``array`` (k, j, i) on its ``geometry``, with free ``metadata`` (provenance, strings)."""

    array: np.ndarray
    geometry: Geometry
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        _check_shape(self.array, self.geometry)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels ``array`` (k, j, i), 0 outside every segment, on their ``geometry``; ``segments`` says what each value means.

    Raises
    ------
    UnusableInput
        If two segments have one value, or a value does not lie in 1 to ``LARGEST_LABEL``; :meth:`from_labels` renumbers.
    """

    array: np.ndarray
    geometry: Geometry
    segments: tuple[Segment, ...]
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        _check_shape(self.array, self.geometry)
        values = [segment.value for segment in self.segments]
        if len(set(values)) != len(values) or 0 in values:
            raise UnusableInput("Each segment needs its own label value, and 0 is kept for what lies outside all of them.")
        stray = [*values, int(self.array.max()) if self.array.dtype.itemsize > 1 else 0]
        if max(stray) > LARGEST_LABEL or min(stray) < 0:
            wrong = max(stray) if max(stray) > LARGEST_LABEL else min(stray)
            raise UnusableInput(f"The label value {wrong} does not lie in 0 to {LARGEST_LABEL}; use LabelMap.from_labels.")

    @classmethod
    def from_labels(cls, array, geometry: Geometry, segments, metadata=None) -> LabelMap:
        """A label map of labels with any values: those above ``LARGEST_LABEL`` are renumbered, see :mod:`renumber`.

        A voxel of ``array`` (integers, (k, j, i)) whose value no segment has lies outside all of them.
        """
        new = renumbered(segments)
        values = {old.value: segment.value for old, segment in zip(segments, new, strict=True)}
        return cls(replaced(array, values, np.uint16), geometry, new, metadata or {})

    @classmethod
    def from_masks(cls, geometry: Geometry, masks, rank=None, metadata=None) -> LabelMap:
        """Flatten segments that may overlap into one label per voxel.

        Where segments overlap, the one with the higher ``rank`` wins (a finer structure over its parent, see ``anatomy.depth``), and
        among equals the one later in the list, as when 3D Slicer exports a label map.

        Parameters
        ----------
        masks : iterable of (Segment, mask) or (Segment, mask, start)
            ``mask`` is a boolean array of the grid's shape or, with ``start`` (k, j, i), of a part of it.
        rank : callable, optional
            Maps a Segment to a number.
        """
        masks = list(masks)
        new = renumbered([segment for segment, *_ in masks])
        masks = [(segment, *mask) for segment, (_, *mask) in zip(new, masks, strict=True)]
        masks = sorted(masks, key=lambda item: rank(item[0]) if rank else 0)  # stable: later segments stay later
        labels = np.zeros(geometry.shape, dtype=np.uint16)
        for segment, mask, *start in masks:
            begin = start[0] if start else (0, 0, 0)
            window = labels[tuple(slice(b, b + n) for b, n in zip(begin, mask.shape, strict=True))]
            window[mask > 0] = segment.value
        return cls(labels, geometry, tuple(sorted((m[0] for m in masks), key=lambda s: s.value)), metadata or {})

    def mask(self, segment: Segment) -> np.ndarray:
        return self.array == segment.value

    @property
    def labels(self) -> np.ndarray:
        """``array`` with the values that the user knows (:attr:`Segment.label`), for what is written out; int32 where they are large."""
        if all(segment.own is None for segment in self.segments):
            return self.array
        return replaced(self.array, {segment.value: segment.label for segment in self.segments}, np.int32)


def without_padding(hu: np.ndarray) -> np.ndarray:
    """``hu`` with air for what no scanner measures: the -2000 or -3024 that fill the corners around a round field of view, say."""
    return np.where(hu < LOWEST_HU, hu.dtype.type(AIR_HU), hu)


def _check_shape(array, geometry):
    if tuple(array.shape) != geometry.shape:
        raise ValueError(f"array of shape {array.shape} on a grid of shape {geometry.shape}")


def geometry_of(image: sitk.Image) -> Geometry:
    """The geometry of a three-dimensional SimpleITK image."""
    if image.GetDimension() != 3:
        raise UnusableInput(f"The image has {image.GetDimension()} dimensions; a three-dimensional image is needed.")
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return Geometry(image.GetSize()[::-1], LPS_FROM_RAS @ matrix)


def to_sitk(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """``array`` (k, j, i) as a SimpleITK image in LPS. The directions of a sheared geometry are kept as they are."""
    image = sitk.GetImageFromArray(array)
    lps = geometry.to_lps()
    spacing = geometry.spacing
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def reorder(array: np.ndarray, axes, flips) -> np.ndarray:
    """``array`` with its axes permuted and flipped as :attr:`Geometry.anatomical_axes` says (a view)."""
    return np.flip(array.transpose(axes), [n for n, flip in enumerate(flips) if flip])


def restore(array: np.ndarray, axes, flips) -> np.ndarray:
    """Undo :func:`reorder` (a view)."""
    return np.flip(array, [n for n, flip in enumerate(flips) if flip]).transpose(np.argsort(axes))


def resample(array: np.ndarray, source: Geometry, target: Geometry, *, labels: bool = False, outside: float = 0) -> np.ndarray:
    """``array`` on ``source`` brought to ``target``: linear for images, nearest neighbour for ``labels``; ``outside`` fills the rest.

    Images are averaged first where the target is coarser, so that noise does not alias.
    """
    if source.agrees_with(target):
        return array
    image = to_sitk(array, source)
    if not labels:
        image = sitk.Cast(image, sitk.sitkFloat32)  # between integers the filter would cut off, not round
        # how far the target's voxels lie apart along each axis of the source, whatever way the target's axes run
        ratio = np.linalg.norm(source.directions.T @ target.ijk_to_ras[:3, :3], axis=1) / source.spacing
        image = smoothed(image, np.where(ratio > 1.2, 0.4 * np.sqrt(np.maximum(ratio**2 - 1, 0)) * source.spacing, 0))
    lps = target.to_lps()
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize([int(n) for n in target.shape[::-1]])
    filter_.SetOutputSpacing(target.spacing.tolist())
    filter_.SetOutputOrigin(lps[:3, 3].tolist())
    filter_.SetOutputDirection((lps[:3, :3] / target.spacing).ravel().tolist())
    filter_.SetInterpolator(sitk.sitkNearestNeighbor if labels else sitk.sitkLinear)
    filter_.SetDefaultPixelValue(float(outside))
    result = sitk.GetArrayFromImage(filter_.Execute(image))
    if np.issubdtype(array.dtype, np.integer) and not labels:
        result = np.rint(result)
    return result.astype(array.dtype, copy=False)


def resample_labels(array: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Labels on ``source`` brought to ``target``, smoothly where that is finer; 0 outside.

    Nearest neighbours would leave the old grid's stairs on a finer one. There the distance from each label is interpolated and the nearest
    label wins; label by label within its own box, so that a hundred labels cost little more than a few.
    """
    steps = np.abs(source.directions.T @ target.directions * target.spacing).max(axis=1) / source.spacing
    if source.agrees_with(target) or steps.min() > 0.8:
        return resample(array, source, target, labels=True)
    nearest = np.full(target.shape, np.inf, np.float32)
    result = np.zeros(target.shape, array.dtype)
    boxes = _label_boxes(array)
    for value, (start, stop) in boxes.items():
        stop = np.minimum(stop + 2, array.shape)  # two voxels around it: exact as far as neighbours compete, and the grid's own border is
        start = np.maximum(start - 2, 0)  # no border of the label
        mask = array[tuple(map(slice, start, stop))] == value
        part = source.crop(start, mask.shape)
        distance = distance_mm(mask, part.spacing)
        for window, geometry in _windows(part, target):
            there = resample(distance, part, geometry, outside=np.inf)
            nearer = there < nearest[window]
            result[window][nearer] = value
            nearest[window][nearer] = there[nearer]
    return result


def _label_boxes(array: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Label value (0 too) -> first voxel (k, j, i) of its bounding box, and one past its last."""
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.SetBackgroundValue(-1)
    shapes.Execute(sitk.Cast(sitk.GetImageFromArray(array), sitk.sitkInt32))
    boxes = {int(value): np.array(shapes.GetBoundingBox(value)) for value in shapes.GetLabels()}
    return {value: (box[2::-1], box[2::-1] + box[:2:-1]) for value, box in boxes.items()}


def distance_mm(mask: np.ndarray, spacing) -> np.ndarray:
    """Distance of each voxel from the nearest one of ``mask`` in mm, float32."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing.tolist())
    distance = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True))
    distance[mask] = 0  # the filter measures from the border, inside as well
    return distance


def _windows(part: Geometry, target: Geometry):
    """The slices of ``target`` that ``part`` reaches, in portions of at most 16 million voxels: (window, its geometry)."""
    corners = np.array([[i, j, k, 1] for i in (-1, part.shape[2]) for j in (-1, part.shape[1]) for k in (-1, part.shape[0])], float)
    reached = (np.linalg.solve(target.ijk_to_ras, part.ijk_to_ras) @ corners.T)[2::-1]
    first = np.clip(np.floor(reached.min(axis=1)), 0, target.shape).astype(int)
    last = np.clip(np.ceil(reached.max(axis=1)) + 1, first, target.shape).astype(int)
    if (last == first).any():
        return
    portion = max(int(16e6 // np.prod(last[1:] - first[1:])), 1)
    for k in range(first[0], last[0], portion):
        begin, end = (k, *first[1:]), (min(k + portion, last[0]), *last[1:])
        yield tuple(map(slice, begin, end)), target.crop(begin, np.subtract(end, begin))
