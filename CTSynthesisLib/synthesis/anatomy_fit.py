"""The fit of one anatomy to another: placed, then bent by B-splines, by gradient descent on the overlap of what both show."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

CELL_MM = 8.0  # of the grid on which anatomies are fitted
STEPS_MM = (75.0, 40.0)  # between the knots of the bending, first the coarse one
ITERATIONS = (24, 40, 40)  # of placing, and of bending at each step
STARTS_MM = 25.0  # between the places along the body from which placing begins
KEPT_STARTS = 3
SCALE_SPREAD, TURN_SPREAD = 0.12, 0.10  # how far sizes (log) and angles (rad) of bodies lie apart; further costs more
STIFF = 0.4  # weight of the bending's mean squared strain
UNCOVERED = 0.5  # weight of the share of the body that the anatomy does not reach


def fit(source: torch.Tensor, target: torch.Tensor, has_outline: bool, check) -> tuple[torch.Tensor, float]:
    """Where in the ``source`` (3, D, H, W), in mm from its corner, each cell of the ``target`` lies, one more on each side than it has; and
    the overlap reached, the mean Dice of the groups.

    Parameters
    ----------
    source, target : Tensor
        Share of each cell (groups, D, H, W) that each group of structures fills, on cells of ``CELL_MM``.
    has_outline : bool
        Whether the first group is the whole body.
    check : callable
        Called at every step; may raise to stop.
    """
    coarse = _Level(_halved(source), _halved(target), 2 * CELL_MM)
    starts = _starts(coarse, has_outline)
    with torch.no_grad():
        costs = [float(coarse.cost(start(coarse.x))) for start in starts]
    best = sorted(range(len(starts)), key=costs.__getitem__)[:KEPT_STARTS]
    placement = min((_placed(coarse, starts[n], ITERATIONS[0] // 2, check) for n in best), key=lambda pair: pair[1])[0]
    placement, _ = _placed(coarse, placement, ITERATIONS[0], check)
    fine = _Level(source, target, CELL_MM)
    at = placement(fine.x)
    for step, iterations in zip(STEPS_MM, ITERATIONS[1:], strict=True):
        at = _bent(fine, at, step / CELL_MM, iterations, check)
    return at, fine.overlap


def _halved(shares):
    return F.avg_pool3d(shares, 2, ceil_mode=True, count_include_pad=False)


class _Level:
    """How well a placement fits, on cells of ``cell`` mm; ``x`` (3, D, H, W) are their places in the target in mm."""

    def __init__(self, source: torch.Tensor, target: torch.Tensor, cell: float):
        self.source, self.cell = source, cell
        self.target = F.pad(target, (1,) * 6)
        self.counted = F.pad(torch.ones(target.shape[1:]), (1,) * 6)
        self.size = torch.tensor(source.shape[1:], dtype=torch.float32) * cell
        self.x = torch.stack(torch.meshgrid(*((torch.arange(-1.0, n + 1.0) + 0.5) * cell for n in target.shape[1:]), indexing="ij"))
        volume = target.sum((1, 2, 3)) * (cell / 10) ** 3  # ml
        self.weight = volume / (volume + 60.0)
        self.overlap = 0.0

    def cost(self, at):
        """1 - Dice, mean over the groups by weight, where the anatomy reaches; and how much of the body lies beyond its ends."""
        grid = torch.stack([2 * at[a] / self.size[a] - 1 for a in (2, 1, 0)], -1)[None]
        drawn = F.grid_sample(self.source[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        reached = self.counted * ((at[0] > 0) & (at[0] < self.size[0]))
        both = (drawn * self.target * reached).sum((1, 2, 3))
        squares = ((drawn.square() + self.target.square()) * reached).sum((1, 2, 3))
        dice = 2 * both / squares.clamp(min=1e-3)
        self.overlap = float((self.weight * dice.detach()).sum() / self.weight.sum())
        body = self.target.amax(0)
        beyond = (torch.relu(-at[0]) + torch.relu(at[0] - self.size[0])).clamp(max=150.0)  # mm, so that there is a way back
        return (self.weight * (1 - dice)).sum() / self.weight.sum() + UNCOVERED * (body * beyond).sum() / body.sum() / 150.0


@dataclass(frozen=True, eq=False)
class _Placement:
    """``centre`` of the target comes to ``origin`` of the anatomy; ``change`` (3, 3): shift in mm, log scale, angles in rad."""

    centre: torch.Tensor
    origin: torch.Tensor
    change: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        shift, scale, angle = self.change
        x = (x - self.centre[:, None, None, None]) * scale.exp()[:, None, None, None]
        return torch.einsum("ab,bdhw->adhw", _turn(angle), x) + (self.origin + shift)[:, None, None, None]

    def unlikely(self):
        _, scale, angle = self.change
        return 0.1 * ((scale / SCALE_SPREAD).square().mean() + (angle / TURN_SPREAD).square().mean())


def _starts(level: _Level, has_outline: bool) -> list[_Placement]:
    """Placements at several heights along the body, where what both show lies one over the other."""
    target = level.target[:, 1:-1, 1:-1, 1:-1]
    tells_height = len(target) > has_outline  # something but the outline
    seen = slice(int(has_outline and tells_height), None)
    centre, origin = (_middle(shares[seen].sum(0)) * level.cell for shares in (target, level.source))
    scale = torch.zeros(3)
    if has_outline:
        widths = [_width(shares[0]) for shares in (target, level.source)]
        scale[1:] = (widths[1] / widths[0]).log().clamp(-0.3, 0.3)
        scale[0] = scale[1:].mean() / 2
    reach = 4 if tells_height else int((float(level.size[0]) + target.shape[1] * level.cell) / 2 / STARTS_MM)
    shifts = [torch.tensor([n * STARTS_MM, 0.0, 0.0]) for n in range(-reach, reach + 1)]
    return [_Placement(centre, origin, torch.stack([shift, scale, torch.zeros(3)])) for shift in shifts]


def _placed(level: _Level, start: _Placement, iterations: int, check) -> tuple[_Placement, float]:
    """The placement after some steps of Adam, and its cost."""
    steps = torch.zeros(3, 3, requires_grad=True)
    rate = torch.tensor([[6.0], [0.02], [0.02]])  # mm, log scale, rad
    optimizer = torch.optim.Adam([steps], 1.0, (0.8, 0.95))
    for _ in range(iterations):
        check()
        optimizer.zero_grad()
        placement = replace(start, change=start.change + steps * rate)
        cost = level.cost(placement(level.x)) + placement.unlikely()
        cost.backward()
        optimizer.step()
    return replace(start, change=start.change + steps.detach() * rate), float(cost.detach())


def _bent(level: _Level, at: torch.Tensor, step: float, iterations: int, check) -> torch.Tensor:
    """``at`` and a smooth displacement, with a knot every ``step`` cells, that fits better."""
    weights = splines(at.shape[1:], step)
    knots = torch.zeros(3, *(m.shape[1] for m in weights), requires_grad=True)
    optimizer = torch.optim.Adam([knots], 2.5, (0.8, 0.95))  # mm
    for _ in range(iterations):
        check()
        optimizer.zero_grad()
        displacement = smooth(knots, weights)
        cost = level.cost(at + displacement) + STIFF * _strain(displacement, level.cell)
        cost.backward()
        optimizer.step()
    with torch.no_grad():
        return at + smooth(knots, weights)


def _middle(share):
    """Centre of mass (3,) of cells (D, H, W)."""
    total = share.sum().clamp(min=1e-3)
    return torch.stack([(share.sum([b for b in range(3) if b != a]) * torch.arange(n)).sum() / total for a, n in enumerate(share.shape)])


def _width(share):
    """Extent (2,) in cells of a body along j and i: the mean over the slices where there is any."""
    slices = share[share.sum((1, 2)) > 1] > 0.5
    return torch.stack([slices.any(3 - axis).sum(1).float().mean() for axis in (1, 2)]).clamp(min=1)


def _turn(angle):
    """Rotation matrix of small angles about the three axes."""
    a, b, c = angle
    zero = torch.zeros(())
    return torch.matrix_exp(torch.stack([torch.stack([zero, -c, b]), torch.stack([c, zero, -a]), torch.stack([-b, a, zero])]))


def splines(size, step: float) -> list[torch.Tensor]:
    """For each axis the weights (n, knots) of cubic B-splines with a knot every ``step`` cells, one beyond each end."""
    matrices = []
    for n in size:
        intervals = max(1, round((n - 1) / step))
        at = torch.linspace(0, intervals, n)[:, None] - torch.arange(-1, intervals + 2)
        far, near = (2 - at.abs()).clamp(min=0) ** 3, (1 - at.abs()).clamp(min=0) ** 3
        matrices.append((far - 4 * near) / 6)
    return matrices


def smooth(knots, weights):
    """Displacement (3, D, H, W) of ``knots`` (3, d, h, w)."""
    along, down, across = weights
    x = down @ (knots @ across.T)  # (3, d, H, W)
    return torch.einsum("kd,ndji->nkji", along, x)


def _strain(displacement, cell):
    """Mean squared slope of a displacement (3, D, H, W) in mm."""
    return 100 * sum((displacement.diff(dim=axis) / cell).square().mean() for axis in (1, 2, 3))
