"""A small chest with grainy lungs for the tests of nodules, and tiny untrained networks in place of those that ship."""

from dataclasses import asdict

import numpy as np

from CTSynthesisLib.modelstore import save_model
from CTSynthesisLib.networks.nodule_unet import NoduleUNet, NoduleUNetConfig
from CTSynthesisLib.regions import REGIONS
from CTSynthesisLib.volume import Volume, distance_mm
from Testing.phantom import hounsfield, thorax

VALUE = {segment.name: segment.value for segment in REGIONS}
SHAPE, SPACING = (30, 96, 110), (2.6, 2.6, 3.0)


def chest(shape=SHAPE, spacing=SPACING, noise=25.0):
    """``(Volume, labels)``: labels as ``nodule_places.lungs_of`` gives them."""
    labelmap = thorax(shape, spacing)
    lung = np.isin(labelmap.array, [s.value for s in labelmap.segments if s.name.startswith("lung")])
    return Volume(hounsfield(labelmap, noise=noise), labelmap.geometry), np.where(lung, VALUE["lungs"], 0).astype(np.uint8)


def in_the_lung(labels):
    """The voxel (k, j, i) farthest from all that is no lung."""
    depth = distance_mm(labels == 0, np.asarray(SPACING))
    return tuple(float(a) for a in np.unravel_index(depth.argmax(), depth.shape))


def untrained(folder, name, **more):
    """A tiny model file; returns its card's path. Untrained networks add next to nothing: what is tested then is everything else."""
    config = NoduleUNetConfig(width=(2, 4, 4, 4), **more)
    save_model(folder, dict(NoduleUNet(config).state_dict()), name=name, title="untrained", kind=name, version="0", description="test",
               network=asdict(config), hu_map={})  # fmt: skip
    return str(folder / f"{name}.json")
