"""From noise to a label map: the model of anatomy (:mod:`CTSynthesisLib.networks.anatomy_generator`) lays the standard anatomy out as
another person's chest, at any resolution, with nodules where they are asked for.

Each voxel reads the standard anatomy where the field says, so borders are as sharp as the atlas's and no label is ever interpolated.
"""

from __future__ import annotations

import numpy as np
import torch

from ..modelstore import ModelCard, load_into
from ..networks.anatomy_generator import AnatomyGenerator, AnatomyGeneratorConfig, Stature
from ..networks.recurrent_latent import RecurrentLatentConfig
from ..volume import Geometry, LabelMap, Segment
from .anatomy_frame import CELL_MM, CELLS
from .anatomy_variation import VARIED_CELLS, varied
from .lung_vessels import grow_vessels
from .nodule_shape import EDGES, LARGEST_MM, Nodule, random_diameters, render
from .standard_anatomy import standard_anatomy

LUNGS = ("lung_left", "lung_right")
SMALLEST_NODULE_MM = 4.0  # and two voxels: less is lost between them
TRIED_PLACES, MORE_SIZES = 40, 10  # where there is no room for one, another one is tried
PLEURA = 1.15  # a nodule's centre lies at least this many radii inside the lung


def chest_geometry(shape, extent) -> Geometry:
    """An axial grid of ``shape`` (k, j, i) over ``extent`` mm about the frame's middle, which is RAS 0."""
    steps = [e / n for e, n in zip(extent, shape, strict=True)]
    k, j, i = ((n - 1) / 2 * s for n, s in zip(shape, steps, strict=True))
    return Geometry.from_spacing(tuple(shape), steps[::-1], (i, j, -k))


@torch.inference_mode()
def draw_field(card: ModelCard, seed: int) -> torch.Tensor:
    """A person's field (3, K, J, I): displacement in mm along (k, j, i) from the frame to the standard anatomy."""
    generator = load_generator(card)
    return generator(*generator.noise(1, torch.Generator().manual_seed(seed)))[0]


def draw_anatomy(card: ModelCard, seed: int, geometry: Geometry, *, nodules: int = 0) -> LabelMap:
    """The label map of person ``seed`` on ``geometry`` (axial, see :func:`chest_geometry`).

    Raises
    ------
    UnusableInput
        If the model's weights are missing or damaged.
    """
    anatomy = standard_anatomy()
    array = laid_out(varied(draw_field(card, seed), seed), geometry, VARIED_CELLS)
    segments = [u.segment for u in anatomy.understood]
    value = {segment.name: segment.value for segment in segments}
    lungs = np.isin(array, [value[name] for name in LUNGS])
    free = max(value.values()) + 1
    array[grow_vessels(lungs, geometry, seed)] = free
    segments.append(Segment(free, "lung_vessels", color=(0.35, 0.45, 0.85)))
    for n, mask in enumerate(draw_nodules(lungs, geometry, seed, nodules)):
        array[mask] = free + 1 + n
        segments.append(Segment(free + 1 + n, "nodule" if n == 0 else f"nodule {n + 1}", color=(0.9, 0.6, 0.1)))
    present = set(np.unique(array).tolist())
    return LabelMap(array, geometry, tuple(segment for segment in segments if segment.value in present))


