"""The average of several persons' chests: tissue maps of each, brought to their common mean shape, then averaged.

Nothing of one person remains: the scans are scaled to the mean size of the lungs, deformed to the mean of all (diffeomorphic demons,
three rounds, the mean of the last round being the target of the next), and only averages over all persons leave this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import UnusableInput
from ..smoothing import smoothed

SPACING = 3.0
"""Grid of the averages in mm: coarser than a rib, finer than an organ's border needs (they are averaged as smooth fields)."""
SIZE = (148, 104, 124)
"""Voxels (i, j, k) of that grid; its center is the middle of the lungs' bounding box."""
CASES = (
    "lidc-idri-0001",
    "lidc-idri-0002",
    "lidc-idri-0314",
    "nsclc-radiogenomics-r01-001",
    "4d-lung-113",
    "cmb-crc-01068",
    "lung-pet-ct-dx-a0001",
)
"""Whole chests, back on the table, apices and diaphragm in view."""
CHANNELS = ("body", "lung", "fat", "soft", "bone", "hounsfield")


@dataclass(frozen=True)
class Average:
    """Averaged fields (k, j, i) on one LPS grid centered on the lungs: per tissue the fraction of persons, and the mean HU.

    ``lung`` and ``body`` are median signed distances in mm, negative inside.
    """

    fields: dict[str, np.ndarray]
    cases: tuple[str, ...]

    def image(self, name: str) -> sitk.Image:
        return _on_grid(sitk.GetImageFromArray(np.ascontiguousarray(self.fields[name], np.float32)))

    def save(self, path):
        np.savez_compressed(path, cases=np.array(self.cases), **{name: a.astype(np.float16) for name, a in self.fields.items()})

    @classmethod
    def load(cls, path) -> Average:
        with np.load(path) as stored:
            return cls({name: stored[name].astype(np.float32) for name in CHANNELS}, tuple(stored["cases"].tolist()))


def average_chest(data, cases=CASES, *, rounds: int = 3, say=print) -> Average:
    """Average the chests ``cases`` of the folder ``data`` (one folder a case with ``ct.nrrd``).

    Raises
    ------
    UnusableInput
        If a case is missing or fewer than five are given: an average of a few still looks like one of them.
    """
    if len(cases) < 5:
        raise UnusableInput(f"An atlas needs at least five persons, {len(cases)} given; name more cases.")
    scans = []
    for case in cases:
        path = Path(data) / case / "ct.nrrd"
        if not path.exists():
            raise UnusableInput(f"{path} does not exist; unpack the training scans there or name other cases.")
        scans.append(_scan(path))
        say(f"{case}: lungs {np.round(scans[-1][2])} mm")
    extent = np.mean([extent for _, _, extent in scans], axis=0)  # mean size of the lungs' bounding box
    boxed = [_to_box(ct, center, own / extent) for ct, center, own in scans]
    # Beyond a scan's first and last slice nothing is known: its last slice is repeated for the registration, and left out of the average.
    moving = [_to_unit_contrast(image) for image, _ in boxed]
    target = _mean(moving)
    for number in range(rounds):
        fields = [_demons(target, image) for image in moving]
        # What all share is the target's own bias: taking it away leaves the mean shape.
        shared = np.mean([sitk.GetArrayViewFromImage(field) for field in fields], axis=0)
        fields = [_on_grid(sitk.GetImageFromArray(sitk.GetArrayViewFromImage(field) - shared, isVector=True)) for field in fields]
        warped = [_warp(image, field) for image, field in zip(moving, fields, strict=True)]
        target = _mean(warped)
        spread = np.mean([np.std(sitk.GetArrayFromImage(w - target)) for w in warped])
        say(f"round {number + 1}: spread of the aligned scans {spread:.4f}")
    stacks = {name: [] for name in CHANNELS}
    known = np.stack([sitk.GetArrayFromImage(_warp(known, field)) > 0.5 for (_, known), field in zip(boxed, fields, strict=True)])
    known |= ~known.any(axis=0)  # where nobody was scanned the repeated slices have to do
    for (image, _), field in zip(boxed, fields, strict=True):
        for name, array in tissues(_warp(image, field)).items():
            stacks[name].append(array.astype(np.float32))
    return Average({name: _average(np.stack(stacks.pop(name)), known, name in ("body", "lung")) for name in CHANNELS}, tuple(cases))


def _average(stack, known, median):
    """Mean over those who were scanned there; of distances the median, so that one diseased apex does not dent the lung of all."""
    stack[~known] = np.nan
    return (np.nanmedian if median else np.nanmean)(stack, axis=0).astype(np.float32)


def tissues(ct: sitk.Image) -> dict[str, np.ndarray]:
    """Soft tissue maps of a scan ``ct`` (k, j, i): signed distances of body and lungs in mm, fractions of the others in 0..1."""
    body, lung = _body_and_lungs(ct)
    hounsfield = sitk.GetArrayFromImage(ct)
    inside = sitk.GetArrayViewFromImage(body) > 0
    air = sitk.GetArrayViewFromImage(lung) > 0
    ramp = lambda low, high: np.clip((hounsfield - low) / (high - low), 0, 1)  # noqa: E731
    rest = inside & ~air
    return {
        "body": _distance(body),
        "lung": _distance(lung),
        "fat": (ramp(-250, -200) * (1 - ramp(-40, -10))) * rest,
        "soft": (ramp(-40, -10) * (1 - ramp(150, 200))) * rest,
        "bone": ramp(130, 220) * rest,
        "hounsfield": hounsfield,
    }


