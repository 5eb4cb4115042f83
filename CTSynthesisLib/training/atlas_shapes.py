"""Shapes drawn as distances: tubes, ellipsoids and bands in LPS millimetres, painted on a canvas whose space is gently deformed.

Every shape is a function of a :class:`Window` (a box of the canvas with the coordinates of its voxels) that returns signed distances
in mm, negative inside. Distances, not labels, are joined, cut and smoothed, so that borders stay smooth at any resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FAR = 60.0
"""Distance in mm beyond which nobody asks how far away a shape is."""


@dataclass
class Window:
    """A box of the canvas: index ``slices`` (k, j, i) and the coordinates x (left), y (back), z (head) of its voxels in mm."""

    slices: tuple[slice, slice, slice]
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    canvas: Canvas

    def near(self, low, high) -> tuple[slice, slice, slice]:
        """Indices within this window of the box from ``low`` to ``high``."""
        return tuple(
            slice(max(inner.start - outer.start, 0), max(inner.stop - outer.start, 0))
            for inner, outer in zip(self.canvas.slices(low, high), self.slices, strict=True)
        )

    def cut(self, array: np.ndarray) -> np.ndarray:
        """This window's part of an array over the whole canvas."""
        return array[self.slices]


class Canvas:
    """A voxel grid (LPS, axial) on which shapes are painted; the value painted last wins.

    Parameters
    ----------
    shape : (k, j, i)
    spacing, origin : (x, y, z) in mm, LPS
    displacement : (3, k, j, i) array, optional
        Where each voxel looks: shapes are evaluated at the voxel's place plus this vector (x, y, z) in mm.
    """

    def __init__(self, shape, spacing, origin, displacement=None):
        self.spacing, self.origin = np.asarray(spacing, float), np.asarray(origin, float)
        self.labels = np.zeros(shape, np.uint8)
        self.names: dict[str, int] = {}
        z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
        self.x, self.y, self.z = (
            axis * np.float32(s) + np.float32(o) for axis, s, o in zip((x, y, z), self.spacing, self.origin, strict=True)
        )
        self.reach = 0.0
        if displacement is not None:
            self.x, self.y, self.z = (axis + u for axis, u in zip((self.x, self.y, self.z), displacement, strict=True))
            self.reach = float(np.abs(displacement).max())
        else:
            self.x, self.y, self.z = (np.broadcast_to(axis, shape) for axis in (self.x, self.y, self.z))

    def slices(self, low, high):
        begin = np.floor((np.asarray(low) - self.reach - self.origin) / self.spacing)
        end = np.ceil((np.asarray(high) + self.reach - self.origin) / self.spacing) + 1
        shape = self.labels.shape[::-1]
        pairs = [(int(np.clip(b, 0, n)), int(np.clip(e, 0, n))) for b, e, n in zip(begin, end, shape, strict=True)]
        return tuple(slice(b, max(b, e)) for b, e in pairs[::-1])

    def window(self, low=(-1e4,) * 3, high=(1e4,) * 3) -> Window:
        slices = self.slices(low, high)
        return Window(slices, self.x[slices], self.y[slices], self.z[slices], self)

    def value(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names) + 1)

    def mask(self, *names: str) -> np.ndarray:
        return np.isin(self.labels, [self.names[name] for name in names if name in self.names])

    def paint(self, name: str, inside, window: Window | None = None, over: tuple[str, ...] | None = None):
        """Give the voxels ``inside`` (of the window) this name; with ``over``, only where one of these names stood."""
        part = self.labels if window is None else self.labels[window.slices]
        if over is not None:
            inside = inside & np.isin(part, [self.names[n] for n in over if n in self.names])
        part[inside] = self.value(name)

    def distance(self, shape: Shape) -> np.ndarray:
        """The shape's distance on the whole canvas, ``FAR`` outside its box."""
        total = np.full(self.labels.shape, FAR, np.float32)
        window = self.window(shape.low - 5, shape.high + 5)
        total[window.slices] = shape(window)
        return total

    def draw(self, name: str, shape: Shape, over=None, under=(), where=None):
        """Paint a shape; only ``over`` some names, or ``under`` some that stay; ``where`` (a mask over the canvas) limits it."""
        window = self.window(shape.low, shape.high)
        if 0 in window.x.shape:
            return
        inside = shape(window) < 0
        if where is not None:
            inside &= window.cut(where)
        if under:
            inside &= ~np.isin(window.cut(self.labels), [self.names[n] for n in under if n in self.names])
        self.paint(name, inside, window, over)


