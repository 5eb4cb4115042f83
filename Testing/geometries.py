"""Grids that files and volumes have to survive: every kind that scanners and segmentation tools make."""

import numpy as np

from CTSynthesisLib.volume import Geometry

SHAPE = (6, 7, 9)


def rotation(about_z, about_x):
    """Rotation matrix in RAS, degrees."""
    a, b = np.deg2rad(about_z), np.deg2rad(about_x)
    around_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    around_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return around_z @ around_x


def grid(directions, spacing, origin, shape=SHAPE):
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(directions) * spacing
    matrix[:3, 3] = origin
    return Geometry(shape, matrix)


LPS = np.diag([-1.0, -1.0, 1.0])

GRIDS = {
    "axial": Geometry.from_spacing(SHAPE, (0.7, 0.7, 2.5), (120.5, 80.25, -300.0)),
    "anisotropic": Geometry.from_spacing(SHAPE, (0.7123456789, 0.8234567891, 2.5 / 3), (123.123456789, -321.1 / 7, 1000 / 3)),
    "oblique": grid(rotation(17, 11) @ LPS, (0.712345678, 0.8, 2.5 / 3), (123.123456, -321 / 7, 1000 / 3)),
    "left-handed": grid(rotation(17, 11) @ np.diag([-1.0, 1.0, 1.0]), (0.7, 0.8, 3.0), (1.5, 2.5, -3.5)),
    "feet first": grid(np.diag([-1.0, -1.0, -1.0]), (0.7, 0.8, 3.0), (1.5, 2.5, -3.5)),
    "sagittal": grid(np.array([[0, 0, -1.0], [-1.0, 0, 0], [0, 1.0, 0]]), (0.9, 0.9, 1.2), (10.0, 20.0, 30.0)),
    "half turn": grid(np.diag([1.0, -1.0, -1.0]), (1.0, 2.0, 3.0), (1.0, 1.0, 1.0)),
}
