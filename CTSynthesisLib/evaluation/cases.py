"""The persons that a model is measured on: a real CT, its coarse regions and, where there are some, masks of its organs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..anatomy import Tissue, Understood, understand
from ..errors import UnusableInput
from ..files import read_segmentation, read_volume, write_segmentation
from ..regions import segment_regions
from ..volume import LabelMap, Volume, reorder, resample

SMALLEST_ML = 0.5  # a structure below it has too few voxels to speak of its histogram
CONTRAST_HU = {"portal": 100.0, "arterial": 200.0}  # median of the blood from which on a scan counts as one of this phase


@dataclass(frozen=True, eq=False)
class Case:
    """One person. All grids run foot to head, front to back and right to left (axial order), whichever way the files lie.

    Attributes
    ----------
    ct : Volume
        The real scan.
    regions : LabelMap
        Its coarse map, see :func:`CTSynthesisLib.regions.segment_regions`; what is not 0 is the body.
    organs : LabelMap or None
        The structures that people outlined, as far as the anatomy table knows them.
    """

    name: str
    ct: Volume
    regions: LabelMap
    organs: LabelMap | None = None

    @cached_property
    def body(self) -> np.ndarray:
        return self.regions.array > 0

    @cached_property
    def _known(self) -> dict:
        return {}

    def once(self, function, mask: np.ndarray):
        """``function(hu, mask, spacing)`` of the scan, computed once for each mask: a real scan is compared with many drawn ones."""
        key = function, mask.shape, zlib.crc32(np.packbits(mask))
        if key not in self._known:
            self._known[key] = function(self.ct.array, mask, self.spacing)
        return self._known[key]

    @cached_property
    def understood(self) -> tuple[Understood, ...]:
        """What the organs were understood as."""
        return understand(self.organs.segments) if self.organs else ()

    @cached_property
    def even(self) -> np.ndarray:
        """The even parts of soft tissue and blood, where the grain is read."""
        from .texture import even_interior

        return even_interior(self.ct.array, self.region("soft_tissue", "blood"), self.spacing)

    @cached_property
    def found(self) -> dict[str, np.ndarray]:
        """Masks of soft tissue, fat, bone and lungs by rules that hold for drawn and real scans alike."""
        from .tissues import by_rule

        return by_rule(self.ct.array, self.body, self.spacing)

    @cached_property
    def resegmented(self) -> LabelMap:
        """The regions that a network sees in the scan."""
        from .fidelity import resegment

        return resegment(self.ct)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(i, j, k) mm."""
        return tuple(float(s) for s in self.ct.geometry.spacing)

    def region(self, *names: str) -> np.ndarray:
        """Mask of the union of some regions; those that the map does not know are empty."""
        return np.isin(self.regions.array, [s.value for s in self.regions.segments if s.name in names])

    @property
    def phase(self) -> str:
        """Contrast phase, as the brightness of the blood tells it."""
        blood = self.ct.array[self.region("blood")]
        level = float(np.median(blood)) if blood.size * self.ct.geometry.voxel_ml >= 2 else -np.inf
        return "arterial" if level > CONTRAST_HU["arterial"] else "portal" if level > CONTRAST_HU["portal"] else "plain"


class Structures(Mapping):
    """Masks by structure's name, each made when it is asked for: sixty of them at once would not fit into a laptop.

    Regions come first, then organs; an organ that bears a region's name (lungs) takes nothing from it and is called ``lungs (outlined)``.
    """

    def __init__(self, case: Case):
        self._where: dict[str, tuple[LabelMap, int]] = {}
        for labelmap, suffix in ((case.regions, ""), (case.organs, " (outlined)")):
            counts = np.bincount(labelmap.array.ravel()) if labelmap else ()
            for segment in labelmap.segments if labelmap else ():
                if segment.value < len(counts) and counts[segment.value] * labelmap.geometry.voxel_ml >= SMALLEST_ML:
                    name = segment.name + suffix if segment.name in self._where else segment.name
                    self._where[name] = labelmap, segment.value

    def __getitem__(self, name: str) -> np.ndarray:
        labelmap, value = self._where[name]
        return labelmap.array == value

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def find_cases(data: str | Path, names=()) -> list[Path]:
    """Folders of cases: those under ``data`` called one of ``names`` (or all of them); a name may also be the path of a case elsewhere.

    Raises
    ------
    UnusableInput
        If a case is not there, or none at all.
    """
    everything = sorted(path.parent for path in Path(data).glob("*/ct.nrrd"))
    if not names:
        if not everything:
            raise UnusableInput(f"No case was found in {data}: each case is a folder with a ct.nrrd.")
        return everything
    found = []
    for name in names:
        folder = next((f for f in (Path(data) / name, Path(name)) if (f / "ct.nrrd").is_file()), None)
        if folder is None:
            known = ", ".join(path.name for path in everything[:12]) or "none"
            raise UnusableInput(f"There is no case '{name}' in {data} (a folder with a ct.nrrd); the cases there are: {known}.")
        found.append(folder)
    return found


def load_case(folder: Path, cache: Path | None = None) -> Case:
    """Read a case; its regions are kept in ``cache``, because they take a while."""
    ct = read_volume(folder / "ct.nrrd")
    kept = cache / f"{folder.name}.seg.nrrd" if cache else None
    if kept and not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_segmentation(segment_regions(ct), kept)
    regions = read_segmentation(kept) if kept else segment_regions(ct)
    organs = None
    masks = next((folder / name for name in ("segmentation.nrrd", "segmentation.seg.nrrd") if (folder / name).is_file()), None)
    if masks:
        organs = _usable(read_segmentation(masks), ct)
    return Case(folder.name, _axial(ct, np.maximum(ct.array, np.int16(-1024))), _axial(regions), organs and _axial(organs))


def _usable(labelmap: LabelMap, ct: Volume) -> LabelMap | None:
    """The organs on the scan's grid: without what the table does not know (target volumes) and what is no structure inside the body."""
    understood = understand(labelmap.segments)
    organs = tuple(u.segment for u in understood if u.how != "not understood" and u.structure.tissue not in (Tissue.BODY, Tissue.AIR))
    if not organs:
        return None
    array = resample(labelmap.array, labelmap.geometry, ct.geometry, labels=True)
    return LabelMap(np.where(np.isin(array, [s.value for s in organs]), array, 0).astype(np.uint16), ct.geometry, organs)


def _axial(image, array=None):
    axes, flips = image.geometry.anatomical_axes
    array = np.ascontiguousarray(reorder(image.array if array is None else array, axes, flips))
    geometry = image.geometry.reordered(axes, flips)
    return LabelMap(array, geometry, image.segments) if isinstance(image, LabelMap) else Volume(array, geometry)