def _scan(path):
    """A scan at the atlas's spacing, with the center and extent of its lungs (x, y, z) in LPS mm."""
    ct = sitk.ReadImage(str(path), sitk.sitkFloat32)
    sigma = [max(0.45 * np.sqrt(max(SPACING**2 - s**2, 0)), 1e-3) for s in ct.GetSpacing()]
    ct = smoothed(ct, sigma)
    size = [int(np.ceil(n * s / SPACING)) for n, s in zip(ct.GetSize(), ct.GetSpacing(), strict=True)]
    ct = sitk.Resample(ct, size, sitk.Transform(), sitk.sitkLinear, ct.GetOrigin(), [SPACING] * 3, ct.GetDirection(), -1024.0)
    _, lung = _body_and_lungs(ct)
    k, j, i = np.nonzero(sitk.GetArrayViewFromImage(lung))
    low, high = (np.array([np.quantile(axis, q) for axis in (i, j, k)]) for q in (0.002, 0.998))
    center = np.array(ct.TransformContinuousIndexToPhysicalPoint(((low + high) / 2).tolist()))
    return ct, center, (high - low) * SPACING


def _body_and_lungs(ct):
    """The body without holes and, inside it, the lungs with the large airways."""
    body = sitk.BinaryMorphologicalOpening(ct > -300, (2, 2, 1))
    body = _largest(body, 1)
    filled = np.stack([sitk.GetArrayFromImage(sitk.BinaryFillhole(body[:, :, k])) for k in range(body.GetSize()[2])])
    filled = sitk.GetImageFromArray(filled)
    filled.CopyInformation(body)
    return filled, sitk.BinaryMorphologicalClosing(_largest((ct < -350) & filled, 2), (2, 2, 2))


def _largest(mask, count):
    labels = sitk.RelabelComponent(sitk.ConnectedComponent(mask), minimumObjectSize=5000 if count > 1 else 1)
    return sitk.Cast((labels > 0) & (labels <= count), sitk.sitkUInt8)


def _distance(mask):
    return sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True))


def _on_grid(image):
    image.SetSpacing([SPACING] * 3)
    image.SetOrigin([-(n - 1) / 2 * SPACING for n in SIZE])
    return image


def _to_box(ct, center, scale):
    """The scan on the atlas's grid, its lungs' bounding box brought to the mean one; and where it is known (1) or repeated (0)."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(np.diag(scale).ravel().tolist())
    transform.SetTranslation(center.tolist())
    grid = _on_grid(sitk.Image(list(SIZE), sitk.sitkFloat32))
    known = sitk.Resample(ct * 0 + 1, grid, transform, sitk.sitkLinear, 0.0)
    # In-plane everything beyond the scan is air; along the body its last slice goes on.
    padded = sitk.ConstantPad(ct, [40, 40, 0], [40, 40, 0], -1024.0)
    image = sitk.Resample(padded, grid, transform, sitk.sitkLinear, -1024.0, sitk.sitkFloat32, True)
    k_known = sitk.GetArrayFromImage(known).max(axis=(1, 2))  # in-plane the outside is known to be air
    known = sitk.GetImageFromArray(np.broadcast_to(k_known[:, None, None], SIZE[::-1]).copy())
    return image, _on_grid(known)


def _to_unit_contrast(ct):
    """What the registration sees: air 0, lungs 0.4, then fat, muscle and bone each well apart; vessels in the lung left out."""
    body, lung = _body_and_lungs(ct)
    values = np.interp(sitk.GetArrayFromImage(ct), (-1000, -200, -100, -50, 60, 120, 500), (0.5, 0.8, 0.8, 0.9, 1.2, 1.3, 2.0))
    values[sitk.GetArrayViewFromImage(lung) > 0] = 0.4
    values[sitk.GetArrayViewFromImage(body) == 0] = 0.0
    return smoothed(_on_grid(sitk.GetImageFromArray(values.astype(np.float32))), 0.7 * SPACING)


def _demons(fixed, moving):
    """Displacement field (mm) that brings ``moving`` onto ``fixed``, first at half the resolution."""
    field = None
    for shrink, iterations in ((4, 80), (2, 60), (1, 25)):
        a, b = (sitk.Shrink(smoothed(image, shrink * SPACING / 3), [shrink] * 3) for image in (fixed, moving))
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(1.6)
        if field is None:
            field = demons.Execute(a, b)
        else:
            field = demons.Execute(a, b, sitk.Resample(field, a, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkUnknown, True))
    return sitk.Resample(field, fixed, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkUnknown, True)


def _mean(images):
    return sitk.Cast(sum(images[1:], images[0]) / len(images), sitk.sitkFloat32)


def _warp(image, field):
    return sitk.Resample(image, image, sitk.DisplacementFieldTransform(sitk.Image(field)), sitk.sitkLinear, 0.0, image.GetPixelID(), True)
