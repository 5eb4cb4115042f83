"""A plain geometric thorax for unit tests: quick to make, and every voxel's structure is known. Not for pictures."""

import numpy as np

from CTSynthesisLib.volume import Geometry, LabelMap, Segment

# value, name, SNOMED code, color, centre (x, y, z) and half-axes in fractions of the half box; drawn in this order
STRUCTURES = (
    (1, "body", ("SCT", "123037004", "Body structure"), (0.85, 0.65, 0.53), (0.0, 0.0, 0.0), (0.90, 0.80, 5.0)),
    (2, "lung_left", ("SCT", "44029006", "Left lung"), (0.55, 0.77, 0.86), (0.42, -0.05, 0.0), (0.32, 0.52, 0.9)),
    (3, "lung_right", ("SCT", "3341006", "Right lung"), (0.44, 0.70, 0.82), (-0.42, -0.05, 0.0), (0.32, 0.52, 0.9)),
    (4, "heart", ("SCT", "80891009", "Heart"), (0.80, 0.36, 0.30), (0.13, -0.18, -0.3), (0.33, 0.30, 0.45)),
    (5, "aorta", ("SCT", "15825003", "Aorta"), (0.88, 0.22, 0.20), (0.13, 0.33, 0.0), (0.08, 0.09, 5.0)),
    (6, "vertebrae", ("SCT", "51282000", "Vertebra"), (0.95, 0.92, 0.78), (0.0, 0.52, 0.0), (0.12, 0.14, 5.0)),
)


def thorax(shape=(20, 64, 72), spacing=(4.5, 4.5, 6.0), origin=(160.0, 140.0, -900.0), structures=STRUCTURES) -> LabelMap:
    """A label map of ``shape`` (k, j, i); x runs to the patient's left, y to the back, z to the head."""
    z, y, x = (np.linspace(-1, 1, n).reshape([-1 if axis == a else 1 for a in range(3)]) for axis, n in enumerate(shape))
    array = np.zeros(shape, np.uint16)
    for value, _, _, _, (cx, cy, cz), (rx, ry, rz) in structures:
        array[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 <= 1] = value
    segments = tuple(Segment(value, name, code=code, color=color) for value, name, code, color, *_ in structures)
    return LabelMap(array, Geometry.from_spacing(shape, spacing, origin), segments)


def hounsfield(labelmap: LabelMap, values=None, noise=0.0) -> np.ndarray:
    """int16 HU (k, j, i) with one value for each segment's name, -1000 elsewhere, and Gaussian ``noise`` in HU."""
    values = values or {"body": 20, "lung_left": -850, "lung_right": -850, "heart": 45, "aorta": 40, "vertebrae": 250}
    array = np.full(labelmap.array.shape, -1000.0)
    for segment in labelmap.segments:
        array[labelmap.array == segment.value] = values[segment.name]
    return np.rint(array + np.random.default_rng(0).normal(0, noise, array.shape)).astype(np.int16)
