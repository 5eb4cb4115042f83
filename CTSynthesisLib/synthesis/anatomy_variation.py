"""What persons differ in that seven of them do not teach: drawn from the seed, added to what the model of anatomy learned.

Each change is a smooth map of the standard anatomy onto itself, from a place in the varied anatomy to the place read for it. So it knows
where each organ lies, leaves every structure connected, and needs no learning. Growth, breath, posture and chance are velocities whose
flow is followed (a flow does not fold; Arsigny et al. 2006); subcutaneous fat thickens along rays from the body's axis.

Directions are (k, j, i): up, to the back, to the patient's left, in mm about the middle of the standard anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from math import pi

import torch
import torch.nn.functional as F

from ..anatomy import Tissue
from .anatomy_frame import CELL_MM, identity, sampled
from .standard_anatomy import standard_anatomy

CELLS = (44, 44, 60)  # of 8 mm: the standard anatomy, and room beside it for its organs to move
VARIED_CELLS, VARIED_MM = (36, 54, 56), 4.0  # of a varied field, cut into 4 mm: the fat under the skin is too thin for cells of 8 mm
STEPS = 8  # along the flow
SMOOTH_MM = 8.0  # of the organs' borders, before they grow
HEART = ("heart", "heart_atrium_left", "heart_atrium_right", "heart_myocardium", "heart_ventricle_left", "heart_ventricle_right")
HEART_REACH_MM = 95.0
RAYS, RAY_STEP_MM, RAY_MM = 96, 2.0, 220.0
LEAST_FAT_MM = 3.0
APEX_K, DOME_K = 115.0, -40.0  # of the lungs: what breath moves not at all, and wholly
KYPHOSIS_K, TRUNK_MM = 20.0, 280.0  # its apex, and the length of the trunk that it bends
BREAST_ANGLE, BREAST_K, BREAST_WIDTH = 0.65, -15.0, (0.35, 38.0)  # rad from the front, mm; rad and mm


@dataclass(frozen=True)
class Habitus:
    """Standard deviations, over persons, of what is drawn (docs/ct-sgan.md names their sources)."""

    volumes: dict[tuple[str, ...], float] = field(
        default_factory=lambda: {  # log scale
            HEART: 0.20, ("liver",): 0.17, ("spleen",): 0.38, ("stomach",): 0.35, ("aorta",): 0.25, ("muscle",): 0.12, ("fat",): 0.25,
        }
    )  # fmt: skip
    breath: float = 15.0  # mm, height of the diaphragm
    kyphosis: float = 7.0  # mm, sagitta
    scoliosis: float = 3.0  # mm
    heart_axis: float = 0.14  # rad, about the axis from front to back
    heart_place: float = 4.0  # mm, along k and i
    chance: float = 4.5  # mm, what none of these says
    chance_mm: float = 30.0  # its correlation length
    fat: float = 0.50  # log thickness under the skin: of all, front against back, sides against both, above against below
    fat_parts: tuple[float, float, float] = (0.20, 0.15, 0.20)
    fat_most: float = 1.1  # log, to either side
    breasts: float = 0.5  # share of persons with
    breast_mm: tuple[float, float] = (8.0, 36.0)


def varied(displacement: torch.Tensor, seed: int, habitus: Habitus = Habitus()) -> torch.Tensor:
    """A person's field (3, 72, 108, 112) in cells of 4 mm: ``displacement`` (3, K, J, I) over the frame, and what ``seed`` adds.

    Parameters
    ----------
    displacement : tensor
        In mm along (k, j, i), from a place to the one in the standard anatomy that lies there (:func:`anatomy_model.draw_field`).
    """
    random = torch.Generator().manual_seed(seed ^ 0x5EED)
    x = identity(VARIED_MM, VARIED_CELLS)
    at = x + sampled(displacement, x)
    at = at + sampled(followed(velocity(random, habitus)), at, CELLS)
    return fattened(at, random, habitus) - x


def velocity(random: torch.Generator, habitus: Habitus) -> torch.Tensor:
    """Velocity (3, 44, 44, 60) in mm of a person's growth, breath, posture and chance."""
    organs, inside, heart = _standard()
    k, j, i = x = identity(CELL_MM, CELLS)
    drawn = iter(torch.randn(32, generator=random).tolist())

    growth = sum(sd * next(drawn) * organs[names] for names, sd in habitus.volumes.items())
    v = _gradient_with_divergence(-growth)

    above = ((APEX_K - k) / (APEX_K - DOME_K)).clamp(0, 1)
    v[0] += habitus.breath * next(drawn) * above * inside

    behind = 0.35 + 0.65 * ((j + 60) / 120).clamp(0, 1)
    v[1] += habitus.kyphosis * next(drawn) * torch.cos(pi * (k - KYPHOSIS_K) / TRUNK_MM) * behind
    v[2] += habitus.scoliosis * next(drawn) * torch.sin(2 * pi * k / (1.4 * TRUNK_MM) + pi * next(drawn)) * behind

    beside = x - heart[:, None, None, None]
    near = (1 - (beside / HEART_REACH_MM).square().sum(0)).clamp(min=0) ** 2
    turn = habitus.heart_axis * next(drawn)
    v[0] += near * (turn * beside[2] + habitus.heart_place * next(drawn))
    v[2] += near * (-turn * beside[0] + habitus.heart_place * next(drawn))

    low = _low_pass(habitus.chance_mm)
    noise = torch.randn(3, *CELLS, generator=random)
    return v + habitus.chance * _inverse(_cosines(noise) * low) / low.square().mean().sqrt()


