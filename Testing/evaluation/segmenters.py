"""A small re-segmenter with random weights, saved as a model: the real network and code path, quick to run. It knows no anatomy."""

from dataclasses import asdict

import numpy as np
import torch

from CTSynthesisLib.evaluation.distribution import fit_projection
from CTSynthesisLib.modelstore import save_model
from CTSynthesisLib.networks.segmenter import Segmenter, SegmenterConfig
from CTSynthesisLib.volume import Geometry, Volume

SMALL = SegmenterConfig(width=(4, 6, 8, 10))


def save_random_segmenter(folder) -> str:
    """The path of the model file."""
    torch.manual_seed(0)
    raw = np.random.default_rng(0).normal(size=(60, sum(SMALL.width[1:]) + 2 * sum(SMALL.width[:2])))
    weights = Segmenter(SMALL).state_dict() | fit_projection(raw)
    network = asdict(SMALL)
    card = save_model(folder, weights, name="random", title="", kind="segmenter", version="0", description="", network=network, hu_map={})
    return card.path


def a_person(seed: int, noise: float = 10.0) -> Volume:
    """A body of 168 mm with organs of its own, 3 mm voxels."""
    rng = np.random.default_rng(seed)
    k, j, i = np.indices((56, 54, 60)) - np.array([28, 27, 30]).reshape(3, 1, 1, 1)
    hu = np.full(k.shape, -1000.0)
    hu[(j / 24) ** 2 + (i / 27) ** 2 < 1] = 30
    for _ in range(56):
        centre, radius = rng.uniform((-28, -16, -19), (28, 16, 19)), rng.uniform(2, 8, 3)
        place = sum(((axis - c) / r) ** 2 for axis, c, r in zip((k, j, i), centre, radius, strict=True)) < 1
        hu[place] = rng.choice([-800, -100, 70, 150, 400])
    array = np.rint(hu + np.random.default_rng(seed + 1000).normal(0, noise, hu.shape)).astype(np.int16)
    return Volume(array, Geometry.from_spacing(array.shape, (3.0, 3.0, 3.0)))
