"""Bones of the sample atlas: spine, ribs with their cartilages, sternum and shoulder girdle, fitted to the averaged chest.

Coordinates are LPS mm about the middle of the lungs. Heights of vertebrae and the ribs' descent are those of adults (Gray's Anatomy;
Panjabi 1991 for the thoracic vertebrae); where the spine and the chest wall lie was read off the averaged chest.
"""

from __future__ import annotations

import numpy as np

from .atlas_shapes import Shape, band, ellipsoid, joined, tube

SPINE_X = -2.5
# Height z -> back coordinate y of the vertebral bodies' front and of the canal's center, in the averaged chest.
_Z = (-180, -165, -150, -130, -110, -90, -70, -50, -30, -10, 10, 30, 50, 70, 90, 110, 130, 150)
_FRONT = (10, 13, 17, 24, 30, 34.5, 38, 41, 43, 43.5, 43, 38.5, 31.5, 23, 13, 1, -9, -17)
_CANAL = (57, 59, 61.5, 65, 69.5, 74, 78, 80.5, 82, 82.5, 81.5, 77, 69, 59.5, 48.5, 35, 22.5, 13)
# Center heights: T1 beside the lung's apex, T4/T5 at the carina, T12 at the foot of the lung.
LEVELS = ("C6", "C7", *(f"T{n}" for n in range(1, 13)), "L1", "L2")
HEIGHTS = (14.5, 15.5, 17, 18, 19, 19.6, 20.2, 20.8, 21.3, 21.8, 22.5, 23.3, 24.2, 25.5, 27, 28)
T1_Z = 113.0
# How far ribs 1..12 fall from head to front end (mm), and how far around they reach (degrees from the back).
RIB_FALL = (36, 56, 72, 82, 90, 98, 104, 106, 100, 88, 62, 34)
RIB_END = (152, 158, 156, 154, 151, 147, 141, 131, 120, 108, 78, 44)
PLEURA_TO_RIB = 6.0
STERNAL_Z = (80, 53, 33, 14, -5, -22, -36)  # where cartilages 1..7 reach the sternum
STERNUM_Y = ((-110, -95), (-80, -95.5), (-50, -95), (-25, -93.5), (0, -90), (25, -84), (45, -76.5), (55, -71), (70, -58), (92, -45))


def centers() -> dict[str, float]:
    """Center height z of each vertebra."""
    middle = np.cumsum(HEIGHTS) - np.array(HEIGHTS) / 2
    return dict(zip(LEVELS, (T1_Z + middle[LEVELS.index("T1")] - middle).tolist(), strict=True))


def front(z):
    return np.interp(z, _Z, _FRONT)


def canal(z):
    return np.interp(z, _Z, _CANAL)


def sternum_y(z):
    return np.interp(z, *zip(*STERNUM_Y, strict=True))


def draw_spine(canvas):
    """Vertebrae C6 to L2 with discs, the canal and the cord, as far as the canvas reaches."""
    z_of = centers()
    bottom, top = canvas.z.min() - 15, canvas.z.max() + 15
    for name, height in zip(LEVELS, HEIGHTS, strict=True):
        if bottom < z_of[name] < top:
            canvas.draw("intervertebral_discs", _body(z_of[name] - height / 2, 9.0, z_of[name], 0.93))
    for name, height in zip(LEVELS, HEIGHTS, strict=True):
        if bottom < z_of[name] < top:
            canvas.draw(f"vertebrae_{name}", _vertebra(name, z_of[name], height))
    z = np.arange(-190, 160, 12.0)
    line = np.column_stack([np.full_like(z, SPINE_X), canal(z), z])
    canvas.draw("spinal_canal", tube(line, 8.0))
    canvas.draw("spinal_cord", tube(line[z > -150], 4.6))


def _frame(z):
    """Direction of the spine (y, z) at height z, and the middle between front and canal."""
    middle = lambda h: (front(h) + canal(h) - 8.0) / 2  # noqa: E731
    slope = (middle(z + 12) - middle(z - 12)) / 24
    up = np.array([slope, 1.0]) / np.hypot(slope, 1.0)
    return up, middle(z), (canal(z) - 8.0 - front(z)) / 2


