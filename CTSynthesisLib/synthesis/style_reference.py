"""What is styled after what: the request for a style, the reference scan, and which of its structures stands for each of the content's."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..anatomy import Tissue, Understood, ancestors, closeness, understand
from ..errors import UnusableInput
from ..regions import segment_regions
from ..volume import AIR_HU, Geometry, LabelMap, Volume, reorder, resample, resample_labels

FEWEST_VOXELS = 300  # of a structure in the slices of the reference that are measured
SLAB, SLABS = 6, 3  # slices side by side, and how many such slabs of the reference are measured
STANDS_FOR = {Tissue.LUNG: "lungs", Tissue.FAT: "fat", Tissue.MUSCLE: "soft_tissue", Tissue.BONE: "bone", Tissue.BLOOD: "blood",
              Tissue.GAS: "bowel_gas"}  # fmt: skip
NO_STYLE = (Tissue.AIR, Tissue.BODY)


@dataclass(frozen=True)
class Style:
    """What to style, and how much.

    Attributes
    ----------
    structures : tuple of str
        Segments or structures of the content; empty for all that the reference shows.
    strength : float
        From 0 (content as it is) to 1 (the reference's style).
    strengths : dict
        The same for single structures, by segment or structure name.
    refine : int
        Steps of the slow path: optimising the image against the paper's losses.
    """

    structures: tuple[str, ...] = ()
    strength: float = 1.0
    strengths: dict[str, float] | None = None
    refine: int = 0

    def __post_init__(self):
        for name, value in (("", self.strength), *(self.strengths or {}).items()):
            if not 0 <= value <= 1:
                of = f" for {name}" if name else ""
                raise UnusableInput(f"A strength of {value:g}{of} is outside 0-1; 0 keeps the content, 1 is the whole style.")
        if not 0 <= self.refine <= 10_000:
            raise UnusableInput(f"{self.refine} steps of refinement are not usable; give a number from 0 to 10000.")


@dataclass(frozen=True, eq=False)
class Reference:
    """A scan whose style is taken, with its structures; make it with :func:`reference_of`."""

    scan: Volume
    labelmap: LabelMap
    understood: tuple[Understood, ...]
    name: str
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> bytes:
        """The same for the same voxels, labels and meanings, whatever the name."""
        own = [(u.segment.value, u.segment.name, u.structure.name) for u in self.understood]
        return digest(self.scan.array, self.scan.geometry.ijk_to_ras, self.labelmap.array, own)


class Kept:
    """The last few results of something slow, by key."""

    def __init__(self, most: int):
        self._most, self._results = most, OrderedDict()

    def get(self, key, make: Callable[[], Any]):
        if key not in self._results:
            self._results[key] = make()
            while len(self._results) > self._most:
                self._results.popitem(last=False)
        self._results.move_to_end(key)
        return self._results[key]


def digest(*parts) -> bytes:
    """SHA-256 of arrays and of whatever prints as it is."""
    result = hashlib.sha256()
    for part in parts:
        array = isinstance(part, np.ndarray)
        result.update(repr((part.shape, part.dtype.str) if array else part).encode())
        result.update(np.ascontiguousarray(part).data if array else b"")
    return result.digest()


_regions = Kept(2)  # a label map each


@dataclass(frozen=True)
class Chosen:
    """A segment of the content that is styled, and what of the reference it is styled after."""

    item: Understood
    values: tuple[int, ...]  # of the reference's label map
    strength: float


def reference_of(
    scan: Volume, name: str, labelmap: LabelMap | None = None, *, names: dict[str, str] | None = None, regions: LabelMap | None = None
) -> Reference:
    """The style reference: a CT and its own segmentation, or its tissue ``regions`` where it has none; they are found if not given.

    Raises
    ------
    UnusableInput
        If the scan holds no Hounsfield units, or the two do not overlap.
    """
    check_hounsfield(scan, f"The style scan {name}")
    notes = []
    if labelmap is None:
        key = digest(scan.array, scan.geometry.ijk_to_ras)
        labelmap = regions or _regions.get(key, lambda: segment_regions(scan))
        labelmap = replace(labelmap, geometry=scan.geometry)
        notes.append(f"{name} came without a segmentation; its tissue regions were found by `segment`.")
    labelmap, note = on_grid_of(scan.geometry, labelmap, f"the style scan {name}")
    understood = tuple(understand(labelmap.segments, names=names))
    present = set(np.unique(labelmap.array).tolist())
    return Reference(scan, labelmap, tuple(u for u in understood if u.segment.value in present), name, (*notes, *([note] if note else [])))


def check_hounsfield(scan: Volume, what: str) -> None:
    """Raise UnusableInput if a volume does not hold Hounsfield units: no CT lacks what is emptier than fat, or holds such extremes."""
    values = scan.array[scan.array > -1500]  # padding is often -2000 or -3024
    low, high = (float(v) for v in np.percentile(values[::17], (0.5, 99.9))) if values.size else (0.0, 0.0)
    if low > -50 or high < 20 or high > 20000:
        raise UnusableInput(f"{what} does not look like CT: its values run from {low:g} to {high:g}, and Hounsfield units reach from air "
                            "or fat (below -50) to soft tissue and bone; choose a CT in HU.")  # fmt: skip


def on_grid_of(geometry: Geometry, labelmap: LabelMap, what: str) -> tuple[LabelMap, str]:
    """``labelmap`` on ``geometry``, and the sentence that says so if it had to be resampled.

    Raises
    ------
    UnusableInput
        If nothing of it lies there.
    """
    if labelmap.geometry.agrees_with(geometry, tolerance=0.01):
        return replace(labelmap, geometry=geometry), ""
    array = resample_labels(labelmap.array, labelmap.geometry, geometry)
    if not array.any():
        raise UnusableInput(f"The segmentation does not overlap {what}; choose one of the same patient and frame.")
    return LabelMap(array, geometry, labelmap.segments, labelmap.metadata), f"The segmentation was resampled to the grid of {what}."


def choose(understood: Iterable[Understood], reference: Reference, style: Style) -> tuple[tuple[Chosen, ...], tuple[str, ...]]:
    """Which segments are styled after what, and sentences on those that cannot be.

    A structure takes the style of the same structure in the reference or of its parts, else of the nearest that it is part of, else of the
    tissue region that stands for its kind. Structures that the anatomy table does not tell apart, such as ribs, share a style.

    Raises
    ------
    UnusableInput
        If a structure that was asked for is not in the content or not in the reference.
    """
    understood, strengths = tuple(understood), style.strengths or {}
    asked = [*style.structures, *strengths]
    meant = {name: [u for u in understood if closeness(name, u.segment, u.structure) is not None] for name in asked}
    if missing := [name for name, members in meant.items() if not members]:
        raise UnusableInput(f"The content has no structure '{missing[0]}'; it has {_listed(u.segment.name for u in understood)}.")
    chosen, without = [], []
    for u in understood:
        if style.structures and not any(u in meant[name] for name in style.structures):
            continue
        values = () if u.structure.tissue in NO_STYLE else counterpart(u, reference.understood)
        if not values:
            without.append(u.segment.name)
            continue
        _, own = max(((closeness(name, u.segment, u.structure), value) for name, value in strengths.items() if u in meant[name]),
                     key=lambda one: one[0], default=(None, style.strength))  # fmt: skip
        chosen.append(Chosen(u, values, own))
    for name in style.structures:
        if not any(one.item in meant[name] for one in chosen):
            exist = _listed(v.segment.name for v in reference.understood)
            raise UnusableInput(f"The style scan {reference.name} shows no {name}; it has {exist}.")
    if not chosen:
        raise UnusableInput(f"The style scan {reference.name} shows none of the content's structures; it has "
                            f"{_listed(v.segment.name for v in reference.understood)}.")  # fmt: skip
    sentences = (f"The style scan shows no {_listed(without)}, so these keep the content's look.",) if without else ()
    return tuple(chosen), sentences


def counterpart(u: Understood, reference: Iterable[Understood]) -> tuple[int, ...]:
    reference = [v for v in reference if v.structure.tissue not in NO_STYLE]
    if u.how == "not understood":
        return ()
    line = [u.structure, *(a for a in ancestors(u.structure) if a.tissue is u.structure.tissue)]
    line = [s for s in line[1:] if s.hu == u.structure.hu][-1:] + line  # a rib is styled after the ribs: the table knows no difference
    names = [*(s.name for s in line), STANDS_FOR.get(u.structure.tissue, "")]
    for name in names:
        found = [v for v in reference if v.structure.name == name or name in (a.name for a in ancestors(v.structure))]
        found = [v for v in found if v.structure.tissue is u.structure.tissue or v.structure.name == name]
        if found:
            return tuple(v.segment.value for v in found)
    return ()


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# ------------------------------------------------------------------------------------------------------------ its slices


@dataclass(frozen=True, eq=False)
class Slabs:
    """The slices of a scan that are measured, one slab after the other, on the in-plane grid that the result has."""

    hu: np.ndarray  # (n, H, W) float32
    labels: np.ndarray
    geometries: tuple[Geometry, ...]  # one a slab
    apart: float  # mm between slices of a slab

    @property
    def firsts(self) -> np.ndarray:
        """Where each slab begins."""
        return np.cumsum([0, *(g.shape[0] for g in self.geometries[:-1])])


def slabs_of(scan: Volume, labelmap: LabelMap, groups: Iterable[tuple[int, ...]], spacing) -> Slabs:
    """Slabs over all of the scan where any of the ``groups`` of label values lies, and one more for each group that they miss.

    ``spacing`` (i, j, …) is the in-plane grid in mm that the scan is brought to; its slices stay what they are.
    """
    axes, flips = scan.geometry.anatomical_axes
    axial = scan.geometry.reordered(axes, flips)
    hu, labels = reorder(scan.array, axes, flips), reorder(labelmap.array, axes, flips)
    values = int(labels.max()) + 1
    each = np.stack([np.bincount(one.ravel(), minlength=values) for one in labels], 1)  # (label values, slices)
    counts = np.stack([each[[v for v in group if v < values]].sum(0) for group in groups])  # (groups, slices)
    depth = min(SLAB, len(labels))
    shown = np.flatnonzero(counts.any(0))
    last = max(int(shown[-1]) + 1 - depth, int(shown[0]))
    firsts = np.linspace(shown[0], last, SLABS + 2)[1:-1].round().astype(int).tolist() if last - shown[0] > SLABS * depth else [
        *range(int(shown[0]), last + 1, depth)]  # fmt: skip
    for count in counts:
        if sum(count[f : f + depth].sum() for f in firsts) < min(3 * FEWEST_VOXELS, 0.5 * count.sum()):
            best = np.convolve(count, np.ones(depth, int), mode="valid").argmax()
            firsts = [*(f for f in firsts if abs(f - best) >= depth), int(best)]
    parts = []
    for first in sorted(min(f, len(labels) - depth) for f in firsts):
        window = slice(first, first + depth)
        source = axial.crop((first, 0, 0), hu[window].shape)
        target = source.with_spacing((spacing[0], spacing[1], axial.spacing[2]))
        x, y = np.ascontiguousarray(hu[window], np.float32), np.ascontiguousarray(labels[window])
        if source.agrees_with(target, tolerance=0.01):
            target = source
        else:
            x, y = resample(x, source, target, outside=AIR_HU), resample_labels(y, source, target)
        parts.append((np.maximum(x, AIR_HU), y, target))
    return Slabs(*(np.concatenate([part[n] for part in parts]) for n in (0, 1)), tuple(part[2] for part in parts), float(axial.spacing[2]))
