"""Small chests for the tests of nodules: the geometric thorax with grainy lungs, balls of soft tissue in them as marked nodules, and tiny
untrained networks (or none) in place of those that ship."""

import json
from dataclasses import asdict

import numpy as np

from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.modelstore import save_model
from CTSynthesisLib.networks.nodule_unet import NoduleUNet, NoduleUNetConfig
from CTSynthesisLib.regions import REGIONS
from CTSynthesisLib.training.nodule_hands import Hands
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume, distance_mm
from Testing.phantom import hounsfield, thorax

COARSE = (16, 40, 50), (5.0, 5.0, 5.0)  # shape and spacing
FINE = (30, 96, 110), (2.6, 2.6, 3.0)
SPACING = FINE[1]
LEFT, RIGHT = (8, 18, 35), (8, 18, 14)  # voxels (k, j, i) in the middle of either lung of the coarse chest
LUNGS = next(segment.value for segment in REGIONS if segment.name == "lungs")


def chest(balls=(), seed=0, level=-850.0, noise=10.0, grid=COARSE) -> Volume:
    """HU of a chest whose lungs have ``level``; ``balls`` are (voxel (k, j, i), diameter in mm)."""
    labelmap = _thorax(grid)
    values = {"body": 20, "lung_left": level, "lung_right": level, "heart": 45, "aorta": 40, "vertebrae": 250}
    hu = hounsfield(labelmap, values) + np.random.default_rng(seed).normal(0, noise, grid[0])
    hu[ball_mask(balls, labelmap.geometry)] = 20
    return Volume(np.rint(hu).astype(np.int16), labelmap.geometry)


def chest_and_lungs(grid=FINE):
    """``(Volume, labels)``: a finer chest, and labels as ``nodule_places.lungs_of`` gives them."""
    labelmap = _thorax(grid)
    lung = np.isin(labelmap.array, [s.value for s in labelmap.segments if s.name.startswith("lung")])
    return chest(noise=25.0, grid=grid), np.where(lung, LUNGS, 0).astype(np.uint8)


def _thorax(grid) -> LabelMap:
    shape, spacing = grid
    return thorax(shape, spacing, (spacing[0] * shape[2] / 2, spacing[1] * shape[1] / 2, -400.0))


def in_the_lung(labels):
    """The voxel (k, j, i) of the finer chest that lies farthest from all that is no lung."""
    depth = distance_mm(labels == 0, np.asarray(SPACING))
    return tuple(float(a) for a in np.unravel_index(depth.argmax(), depth.shape))


def ball_mask(balls, geometry: Geometry) -> np.ndarray:
    mask = np.zeros(geometry.shape, bool)
    for centre, diameter in balls:
        steps = geometry.spacing[::-1]
        away = np.sqrt(sum(((axis - c) * s) ** 2 for axis, c, s in zip(np.indices(geometry.shape), centre, steps, strict=True)))
        mask |= away <= diameter / 2
    return mask


def write_case(folder, balls=(), seed=0, level=-850.0):
    """A case as the project keeps them: ct.nrrd and, with ``balls``, segmentation.nrrd + labels.json that name a nodule."""
    folder.mkdir(parents=True)
    volume = chest(balls, seed, level)
    write_volume(volume, folder / "ct.nrrd")
    if balls:
        labels = LabelMap(ball_mask(balls, volume.geometry).astype(np.uint16), volume.geometry, (Segment(1, "nodule"),))
        write_segmentation(labels, folder / "segmentation.nrrd")
        (folder / "labels.json").write_text(json.dumps({"1": "nodule"}))
    return volume


def ras_of(geometry: Geometry, kji) -> np.ndarray:
    return (geometry.ijk_to_ras @ [*kji[::-1], 1.0])[:3]


def _with_ball(volume: Volume, centre, diameter, hu) -> Volume:
    at = np.linalg.solve(volume.geometry.ijk_to_ras, [*centre, 1.0])[2::-1]
    return Volume(np.where(ball_mask([(at, diameter)], volume.geometry), hu, volume.array).astype(np.int16), volume.geometry)


# stand-ins that are quick on thick slices: a ball of soft tissue, and one of lung
BALLS = Hands(lambda volume, centre, nodule: _with_ball(volume, centre, nodule.diameter_mm, 20),
              lambda volume, centre, diameter: _with_ball(volume, centre, diameter + 6, -850), "balls of soft tissue")  # fmt: skip


def untrained(folder, name, **more):
    """A tiny model file; returns its card's path. Untrained networks add next to nothing: what is tested then is everything else."""
    config = NoduleUNetConfig(width=(2, 4, 4, 4), **more)
    save_model(folder, dict(NoduleUNet(config).state_dict()), name=name, title="untrained", kind=name, version="0", description="test",
               network=asdict(config), hu_map={})  # fmt: skip
    return str(folder / f"{name}.json")