def _half_width(z):
    return np.interp(z, (-170, -120, -50, 20, 70, 110, 150), (24, 21, 17.5, 15.5, 15, 16.5, 15))


def _body(z, height, z_size, share):
    """A vertebral body or disc: a bean-shaped drum across the spine's direction, its waist a little narrower than its plates."""
    up, y, half_depth = _frame(z)
    half_width = _half_width(z_size)

    def distance(w):
        across, along = (w.y - y) * up[1] - (w.z - z) * up[0], (w.y - y) * up[0] + (w.z - z) * up[1]
        waist = share * (0.93 + 0.07 * np.minimum((2 * along / height) ** 2, 1.0))
        x = np.abs(w.x - SPINE_X) / half_width
        back = np.clip(across / half_depth, -1.5, 1.5)
        radius = (x**2.3 + np.abs(back) ** 2.3) ** (1 / 2.3)  # fuller than an ellipse
        side = (radius - waist) * min(half_depth, half_width)
        plate = np.abs(along) - height / 2
        edge = np.minimum(np.maximum(side, plate), 0) + np.hypot(np.maximum(side + 1.5, 0), np.maximum(plate + 1.5, 0)) - 1.5
        return np.maximum(np.maximum(side, plate), edge)

    reach = np.array([half_width + 4, half_depth + 8, height / 2 + 10])
    center = np.array([SPINE_X, y, z])
    return Shape(distance, center - reach, center + reach)


def _vertebra(name, z, height):
    thoracic = name.startswith("T")
    number = int(name[1:])
    body = _body(z, height * (0.83 if thoracic else 0.76), z, 1.0)
    up, y, half_depth = _frame(z)
    c = canal(z)
    half_width = _half_width(z)
    top = z + 0.22 * height
    parts = []
    for side in (-1, 1):
        at = lambda x, y, z, side=side: (SPINE_X + side * x, y, z)  # noqa: E731
        lamina = at(11.5, c + 5.0, z - 1)
        parts.append(tube([at(half_width * 0.66, y + half_depth * 0.72, top), at(11.8, c - 3, top - 1), lamina], [4.6, 4.2, 4.4]))
        # Lamina: from the pedicle to the base of the spinous process, lower than it is high.
        plate = [at(11.5, c + 3, z), at(7, c + 10.0, z - 3), at(0, c + 13.0, z - 6)]
        parts.append(band(plate, [(side, 0.6, 0), (side * 0.7, 1, 0.2), (0, 1, 0.2)], [9, 8.5, 8.5], 3.2))
        parts.append(tube([at(12, c + 4, z + height * 0.42), at(12.5, c + 6, z), at(12, c + 8, z - height * 0.45)], [3.8, 4.8, 3.8]))
        length, rise = (np.interp(number, (1, 6, 10, 12), (33, 31, 26, 19)), 4) if thoracic else ((34, -1) if name[0] == "L" else (24, 0))
        back = np.interp(number, (1, 6, 12), (9, 12, 10)) if thoracic else 2
        transverse = [at(13, c + 5, z), at(length * 0.75, c + 5 + back * 0.7, z + rise * 0.7), at(length, c + 5 + back, z + rise)]
        parts.append(tube(transverse, [4.6, 4.0, 4.8]))
    steep = np.interp(number, (1, 3, 5, 8, 10, 12), (14, 24, 36, 36, 24, 12)) if thoracic else (8 if name[0] == "L" else 12)
    reach = np.interp(number, (1, 3, 8, 12), (33, 28, 25, 26)) if thoracic else (30 if name[0] == "L" else 32)
    tall = (5.5, 5.5, 4.5) if thoracic and number < 11 else (8.5, 9, 8.5)
    spinous = [(SPINE_X, c + 10 + reach * t, z - 5 - steep * t) for t in (0, 0.5, 1)]
    parts.append(band(spinous, [(1, 0, 0)] * 3, tall, [3.8, 2.6, 3.4]))
    shape = joined(body, *parts, blend=3.0)
    hole = Shape(lambda w: 8.0 - np.hypot(w.x - SPINE_X, w.y - canal(w.z)), shape.low, shape.high)
    return shape & hole