@dataclass(frozen=True)
class Shape:
    """A signed distance with the box it lies in."""

    distance: object
    low: np.ndarray
    high: np.ndarray

    def __call__(self, window: Window) -> np.ndarray:
        return self.distance(window)

    def grown(self, margin: float) -> Shape:
        return Shape(lambda w: self(w) - margin, self.low - margin, self.high + margin)

    def __or__(self, other: Shape) -> Shape:
        return joined(self, other)

    def __and__(self, other: Shape) -> Shape:
        return Shape(lambda w: np.maximum(self(w), other(w)), self.low, self.high)

    def __sub__(self, other: Shape) -> Shape:
        return Shape(lambda w: np.maximum(self(w), -other(w)), self.low, self.high)


def joined(*shapes: Shape, blend: float = 0.0) -> Shape:
    """Union; ``blend`` rounds the seams over that many mm (polynomial smooth minimum)."""
    low, high = np.min([s.low for s in shapes], axis=0), np.max([s.high for s in shapes], axis=0)

    def distance(window):
        total = shapes[0](window)
        for shape in shapes[1:]:
            other = shape(window)
            if blend:
                h = np.clip(0.5 + 0.5 * (other - total) / blend, 0, 1)
                total = other + (total - other) * h - blend * h * (1 - h)
            else:
                total = np.minimum(total, other)
        return total

    return Shape(distance, low - blend, high + blend)


def ellipsoid(center, radii, axes=None) -> Shape:
    """``axes``: rows are the directions of the three radii (made orthonormal in order)."""
    center, radii = np.asarray(center, float), np.asarray(radii, float)
    axes = orthonormal(axes) if axes is not None else np.eye(3)
    reach = np.sqrt(((axes * radii[:, None]) ** 2).sum(axis=0)) + 3

    def distance(w):
        local = [sum(c * (p - o) for c, p, o in zip(axis, (w.x, w.y, w.z), center, strict=True)) for axis in np.float32(axes)]
        near = np.sqrt(sum((p / np.float32(r)) ** 2 for p, r in zip(local, radii, strict=True)))
        slope = np.sqrt(sum((p / np.float32(r * r)) ** 2 for p, r in zip(local, radii, strict=True)))
        return near * (near - 1) / np.maximum(slope, 1e-6)

    return Shape(distance, center - reach, center + reach)


def half_space(point, normal, low, high) -> Shape:
    """Everything behind the plane through ``point`` (away from ``normal``), asked within a box."""
    normal = np.asarray(normal, float) / np.linalg.norm(normal)
    p = np.asarray(point, float)
    return Shape(
        lambda w: np.float32(normal[0]) * (w.x - p[0]) + np.float32(normal[1]) * (w.y - p[1]) + np.float32(normal[2]) * (w.z - p[2]),
        np.asarray(low, float), np.asarray(high, float),
    )  # fmt: skip