def laid_out(field: torch.Tensor, geometry: Geometry, cells: tuple[int, int, int] = CELLS) -> np.ndarray:
    """The standard anatomy's labels (k, j, i) uint16 on ``geometry`` under a ``field`` over ``cells`` of 8 mm; 0 outside the body."""
    anatomy = standard_anatomy()
    labels = torch.from_numpy(anatomy.continued.reshape(-1))
    size = torch.tensor(anatomy.continued.shape)
    steps = torch.tensor(anatomy.spacing, dtype=torch.float32)
    axes = list(zip(geometry.shape, geometry.spacing[::-1], cells, field.shape[1:], strict=True))
    places = [(torch.arange(n) - (n - 1) / 2) * float(step) for n, step, _, _ in axes]  # mm about the middle
    along, down, across = (
        _weights(place, extent * CELL_MM, knots) for place, (_, _, extent, knots) in zip(places, axes, strict=True)
    )
    result = np.zeros(geometry.shape, np.uint16)
    for k in range(geometry.shape[0]):
        near = along[k].nonzero()[:, 0]  # the one or two cells between which the slice lies
        at = down @ (torch.einsum("d,cdji->cji", along[k, near], field[:, near]) @ across.T)  # (3, J, I) mm
        at[0] += places[0][k]
        at[1] += places[1][:, None]
        at[2] += places[2]
        index = (at / steps[:, None, None] + size[:, None, None] / 2).floor_().long()
        outside = (index[1:] < 0).any(0) | (index[1:] >= size[1:, None, None]).any(0)
        index = torch.minimum(index.clamp_(min=0), (size - 1)[:, None, None])  # above and below the anatomy goes on as it ends
        plane = labels[(index[0] * size[1] + index[1]) * size[2] + index[2]]
        plane[outside] = 0
        result[k] = plane.numpy()
    return result


def _weights(place: torch.Tensor, extent: float, knots: int) -> torch.Tensor:
    """(n, knots): linear interpolation at ``place`` mm about the middle of ``knots`` cells over ``extent`` mm."""
    at = ((place / extent + 0.5) * knots - 0.5).clamp(0, knots - 1)
    return (1 - (at[:, None] - torch.arange(knots)).abs()).clamp(min=0)


def draw_nodules(lungs: np.ndarray, geometry: Geometry, seed: int, count: int) -> list[np.ndarray]:
    """Masks (k, j, i) of ``count`` nodules inside the mask ``lungs``, of LIDC's sizes from 4 mm on; fewer where the lungs have no room."""
    rng = np.random.default_rng((seed, 5))
    steps = geometry.spacing[::-1]
    found: list[np.ndarray] = []
    taken = np.zeros(lungs.shape, bool)
    inside = np.argwhere(lungs)
    smallest = max(SMALLEST_NODULE_MM, 2 * steps.max())
    for diameter in random_diameters(MORE_SIZES * count, seed) if len(inside) else ():
        if len(found) == count:
            break
        nodule = Nodule(float(np.clip(diameter, smallest, LARGEST_MM)), edge=str(rng.choice(EDGES)), seed=int(rng.integers(2**31)))
        reach = np.ceil(nodule.reach_mm / steps).astype(int) + 1
        for centre in inside[rng.integers(len(inside), size=TRIED_PLACES)]:
            low = np.maximum(centre - reach, 0)
            box = tuple(map(slice, low, centre + reach + 1))
            places = np.indices(lungs[box].shape).T - (centre - low)
            distance = np.linalg.norm(places * steps, axis=-1).T
            close, near = (distance < share * nodule.diameter_mm / 2 for share in (PLEURA, 2))
            if lungs[box][close].all() and not taken[box][near].any():
                mask = np.zeros(lungs.shape, bool)
                mask[box] = render(nodule, lungs[box].shape, geometry.spacing, centre - low).mask & lungs[box] & ~taken[box]
                taken |= mask
                found.append(mask)
                break
    return found


_warm: dict[str, AnatomyGenerator] = {}


def load_generator(card: ModelCard) -> AnatomyGenerator:
    """The generator of a card of kind ``anatomy``, kept for the next call."""
    if card.sha256 not in _warm:
        parts = {"latent": RecurrentLatentConfig(**card.network["latent"]), "stature": Stature(**card.network["stature"])}
        network = AnatomyGenerator(AnatomyGeneratorConfig(**card.settings | parts))
        load_into(network, card)
        _warm.clear()
        _warm[card.sha256] = network.eval().requires_grad_(False)
    return _warm[card.sha256]