class Cage:
    """The surface on which the ribs lie: radius around the vertical axis through (0, 5), over angle from the back and height.

    Beside the lungs it lies a few millimetres outside their averaged border, below them where the averaged bone is, in front at the
    sternum; smoothed along both directions, left and right alike.
    """

    CENTER_Y = 5.0
    ANGLES = np.arange(0.0, 181.0, 4.0)

    def __init__(self, average):
        bone, lung, body = (average.fields[name] for name in ("bone", "lung", "body"))
        count_k, count_j, count_i = bone.shape
        spacing = 3.0
        self.heights = (np.arange(count_k) - (count_k - 1) / 2) * spacing
        radii = np.arange(45.0, 165.0, 1.5)
        angle = np.deg2rad(self.ANGLES)[:, None]
        x, y = radii * np.sin(angle), self.CENTER_Y + radii * np.cos(angle)
        row = np.clip(np.rint(y / spacing + (count_j - 1) / 2).astype(int), 0, count_j - 1)
        total, moment = 1e-9, 0.0
        low = self.heights[:, None] < -90
        for side in (-1, 1):
            column = np.clip(np.rint(side * x / spacing + (count_i - 1) / 2).astype(int), 0, count_i - 1)
            deep, skin = lung[:, row, column], body[:, row, column]
            pleura = np.max(np.where(deep < 0, radii, 0), axis=-1)
            surface = np.max(np.where(skin < 0, radii, 0), axis=-1)
            weight = bone[:, row, column] * np.exp(-(((skin + 24) / 10) ** 2))
            ribs, rib_weight = (weight * radii).sum(-1) / (weight.sum(-1) + 1e-9), np.minimum(weight.sum(-1), 3.0)
            for found, trust in (
                (pleura + PLEURA_TO_RIB, 1.0 * (pleura > 50)),  # beside the lungs they tell where the ribs are
                (ribs, 0.3 * rib_weight * low * (pleura == 0)),  # below, the bone between skin and organs
                (surface - 24, 0.08 * low * (pleura == 0)),
            ):
                trust = trust * (self.ANGLES > 26) * (self.ANGLES < 162)
                total, moment = total + trust, moment + trust * found
        breast_bone = (self.CENTER_Y - sternum_y(self.heights))[:, None] / np.cos(np.pi - np.deg2rad(self.ANGLES[self.ANGLES >= 168]))
        total[:, self.ANGLES >= 168] = 2.0
        moment[:, self.ANGLES >= 168] = 2.0 * breast_bone
        self.radius = _smooth(moment) / (_smooth(total) + 1e-12)

    def __call__(self, angle, z):
        """Radius (mm) at ``angle`` (degrees from the back, either side) and height ``z``; arrays or numbers."""
        a = np.clip(np.asarray(angle, float) / 4.0, 0, len(self.ANGLES) - 1.001)
        h = np.clip((np.asarray(z, float) - self.heights[0]) / 3.0, 0, len(self.heights) - 1.001)
        i, k = a.astype(int), h.astype(int)
        s, t = a - i, h - k
        r = self.radius
        return (1 - t) * ((1 - s) * r[k, i] + s * r[k, i + 1]) + t * ((1 - s) * r[k + 1, i] + s * r[k + 1, i + 1])

    def point(self, side, angle, z, deeper=0.0):
        r = self(angle, z) - deeper
        return np.array([side * r * np.sin(np.deg2rad(angle)), self.CENTER_Y + r * np.cos(np.deg2rad(angle)), z])

    def distance(self, window):
        """Roughly how far (mm) outside the cage's surface each voxel lies."""
        x, y = window.x, window.y - self.CENTER_Y
        angle = np.rad2deg(np.arctan2(np.abs(x), y))
        return np.hypot(x, y) - self(angle, window.z)


