"""Where a tissue lies: in a drawn volume where the mask said so, else where the same simple rules find it in drawn and real scans."""

from __future__ import annotations

import numpy as np

from ..anatomy import Tissue, understand
from ..volume import LabelMap

GROUPS = {
    "soft_tissue": (Tissue.ORGAN, Tissue.MUSCLE), "blood": (Tissue.BLOOD,), "fat": (Tissue.FAT,), "bone": (Tissue.BONE,),
    "lungs": (Tissue.LUNG,),
}  # fmt: skip
SMALLEST_ML = 2.0  # of a structure that was told
ENOUGH_ML = 20.0  # of a tissue, to speak of it
SOFT_HU, FAT_HU, BONE_HU, LUNG_HU = (-25, 150), (-200, -25), 170, (-960, -500)  # after a blur of 1.5 mm


def told(labelmap: LabelMap, body: np.ndarray) -> dict[str, list[tuple[str, np.ndarray]]]:
    """By tissue, the (name, mask) of each structure of ``labelmap`` that has at least 2 ml within ``body``.

    A tissue that has less than 20 ml in all is not told: a nodule does not say what a body's soft tissue is like.
    Vessels of the lungs are left out: no mask of a person is as fine as they are.
    """
    found: dict[str, list] = {}
    for u in understand(labelmap.segments):
        group = next((name for name, kinds in GROUPS.items() if u.structure.tissue in kinds), None)
        if group is None or u.structure.name == "lung_vessels":
            continue
        mask = (labelmap.array == u.segment.value) & body
        if mask.sum() * labelmap.geometry.voxel_ml >= SMALLEST_ML:
            found.setdefault(group, []).append((u.segment.name, mask))
    least = ENOUGH_ML / labelmap.geometry.voxel_ml
    return {group: masks for group, masks in found.items() if sum(mask.sum() for _, mask in masks) >= least}


def by_rule(hu: np.ndarray, body: np.ndarray, spacing) -> dict[str, np.ndarray]:
    """Masks of soft tissue, fat, bone and lungs by their HU after a blur in the slice; blood cannot be told from an organ this way.

    Bones are closed by 4 mm and filled, so that marrow belongs to them; lungs are pieces of at least 20 ml.
    """
    from scipy.ndimage import binary_closing, binary_fill_holes, gaussian_filter, label

    found = {name: np.zeros(body.shape, bool) for name in ("soft_tissue", "fat", "bone", "lungs")}
    pixel = np.array([spacing[1], spacing[0]])
    reach = [int(np.ceil(2 / p)) for p in pixel]
    ball = np.hypot(*np.ogrid[-reach[0] * pixel[0] : reach[0] * pixel[0] : (2 * reach[0] + 1) * 1j,
                              -reach[1] * pixel[1] : reach[1] * pixel[1] : (2 * reach[1] + 1) * 1j]) <= 2.0 + pixel.max() / 2  # fmt: skip
    for k in np.nonzero(body.any((1, 2)))[0]:
        smooth = gaussian_filter(hu[k].astype(np.float32), 1.5 / pixel, truncate=2.5)
        bone = body[k] & (smooth > BONE_HU)
        if bone.any():
            bone = binary_fill_holes(binary_closing(bone, ball)) & body[k] & (smooth > SOFT_HU[0])
        rest = body[k] & ~bone
        found["bone"][k] = bone
        for name, (low, high) in (("soft_tissue", SOFT_HU), ("fat", FAT_HU), ("lungs", LUNG_HU)):
            found[name][k] = rest & (smooth > low) & (smooth <= high)
    pieces, _ = label(found["lungs"])
    large = np.bincount(pieces.ravel()) * np.prod(spacing) / 1000 >= ENOUGH_ML
    large[0] = False
    found["lungs"] = large[pieces]
    return found