def followed(v: torch.Tensor) -> torch.Tensor:
    """Displacement (3, D, H, W) of the flow of a velocity after unit time."""
    moved = torch.zeros_like(v)
    x = identity(CELL_MM, CELLS)
    for _ in range(STEPS):
        moved = moved + sampled(v, x + moved, CELLS) / STEPS
    return moved


def fattened(at: torch.Tensor, random: torch.Generator, habitus: Habitus) -> torch.Tensor:
    """Places ``at`` (3, …) of an anatomy whose subcutaneous fat is as thick as drawn, brought to the standard anatomy's."""
    inner, thick = _rays()
    drawn = torch.randn(6, generator=random).tolist()
    angle = torch.linspace(-pi, pi, RAYS + 1)[:-1]
    k = identity(CELL_MM, CELLS)[0, :, :1, 0]  # (K, 1)
    front_back, sides, height = habitus.fat_parts
    log = habitus.fat * drawn[0] + front_back * drawn[1] * angle.cos() + sides * drawn[2] * (2 * angle).cos() + height * drawn[3] * k / 140
    wanted = thick * log.clamp(-habitus.fat_most, habitus.fat_most).exp()
    share, amount, level = torch.rand(3, generator=random).tolist()
    if share < habitus.breasts:
        least, most = habitus.breast_mm
        width, height = BREAST_WIDTH
        around = sum((-(((angle - side * BREAST_ANGLE) / width) ** 2) / 2).exp() for side in (-1, 1))
        along = (-(((k - BREAST_K - 20 * (level - 0.5)) / height) ** 2) / 2).exp()
        wanted = wanted + (least + (most - least) * amount) * around * along
    r = at[1:].square().sum(0).sqrt()
    inner, thick, wanted = _along_rays(torch.stack([inner, thick, wanted]), at)
    beyond = (r - inner).clamp(min=0)
    read = torch.minimum(beyond, wanted) * thick / wanted + (beyond - wanted).clamp(min=0)
    scale = torch.where(r > inner, (inner + read) / r.clamp(min=1), torch.ones(()))
    return torch.cat([at[:1], at[1:] * scale])


@cache
def _standard():
    """What grows, by names (D, H, W); what breath moves (D, H, W); the heart's middle (3,)."""
    anatomy = standard_anatomy()
    value = {u.segment.name: u.segment.value for u in anatomy.understood}
    kinds = {u.segment.value: u.structure.tissue for u in anatomy.understood}
    groups = {names: [value[n] for n in names] for names in Habitus().volumes}
    still = [n for n, kind in kinds.items() if kind in (Tissue.BONE, Tissue.MUSCLE) and n != value["diaphragm"]]
    still += [value["subcutaneous_fat"], value["spinal_canal"], value["spinal_cord"], value["intervertebral_discs"]]
    members = [*groups.values(), [n for n in kinds if n not in still]]
    table = torch.zeros(len(members), 256)
    for row, labels in zip(table, members, strict=True):
        row[labels] = 1
    labels = _labels_at(identity(CELL_MM / 2, CELLS))
    shares = torch.stack([F.avg_pool3d(row[labels][None], 2)[0] for row in table])
    smooth = _inverse(_cosines(shares) * _low_pass(SMOOTH_MM))
    # over the organ itself the mean is 1, whatever smoothing took to its surroundings: it grows by what is drawn
    organs = {names: own * share.sum() / (own * share).sum() for names, own, share in zip(groups, smooth, shares, strict=False)}
    heart = shares[list(groups).index(HEART)]
    middle = (heart * identity(CELL_MM, CELLS)).sum((1, 2, 3)) / heart.sum()
    return organs, (1.5 * smooth[-1] - 0.5).clamp(0, 1), middle