def _smooth(field):
    """Gaussian over height (9 mm) and angle (8 degrees), reflected at the midline."""
    for axis, sigma in ((0, 3.0), (1, 2.0)):
        reach = int(4 * sigma)
        kernel = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
        width = [(reach, reach) if a == axis else (0, 0) for a in range(2)]
        padded = np.pad(field, width, mode="reflect" if axis else "edge")
        field = np.apply_along_axis(lambda line, k=kernel: np.convolve(line, k, "valid"), axis, padded)
    return field


def rib_path(cage, number, side):
    """Points (n, 3) of rib ``number`` from its head to its front end, and the cage's outward normals there."""
    level = f"T{number}"
    z_of = centers()
    head_z = z_of[level] + (HEIGHTS[LEVELS.index(level)] * (0.42 if 1 < number < 10 else 0.15))
    end, fall = RIB_END[number - 1], RIB_FALL[number - 1]
    y = (front(head_z) + canal(head_z)) / 2 + 5
    tubercle = np.array(
        [
            SPINE_X + side * (np.interp(number, (1, 3, 10, 12), (33, 34, 30, 27))),
            canal(head_z) + np.interp(number, (1, 6, 12), (12, 12, 14)),
            head_z - 1,
        ]
    )
    head = np.array([SPINE_X + side * (_half_width(head_z) + 2.0), y, head_z])
    points, normals = [head, (head * 0.45 + tubercle * 0.55) + (0, 1, 1), tubercle], []
    begin = 34.0 if number > 1 else 50.0
    for angle in np.append(np.arange(begin, end - 4, 9.0), end):
        t = (angle - 15) / (end - 15)
        around = (1 - np.cos(np.deg2rad(angle))) / (1 - np.cos(np.deg2rad(end)))
        z = head_z - 1 - fall * (0.5 * t + 0.5 * around)
        points.append(cage.point(side, angle, z))
    points = np.array(points)
    for p in points:
        out = np.array([p[0], p[1] - cage.CENTER_Y, 0.0])
        normals.append(out / np.linalg.norm(out) + ((0, 0, 1.6 if number == 1 else 0.6 if number == 2 else 0.1)))
    return points, np.array(normals)


def draw_ribs(canvas, cage):
    """Ribs 1 to 12 of both sides, with the cartilages that carry 1 to 10 to the sternum or to each other."""
    for side, word in ((-1, "right"), (1, "left")):
        ends = {}
        for number in range(12, 0, -1):
            points, normals = rib_path(cage, number, side)
            height = np.interp(np.linspace(0, 1, len(points)), (0, 0.12, 0.3, 0.9, 1), (4.2, 4.4, 6.6, 6.6, 7.2)) * (
                0.8 if number > 10 else 1.0
            )
            thick = np.interp(np.linspace(0, 1, len(points)), (0, 0.12, 0.3, 1), (4.2, 3.6, 4.0, 3.4)) * (0.85 if number > 10 else 1.0)
            ends[number] = points[-1]
            if number <= 10:
                _draw_cartilage(canvas, cage, number, side, ends)
            canvas.draw(f"rib_{word}_{number}", band(points, normals, height, thick))


def _draw_cartilage(canvas, cage, number, side, ends):
    start = ends[number]
    angle = RIB_END[number - 1]
    if number <= 7:
        goal_z, goal_angle = STERNAL_Z[number - 1], 180 - np.rad2deg(np.arctan2(15.0, 95.0))
    else:  # joins the cartilage above, a good way in front of its own rib
        goal_z, goal_angle = ends[number][2] + (26, 30, 26)[number - 8], RIB_END[number - 1] + (24, 22, 18)[number - 8]
    dip = 4.0 if number < 5 else 7.0
    t = np.linspace(0, 1, 5)
    z = start[2] + (goal_z - start[2]) * t**1.3 - dip * np.sin(np.pi * t) * (number > 2)
    points = np.array([cage.point(side, angle + (goal_angle - angle) * s, h) for s, h in zip(t, z, strict=True)])
    normals = points - (0, cage.CENTER_Y, 0)
    normals[:, 2] = 0
    canvas.draw("costal_cartilages", band(points, normals, 6.2, 3.6))


