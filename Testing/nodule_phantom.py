"""Chests for the nodule experiment: the geometric thorax with noise, and balls of soft tissue in its lungs as marked nodules."""

import json

import numpy as np

from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume
from Testing.phantom import hounsfield, thorax

SHAPE, SPACING = (16, 40, 50), (5.0, 5.0, 5.0)
LEFT, RIGHT = (8, 18, 35), (8, 18, 14)  # voxels (k, j, i) in the middle of either lung


def chest(balls=(), seed=0, level=-850.0) -> Volume:
    """HU of a chest whose lungs have ``level``; ``balls`` are (voxel (k, j, i), diameter in mm)."""
    labelmap = thorax(SHAPE, SPACING, (125.0, 100.0, -400.0))
    values = {"body": 20, "lung_left": level, "lung_right": level, "heart": 45, "aorta": 40, "vertebrae": 250}
    hu = hounsfield(labelmap, values).astype(float) + np.random.default_rng(seed).normal(0, 10, SHAPE)
    hu[ball_mask(balls)] = 20
    return Volume(np.rint(hu).astype(np.int16), labelmap.geometry)


def ball_mask(balls) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for centre, diameter in balls:
        distance = np.sqrt(sum(((axis - c) * s) ** 2 for axis, c, s in zip(np.indices(SHAPE), centre, SPACING, strict=True)))
        mask |= distance <= diameter / 2
    return mask


def write_case(folder, balls=(), seed=0, level=-850.0):
    """A case as the project keeps them: ct.nrrd and, with ``balls``, segmentation.nrrd + labels.json that name a nodule."""
    folder.mkdir(parents=True)
    volume = chest(balls, seed, level)
    write_volume(volume, folder / "ct.nrrd")
    if balls:
        labels = LabelMap(ball_mask(balls).astype(np.uint16), volume.geometry, (Segment(1, "nodule"),))
        write_segmentation(labels, folder / "segmentation.nrrd")
        (folder / "labels.json").write_text(json.dumps({"1": "nodule"}))
    return volume


def ras_of(geometry: Geometry, kji) -> np.ndarray:
    return (geometry.ijk_to_ras @ [*kji[::-1], 1.0])[:3]