@cache
def _rays():
    """Radius at which the body under the subcutaneous fat ends, and the fat's thickness: (K, rays) in mm, by height and angle."""
    k = identity(CELL_MM, CELLS)[0, :, 0, 0]
    angle = torch.linspace(-pi, pi, RAYS + 1)[:-1]  # from the front to the patient's left
    r = torch.arange(RAY_STEP_MM / 2, RAY_MM, RAY_STEP_MM)
    k, angle, r = torch.meshgrid(k, angle, r, indexing="ij")
    labels = _labels_at(torch.stack([k, -r * angle.cos(), r * angle.sin()]))
    fat = next(u.segment.value for u in standard_anatomy().understood if u.segment.name == "subcutaneous_fat")
    radii = [(r * where).amax(2) + RAY_STEP_MM / 2 for where in ((labels > 0) & (labels != fat), labels > 0)]
    smooth = torch.stack([radii[0], (radii[1] - radii[0]).clamp(min=LEAST_FAT_MM)])[:, None]
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    for _ in range(2):
        smooth = F.conv2d(F.pad(smooth, (2, 2, 0, 0), mode="circular"), taps[None, None, None])
        smooth = F.conv2d(F.pad(smooth, (0, 0, 2, 2), mode="replicate"), taps[None, None, :, None])
    return smooth[0, 0], smooth[1, 0]


def _along_rays(maps, at):
    """Maps (n, K, rays) by height and angle, read at places (3, D, H, W)."""
    angle = torch.atan2(at[2], -at[1])
    around = F.pad(maps[None], (1, 1, 0, 0), mode="circular")
    column = (angle / pi + 1) / 2 * RAYS + 1  # of the padded map
    grid = torch.stack([2 * (column + 0.5) / (RAYS + 2) - 1, 2 * at[0] / (CELLS[0] * CELL_MM)], -1)
    return F.grid_sample(around, grid.flatten(0, 1)[None], padding_mode="border", align_corners=False)[0].unflatten(1, at.shape[1:3])


def _labels_at(x) -> torch.Tensor:
    """The standard anatomy's labels at places (3, …); 0 beside it."""
    anatomy = standard_anatomy()
    labels = torch.from_numpy(anatomy.continued)
    index = [(x[a] / step + n / 2).floor().long() for a, (n, step) in enumerate(zip(labels.shape, anatomy.spacing.tolist(), strict=True))]
    within = torch.ones(x.shape[1:], dtype=torch.bool)
    for a in (1, 2):
        within &= (index[a] >= 0) & (index[a] < labels.shape[a])
    return labels[tuple(at.clamp(0, n - 1) for at, n in zip(index, labels.shape, strict=True))].long() * within


# ------------------------------------------------------------------------------------- in waves, whose slope is 0 at the grid's borders


@cache
def _waves(axis: int):
    """Cosines (n, n) at the cells of an axis, orthonormal, one a column; and their wave numbers (n,) in rad/mm."""
    n = CELLS[axis]
    number = torch.arange(n) * pi / (n * CELL_MM)
    x = (torch.arange(n) + 0.5) * CELL_MM
    waves = torch.cos(x[:, None] * number) * (2 / n) ** 0.5
    waves[:, 0] /= 2**0.5
    return waves, number


def _in_waves(x, matrices):
    return torch.einsum("...kji,ka,jb,ic->...abc", x, *matrices)


def _cosines(x):
    return _in_waves(x, [_waves(axis)[0] for axis in range(3)])


def _inverse(x):
    return _in_waves(x, [_waves(axis)[0].T for axis in range(3)])


@cache
def _squares():
    """Squared wave number (D, H, W) of each product of cosines."""
    k, j, i = (_waves(axis)[1].square() for axis in range(3))
    return k[:, None, None] + j[:, None] + i


def _low_pass(length):
    return (-_squares() * length**2 / 2).exp()


def _gradient_with_divergence(x):
    """The gradient field (3, D, H, W) of which ``x``, but for its mean, is the divergence: how tissue gives way to what grows in it."""
    squares = _squares().clone()
    squares[0, 0, 0] = 1.0
    potential = -_cosines(x) / squares
    potential[0, 0, 0] = 0.0
    parts = []
    for axis in range(3):
        matrices = [_waves(a)[0].T for a in range(3)]
        n, number = CELLS[axis], _waves(axis)[1]
        at = (torch.arange(n) + 0.5) * CELL_MM
        matrices[axis] = (-number * torch.sin(at[:, None] * number) * (2 / n) ** 0.5).T
        parts.append(_in_waves(potential, matrices))
    return torch.stack(parts)
