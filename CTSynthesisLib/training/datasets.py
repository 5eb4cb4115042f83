"""Pairs of axial slices and masks for mask-conditioned training, from an MM-WHS folder or from any folder of cases."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ..anatomy import structure as look_up
from ..anatomy import understand
from ..errors import Assumption, UnusableInput
from ..files import read_segmentation, read_volume
from ..synthesis.habijan import channel_labels, frame, one_hot, to_unit
from ..volume import LabelMap, Volume, reorder

# MM-WHS (Zhuang & Shen 2016; MICCAI 2017 challenge): abbreviation in paper 000, label value, our name
MM_WHS = {
    "LV": (500, "heart_ventricle_left"),
    "RV": (600, "heart_ventricle_right"),
    "LA": (420, "heart_atrium_left"),
    "RA": (550, "heart_atrium_right"),
    "Myo": (205, "heart_myocardium"),
    "Ao": (820, "aorta"),
    "PA": (850, "pulmonary_artery"),
}
MISPRINT = 421  # in a few voxels of the published labels, where 420 (LA) is meant
WHOLE_HEART = tuple(name for _, name in MM_WHS.values())
IMAGE_NAME = re.compile(r"(ct_train_\d+)_image(\.nii(?:\.gz)?)")


def structures_of(structure: str) -> tuple[str, ...]:
    """The mask channels of a model for ``structure``: the seven of MM-WHS for ``whole_heart``, else one.

    ``structure`` may be MM-WHS's abbreviation (``LV``) or any name in the anatomy table.
    """
    if structure == "whole_heart":
        return WHOLE_HEART
    if structure in MM_WHS:
        return (MM_WHS[structure][1],)
    return (look_up(structure).name,)


def read_cases(data: str | Path) -> Iterator[tuple[str, LabelMap, Path]]:
    """Name, label map and path of the CT of each case below ``data``; the CT is left for the caller to read, if it is worth reading.

    ``data`` is an MM-WHS folder (``ct_train_1001_image.nii.gz`` and ``ct_train_1001_label.nii.gz``, at any depth), or holds one folder
    a case with ``ct.nrrd`` and ``segmentation.nrrd`` + ``labels.json``. Cases without a segmentation are passed over.

    Raises
    ------
    UnusableInput
        If ``data`` holds neither, or an MM-WHS image lacks its labels.
    """
    data = Path(data)
    images = {path: match for path in sorted(data.rglob("*_image.nii*")) if (match := IMAGE_NAME.fullmatch(path.name))}
    names = dict(MM_WHS.values()) | {MISPRINT: MM_WHS["LA"][1]}
    for path, match in images.items():
        label_path = path.with_name(f"{match[1]}_label{match[2]}")
        if not label_path.exists():
            raise UnusableInput(f"{path} has no labels beside it; put {label_path.name} there, or remove the image.")
        labelmap = read_segmentation(label_path)
        segments = tuple(replace(segment, name=names[segment.label]) for segment in labelmap.segments if segment.label in names)
        found = {segment.label for segment in labelmap.segments}
        if MISPRINT in found:
            _tell(f"{label_path} has label {MISPRINT}, a known misprint of MM-WHS for 420; it was taken for the left atrium.")
        if strange := sorted(found - set(names)):
            _tell(f"{label_path} holds values unknown to MM-WHS ({strange}); they are taken for background.")
        yield match[1], LabelMap(labelmap.array, labelmap.geometry, segments), path
    if images:
        return
    found = False
    for path in sorted(data.glob("*/segmentation.nrrd")):
        if (path.parent / "ct.nrrd").exists():
            found = True
            yield path.parent.name, read_segmentation(path), path.parent / "ct.nrrd"
    if not found:
        raise UnusableInput(
            f"{data} holds no training data: neither MM-WHS files (ct_train_1001_image.nii.gz, ct_train_1001_label.nii.gz) nor folders "
            "with ct.nrrd and segmentation.nrrd."
        )


def _tell(assumed):
    warnings.warn(assumed, Assumption, stacklevel=3)


class SlicePairs:
    """Axial slices that show at least one of ``structures``, with their labels; slices without any label are left out.

    Parameters
    ----------
    data : path
        See :func:`read_cases`.
    structures : sequence of str
        One mask channel each; a segment counts for the structure it is or is part of.
    image_size : int
        Slices are framed to this many pixels a side.
    hu_range : (low, high)
        HU that become 0 and 1, the same for every image.
    seed : int
        Decides the order of the slices.

    Attributes
    ----------
    hounsfield : int16 tensor (n, size, size)
    labels : uint8 tensor (n, size, size)
        1 + index into ``structures``; 0 for none.
    slices_of : dict
        Number of slices taken from each case.
    """

    def __init__(self, data, structures: Sequence[str], *, image_size: int = 256, hu_range=(-1000.0, 1000.0), seed: int = 0):
        self.structures, self.hu_range, self.seed = tuple(structures), tuple(hu_range), seed
        self.slices_of: dict[str, int] = {}
        pairs = []
        for name, labelmap, path in read_cases(data):
            labels, spacing = axial_labels(labelmap, self.structures)
            shown = np.flatnonzero(labels.any((1, 2)))
            if len(shown):
                hounsfield = reorder(_read_ct(path, labelmap).array, *labelmap.geometry.anatomical_axes)[shown]
                framed = frame(hounsfield, spacing, image_size, outside=hu_range[0]).round().to(torch.int16)
                pairs.append((framed, frame(labels[shown], spacing, image_size, labels=True)))
                self.slices_of[name] = len(shown)
        if not pairs:
            raise UnusableInput(f"No slice in {data} shows {' or '.join(self.structures)}; choose another structure or other data.")
        self.hounsfield, self.labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        self._order = lru_cache(2)(lambda epoch: np.random.default_rng((self.seed, epoch)).permutation(len(self)))

    def __len__(self) -> int:
        return len(self.hounsfield)

    def pairs(self, indices) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks (n, channels, size, size) in {0, 1} and images (n, 1, size, size) in [0, 1] of some slices."""
        return one_hot(self.labels[indices], len(self.structures)), to_unit(self.hounsfield[indices], self.hu_range)[:, None]

    def batch(self, n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch ``n`` of ``size`` pairs: all slices in random order, then all in another, and so on; no augmentation."""
        positions = range(n * size, (n + 1) * size)
        return self.pairs([int(self._order(position // len(self))[position % len(self)]) for position in positions])


def axial_labels(labelmap: LabelMap, structures: Sequence[str]) -> tuple[np.ndarray, tuple[float, float]]:
    """The channel of each voxel (see ``channel_labels``) as axial slices seen from the feet, and the spacing of rows and columns in mm."""
    axes = labelmap.geometry.anatomical_axes
    columns, rows, _ = labelmap.geometry.reordered(*axes).spacing
    return reorder(channel_labels(labelmap.array, understand(labelmap.segments), structures), *axes), (float(rows), float(columns))


def _read_ct(path: Path, labelmap: LabelMap) -> Volume:
    volume = read_volume(path)
    if not volume.geometry.agrees_with(labelmap.geometry, tolerance=0.01):
        raise UnusableInput(f"{path} and its segmentation do not lie on the same grid; resample one to the other.")
    return volume
