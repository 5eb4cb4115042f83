"""Axial slices with the six grey values of paper 001, from a folder of cases; and the slice of a scan whose style is learned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ..anatomy import understand
from ..errors import UnusableInput
from ..files import read_segmentation, read_volume
from ..regions import REGIONS, segment_regions
from ..synthesis.habijan import frame
from ..synthesis.krishna import grey_values, segment_values
from ..volume import LabelMap, Volume, reorder
from .slab_data import FIRST_ORGAN, load_cases

APART = 20.0  # mm between slices of one person
SHOWN = 0.001  # of the slice: less of a segment is not counted


@dataclass(frozen=True, eq=False)
class StyleImage:
    """The style x_s: HU (size, size) float32, its grey values (size, size) uint8, and which scan it is."""

    hounsfield: torch.Tensor
    grey: torch.Tensor
    name: str


class StyleSlices:
    """Slices of every case under ``data`` with all six segments known: the training pairs (x_i, y_i).

    Where a case's masks leave something open, :func:`CTSynthesisLib.regions.segment_regions` says what it is. Of each case that is
    annotated on more than ``per_case`` slices so many are taken, ``APART`` mm apart about the one that shows most segments and most lung:
    the paper took one or two "from a similar anatomical position of each patient".

    Attributes
    ----------
    hounsfield : int16 tensor (n, size, size)
    grey : uint8 tensor (n, size, size)
    slices_of : dict
        Number of slices taken from each case.
    """

    def __init__(self, data, cache, *, image_size: int = 512, per_case: int = 2, seed: int = 0):
        self.seed, self.slices_of = seed, {}
        hounsfield, grey = [], []
        for case in load_cases(data, cache, report=lambda line: None):
            regions = LabelMap(case.values, _any_geometry(case), REGIONS)
            labels = grey_values(case.values, [*understand(regions.segments), *_organs(Path(data) / case.name)])
            chosen = most_telling(labels, case.spacing[2], per_case, annotated=(case.values >= FIRST_ORGAN).any((1, 2)))
            spacing = (case.spacing[1], case.spacing[0])
            hounsfield.append(frame(case.hu[chosen], spacing, image_size, outside=-1000).round().to(torch.int16))
            grey.append(frame(labels[chosen], spacing, image_size, labels=True))
            self.slices_of[case.name] = len(chosen)
        self.hounsfield, self.grey = torch.cat(hounsfield), torch.cat(grey)
        self._order = lru_cache(2)(lambda epoch: np.random.default_rng((self.seed, epoch)).permutation(len(self)))

    def __len__(self) -> int:
        return len(self.hounsfield)

    def pair(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """HU and grey values (1, 1, size, size) of step ``n``: all slices in random order, then all in another, and so on."""
        index = int(self._order(n // len(self))[n % len(self)])
        return self.hounsfield[index][None, None].float(), self.grey[index][None, None]


def style_image(scan: Volume, name: str, *, segmentation: LabelMap | None = None, image_size: int = 512) -> StyleImage:
    """The most telling axial slice of ``scan``, with its grey values from its own ``segmentation`` and, where that is silent, its regions.

    Raises
    ------
    UnusableInput
        If the two do not lie on the same grid.
    """
    if segmentation is not None and not segmentation.geometry.agrees_with(scan.geometry, tolerance=0.01):
        raise UnusableInput(f"The style scan {name} and its segmentation do not lie on the same grid; resample one to the other.")
    axes, flips = scan.geometry.anatomical_axes
    regions = segment_regions(scan)
    grey = grey_values(regions.array, understand(regions.segments))
    if segmentation is not None:
        drawn = grey_values(segmentation.array, understand(segmentation.segments))
        organs = [value for name, value in segment_values().items() if name not in ("air", "body")]
        grey = np.where(np.isin(drawn, organs), drawn, grey)
    grey, hu = reorder(grey, axes, flips), reorder(scan.array, axes, flips)
    columns, rows, apart = scan.geometry.reordered(axes, flips).spacing
    (chosen,) = most_telling(grey, apart, 1)
    window = slice(chosen, chosen + 1)
    framed = frame(np.where(grey == 0, -1000, hu)[window], (rows, columns), image_size, outside=-1000)
    return StyleImage(framed[0], frame(grey[window], (rows, columns), image_size, labels=True)[0], name)


def most_telling(grey: np.ndarray, spacing: float, count: int, annotated: np.ndarray | None = None) -> list[int]:
    """``count`` slices about the one that shows most of the six segments and, among such, most lung; ``spacing`` mm between slices.

    Only ``annotated`` slices, where there are any; all of these if they are no more than ``count``.
    """
    allowed = np.arange(len(grey)) if annotated is None or not annotated.any() else np.flatnonzero(annotated)
    if len(allowed) <= count:
        return allowed.tolist()
    lung = segment_values()["lungs"]
    shares = np.stack([(grey[allowed] == value).mean((1, 2)) for value in segment_values().values()])
    best = int(np.argmax((shares > SHOWN).sum(0) + (grey[allowed] == lung).mean((1, 2))))
    step = max(round(APART / spacing), 1)
    offsets = sorted(range(-len(allowed), len(allowed)), key=lambda n: (abs(n), n))
    wanted = [best + n * step for n in offsets if 0 <= best + n * step < len(allowed)][:count]
    return sorted(int(allowed[n]) for n in wanted)


def _organs(folder: Path):
    """What the case's own segments are, with the label values that ``slab_data`` gives them."""
    path = folder / "segmentation.nrrd"
    if not path.exists():
        return []
    from dataclasses import replace

    found = understand(read_segmentation(path).segments)
    return [replace(u, segment=replace(u.segment, value=FIRST_ORGAN + n)) for n, u in enumerate(found)]


def _any_geometry(case):
    from ..volume import Geometry

    return Geometry.from_spacing(case.values.shape, case.spacing)


def read_style(path: str | Path, segmentation: str | Path | None = None, *, image_size: int = 512) -> StyleImage:
    """The style image of the scan at ``path``; its segmentation is ``segmentation``, or ``segmentation.nrrd`` beside it, or none."""
    path = Path(path)
    beside = path.parent / "segmentation.nrrd"
    if segmentation is None and path.is_file() and beside.exists():
        segmentation = beside
    drawn = read_segmentation(segmentation) if segmentation else None
    name = path.parent.name if path.name == "ct.nrrd" else path.name
    return style_image(read_volume(path), name, segmentation=drawn, image_size=image_size)