def tube(points, radii, step: float | None = None) -> Shape:
    """A smooth round tube through ``points`` (n, 3) with ``radii`` (n or one), rounded at its ends."""
    path, width = spline(points, radii, step or max(3.0, float(np.min(radii)) / 2))
    low, high = (path - width[:, None]).min(axis=0) - 3, (path + width[:, None]).max(axis=0) + 3

    def distance(w):
        total = np.full(w.x.shape, FAR, np.float32)
        for a, b, ra, rb in zip(path[:-1], path[1:], width[:-1], width[1:], strict=True):
            margin = max(ra, rb) + 6
            part = w.near(np.minimum(a, b) - margin, np.maximum(a, b) + margin)
            x, y, z = (axis[part] - np.float32(o) for axis, o in zip((w.x, w.y, w.z), a, strict=True))
            d = np.float32(b - a)
            t = np.clip((x * d[0] + y * d[1] + z * d[2]) / max(float(d @ d), 1e-6), 0, 1)
            away = np.sqrt((x - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (z - t * d[2]) ** 2) - (np.float32(ra) + t * np.float32(rb - ra))
            np.minimum(total[part], away, out=total[part])
        return total

    return Shape(distance, low, high)


def band(points, normals, half_widths, half_thickness) -> Shape:
    """A flat rounded bar along ``points`` (n, 3): thin along ``normals`` (n, 3), wide across path and normal. Ribs, sternum, scapula."""
    path, wide = spline(points, half_widths, 3.0)
    _, thin = spline(points, half_thickness, 3.0)
    normal, _ = spline(normals, 1.0, 3.0, like=points)
    reach = np.maximum(wide, thin)
    low, high = (path - reach[:, None]).min(axis=0) - 3, (path + reach[:, None]).max(axis=0) + 3

    def distance(w):
        total = np.full(w.x.shape, FAR, np.float32)
        for n in range(len(path) - 1):
            a, b = path[n], path[n + 1]
            margin = max(reach[n], reach[n + 1]) + 4
            part = w.near(np.minimum(a, b) - margin, np.maximum(a, b) + margin)
            along, _, across = orthonormal([b - a, normal[n], np.cross(b - a, normal[n])])
            depth = np.cross(across, along)
            x, y, z = (axis[part] - np.float32(o) for axis, o in zip((w.x, w.y, w.z), a, strict=True))
            s, u, v = (np.float32(e[0]) * x + np.float32(e[1]) * y + np.float32(e[2]) * z for e in (along, across, depth))
            length = float(np.linalg.norm(b - a))
            t = np.clip(s / max(length, 1e-6), 0, 1)
            over = s - t * length
            r_wide, r_thin = wide[n] + t * (wide[n + 1] - wide[n]), thin[n] + t * (thin[n + 1] - thin[n])
            away = (np.sqrt((u / r_wide) ** 2 + (v / r_thin) ** 2 + (over / r_thin) ** 2) - 1) * np.minimum(r_thin, r_wide)
            np.minimum(total[part], away, out=total[part])
        return total

    return Shape(distance, low, high)


def spline(points, values, step, like=None):
    """Catmull-Rom curve through ``points``, and ``values`` along it, about every ``step`` mm (counted along ``like`` when given)."""
    points = np.asarray(points, float)
    values = np.broadcast_to(np.asarray(values, float), (len(points),))
    lengths = np.linalg.norm(np.diff(points if like is None else np.asarray(like, float), axis=0), axis=1)
    ends = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    path, width = [], []
    for n, length in enumerate(lengths):
        t = np.arange(0, 1, 1 / max(int(np.ceil(length / step)), 1))[:, None]
        p0, p1, p2, p3 = ends[n : n + 4]
        path.append(0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3))
        s = t[:, 0] * t[:, 0] * (3 - 2 * t[:, 0])
        width.append(values[n] * (1 - s) + values[n + 1] * s)
    return np.vstack([*path, points[-1:]]), np.concatenate([*width, values[-1:]])


def orthonormal(rows) -> np.ndarray:
    """Gram-Schmidt on three rows."""
    rows = np.array(rows, float)
    for n in range(3):
        for m in range(n):
            rows[n] -= (rows[n] @ rows[m]) * rows[m]
        rows[n] /= np.linalg.norm(rows[n]) + 1e-12
    return rows