def draw_front_and_shoulders(canvas):
    """Sternum, clavicles, scapulae and the heads of the raised humeri."""
    z = np.array([90, 80, 66, 54, 46, 30, 10, -15, -38, -50, -62, -76.0])
    wide = np.array([19, 25, 19, 14, 14, 15.5, 16.5, 19, 17, 10, 6, 4.5])
    points = np.column_stack([np.zeros_like(z), sternum_y(z), z])
    canvas.draw("sternum", band(points, [(0, -1, 0.3)] * len(z), wide, [5, 6, 5.5, 5, 5, 5, 5, 5, 4.6, 3.6, 3, 2.5]))
    for side, word in ((-1, "right"), (1, "left")):
        at = lambda x, y, z, side=side: (side * x, y, z)  # noqa: E731
        canvas.draw(
            f"clavicula_{word}",
            tube([at(21, -42, 95), at(42, -35, 108), at(63, -22, 120), at(84, -6, 131), at(100, 8, 140)], [8.5, 6.5, 5.8, 6, 7]),
        )
        canvas.draw(f"scapula_{word}", _scapula(side))
        humerus = joined(ellipsoid(at(154, 8, 128), (20, 21, 21)), tube([at(158, 8, 130), at(162, 6, 160)], [17, 13]), blend=6)
        canvas.draw(f"humerus_{word}", humerus - _scapula(side).grown(2.0))


def _scapula(side):
    z = (-8, 5, 24, 48, 72, 96, 110)
    medial = ((121, 62), (115, 70), (105, 76), (97, 80), (97, 78), (108, 72), (116, 66))
    lateral = ((126, 58), (129, 54), (131, 49), (133, 44), (138, 34), (142, 24), (141, 20))

    def blade(w):
        px, py = (np.interp(w.z, z, [p[n] for p in medial]) for n in (0, 1))
        qx, qy = (np.interp(w.z, z, [q[n] for q in lateral]) for n in (0, 1))
        dx, dy = qx - px, qy - py
        x, y = side * w.x - px, w.y - py
        t = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
        # Thin in the middle, thick along the lateral border.
        norm = np.hypot(dx, dy)
        across = ((x - t * dx) * -dy + (y - t * dy) * dx) / norm
        beyond = ((x - t * dx) * dx + (y - t * dy) * dy) / norm
        thick = np.interp(t, (0, 0.15, 0.6, 0.85, 1), (3.2, 2.6, 2.6, 4.5, 5.5))
        return np.maximum(np.hypot(across, beyond) - thick, np.maximum(z[0] - w.z, w.z - z[-1]))

    low, high = ((80, 5, -12), (152, 92, 114))
    if side < 0:
        low, high = (-high[0], low[1], low[2]), (-low[0], high[1], high[2])
    at = lambda x, y, z: (side * x, y, z)  # noqa: E731
    plate = Shape(blade, np.array(low, float), np.array(high, float))
    ridge = tube([at(100, 82, 88), at(120, 82, 103), at(142, 70, 117), at(160, 48, 128), at(168, 30, 136)], [3.5, 4.5, 5, 6.5, 7])
    root = band([at(108, 78, 92), at(128, 66, 104), at(142, 48, 114)], [at(0.4, 0.6, -0.8)] * 3, [8, 14, 14], 2.6)
    glenoid = ellipsoid(at(139, 18, 116), (7, 13, 17))
    coracoid = tube([at(135, 8, 122), at(127, -8, 124), at(118, -18, 119)], [7, 5.5, 5])
    return joined(plate, ridge, root, glenoid, coracoid, blend=4.0)
