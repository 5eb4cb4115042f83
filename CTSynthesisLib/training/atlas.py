"""The sample segmentation: a chest averaged from several persons, gently deformed, with the organs drawn in.

``python -m CTSynthesisLib.training.atlas --data DIR -o FILE.seg.nrrd --seed N`` makes ``Resources/Samples/thorax.seg.nrrd``.

Body, lungs, chest wall, subcutaneous fat and muscle come from the average of seven chests (:mod:`atlas_average`), mirrored and averaged
again, so that no one person's shape is left. Bones (:mod:`atlas_skeleton`) and organs (:mod:`atlas_organs`) are drawn as smooth shapes that
fit the average. All shapes are evaluated in a space that a seeded random field deforms by a few millimetres, straight at the output's
resolution: no border is ever interpolated between labels.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import SynthesisFailed, UnusableInput
from ..smoothing import smoothed
from ..synthesis.lung_vessels import grow_vessels
from ..volume import Geometry, LabelMap, Segment
from . import atlas_organs as organs
from . import atlas_skeleton as skeleton
from .atlas_average import Average, average_chest
from .atlas_shapes import FAR, Canvas, ellipsoid, joined, tube

SHAPE, SPACING, ORIGIN = (149, 280, 400), (0.95, 0.95, 2.0), (-189.5, -133.0, -165.0)
"""Grid of the sample: LPS, (k, j, i) voxels, (x, y, z) mm, position of voxel 0 in the atlas."""
SKIN_MM = 1.9
DIAPHRAGM_MM = 3.0


def draw_atlas(average: Average, *, seed: int = 1, deform: float = 2.2, shape=SHAPE, spacing=SPACING, origin=ORIGIN, say=print) -> LabelMap:
    """Draw the thorax on a grid.

    Parameters
    ----------
    average : Average
        The averaged chest (:func:`atlas_average.average_chest`).
    seed : int
        Of the deformation and the branching of the lung vessels.
    deform : float
        Standard deviation of the deformation along each axis, mm.
    """
    rng = np.random.default_rng(seed)
    displacement = _displacement(rng, deform, shape, spacing, origin)
    canvas = Canvas(shape, spacing, origin, _sample_vectors(displacement, shape, spacing, origin))
    fields = _fields(average, displacement, shape, spacing, origin)
    cage = skeleton.Cage(average)
    layers = Layers(canvas, fields, cage)
    layers.wall()
    say("chest wall")
    layers.mediastinum()
    say("heart and great vessels")
    layers.abdomen()
    say("upper abdomen")
    geometry = Geometry.from_spacing(shape, spacing, (-origin[0], -origin[1], origin[2]))
    layers.lung_vessels(geometry, seed)
    say("lung vessels")
    layers.bones()
    say("bones")
    layers.finish()
    return _labelmap(canvas, geometry)


class Layers:
    """What is painted over what: the wall first, then the contents of the chest and abdomen, bones and skin last."""

    def __init__(self, canvas, fields, cage):
        self.canvas, self.fields = canvas, fields
        self.whole = canvas.window()
        self.outside_cage = cage.distance(self.whole)
        # Beside the spine the average blurs the ribs' heads with the lung between them: the lung's true border is there.
        beside = np.exp(-((np.maximum(np.abs(canvas.x - skeleton.SPINE_X) - 32, 0) / 8) ** 2))
        fields["lung"] = fields["lung"] - 3.0 * beside * np.clip((canvas.y - 40) / 12, 0, 1)
        # The cage is closed above by the plane of the first ribs.
        above = (self.whole.z - (94 + 0.36 * (self.whole.y + 45))) * 0.94
        self.outside_cage = np.maximum(self.outside_cage, above)
        self.ribs = self.outside_cage
        # Over the lungs' apices and behind the spine's canal lie muscles, not the contents of the chest.
        apex = np.where(canvas.z > 84, fields["lung"] - 6 - 0.5 * np.maximum(100 - canvas.z, 0), -FAR)
        self.outside_cage = np.maximum(self.outside_cage, apex)
        self.cage = cage

    def wall(self):
        canvas, fields = self.canvas, self.fields
        body = fields["body"] < 0
        inside = self.outside_cage < -2
        fat = fields["fat"] > fields["soft"]
        canvas.paint("body", body)
        canvas.paint("muscle", body & ~fat & ~inside)
        canvas.paint("subcutaneous_fat", body & fat & ~inside)
        canvas.paint("fat", body & inside)
        # Intercostal muscles and pleura: what lies between the ribs' surface and the lungs.
        canvas.paint("muscle", body & (np.abs(self.ribs + 1) < 5.5) & (fields["lung"] > -3))
        canvas.paint("muscle", body & inside & (fields["lung"] < 4.0) & (self.ribs > -9))
        canvas.paint("muscle", body & inside & (canvas.y > skeleton.canal(canvas.z) - 4 + 0.012 * (canvas.x - skeleton.SPINE_X) ** 2))
        lung = inside & (fields["lung"] < 0) & body
        middle = -1.0 + 3.0 * np.exp(-(((canvas.y + 60) / 30) ** 2))
        canvas.paint("lung_right", lung & (canvas.x < middle))
        canvas.paint("lung_left", lung & (canvas.x >= middle))
        for side, word in ((-1, "right"), (1, "left")):
            canvas.draw(
                f"autochthon_{word}", _back_muscles(side), over=("muscle", "subcutaneous_fat"), where=(fields["body"] < -7) & ~inside
            )

    def mediastinum(self):
        canvas = self.canvas
        inside = self.outside_cage < -3
        neck = (self.fields["body"] < -4) & (canvas.z > 90) & (np.abs(canvas.x) < 30)
        between = (canvas.distance(organs.mediastinum()) < 0) & (canvas.z > -85) & (canvas.z < 112)
        canvas.paint("fat", between & (inside | neck))
        self.sac = canvas.distance(organs.pericardium())
        canvas.paint("fat", (self.sac < 0) & (self.outside_cage < -6) & (self.fields["lung"] > -1.5))
        chambers, outline = organs.heart()
        canvas.draw("heart", outline, where=self.outside_cage < -6)
        for name, shape in chambers.items():
            canvas.draw(name, shape, where=self.outside_cage < -6)
        for name, shape in organs.neck().items():
            canvas.draw(name, shape)
        trachea, bronchi = organs.airways()
        canvas.draw("esophagus", organs.esophagus())
        for name, shape in organs.vessels().items():
            ends_in_heart = name in ("superior_vena_cava", "inferior_vena_cava", "pulmonary_vein")
            canvas.draw(name, shape, under=("heart_atrium_left", "heart_atrium_right") if ends_in_heart else ())
        beneath = ("fat", "muscle", "subcutaneous_fat", "lung_left", "lung_right", "esophagus", "thyroid_gland_left", "thyroid_gland_right")
        canvas.draw("airway_wall", joined(trachea, bronchi).grown(1.4), over=beneath)
        canvas.draw("bronchi", bronchi)
        canvas.draw("trachea", trachea)

    def abdomen(self):
        canvas = self.canvas
        right, left = ellipsoid((-64, -15, -142), (100, 108, 96)), ellipsoid((68, -2, -146), (88, 104, 82))
        dome = canvas.distance(joined(right, left, ellipsoid((0, -40, -150), (80, 70, 76)), blend=10))
        # How deep below the diaphragm: away from lungs, heart and wall.
        deep = np.minimum(np.minimum(self.fields["lung"], self.sac), -self.outside_cage - 4.5)
        below = (dome < 0) & (deep > -1)
        canvas.paint("diaphragm", below & (deep < DIAPHRAGM_MM) & (self.outside_cage < -3.5), over=("fat", "muscle", "body"))
        for side in (-1, 1):
            course = [(side * 9 + 4, 16, -84), (side * 15 + 4, 22, -105), (side * 13 + 2, 20, -130), (side * 11, 16, -170)]
            crus = tube(course, [4, 6, 6, 5])
            canvas.draw("diaphragm", crus, over=("fat", "muscle", "body"))
        hollow = below & (deep >= DIAPHRAGM_MM)
        bowel, glands = ("colon", "duodenum", "small_bowel"), ("spleen", "pancreas", "adrenal_gland_right", "kidney_right", "kidney_left")
        beneath = ("fat", "muscle", "body", "diaphragm", *bowel, *glands)
        gas = organs.gas()
        for name, shape in organs.abdomen().items():
            canvas.draw(name, shape, over=beneath, where=hollow)
            if name in gas:
                canvas.draw("bowel_gas", gas[name] & shape.grown(-3.0), over=(name,))
        for name, shape in organs.abdominal_vessels().items():
            canvas.draw(name, shape, over=("liver", "fat", "pancreas"))

    def lung_vessels(self, geometry, seed):
        lungs = np.isin(self.canvas.labels, [self.canvas.names[name] for name in ("lung_left", "lung_right")])
        self.canvas.paint("lung_vessels", grow_vessels(lungs, geometry, seed))

    def bones(self):
        skeleton.draw_ribs(self.canvas, self.cage)
        skeleton.draw_front_and_shoulders(self.canvas)
        skeleton.draw_spine(self.canvas)

    def finish(self):
        canvas = self.canvas
        body = self.fields["body"]
        canvas.labels[body >= 0] = 0
        canvas.paint("skin", (body < 0) & (body > -SKIN_MM))
        _remove_specks(canvas)


def _back_muscles(side):
    z = np.array([-190, -150, -100, -50, 0, 50, 90, 125, 150.0])
    x = np.array([36, 36, 32, 28, 26, 25, 23, 20, 20.0])
    back = np.array([18, 17, 17, 16, 15, 13, 14, 17, 17.0])
    outer = np.column_stack([skeleton.SPINE_X + side * x, skeleton.canal(z) + back, z])
    inner = outer - np.column_stack([side * 0.45 * x, 0 * z, 0 * z])
    thick, thin = [24, 23, 20, 16, 14, 13, 14, 15, 15], [18, 18, 17, 14, 13, 12, 12, 13, 13]
    return joined(tube(outer, thick, 12.0), tube(inner, thin, 12.0), blend=6)


def _displacement(rng, deform, shape, spacing, origin):
    """A smooth random vector field (mm) on a coarse grid: waves of about 12 cm and, at a third of the strength, 5 cm."""
    step = 8.0
    size = [int(np.ceil(n * s / step)) + 9 for n, s in zip(shape[::-1], spacing, strict=True)]
    field = np.zeros((*size[::-1], 3))
    for wavelength, strength in ((120.0, 1.0), (50.0, 0.33)):
        for axis in range(3):
            noise = sitk.GetImageFromArray(rng.normal(size=size[::-1]))
            noise = sitk.GetArrayFromImage(smoothed(noise, wavelength / step / 4))
            field[..., axis] += strength * deform * noise / noise.std()
    image = sitk.GetImageFromArray(field, isVector=True)
    image.SetSpacing([step] * 3)
    image.SetOrigin([o - 4 * step for o in origin])
    return image


def _grid(shape, spacing, origin):
    image = sitk.Image([int(n) for n in shape[::-1]], sitk.sitkUInt8)
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([float(o) for o in origin])
    return image


def _sample_vectors(displacement, shape, spacing, origin):
    grid = _grid(shape, spacing, origin)
    axes = [sitk.VectorIndexSelectionCast(displacement, axis) for axis in range(3)]
    return [sitk.GetArrayFromImage(sitk.Resample(u, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)) for u in axes]


def _fields(average, displacement, shape, spacing, origin):
    """The averaged fields at the output's resolution, seen through the deformation; the wall's are the mean of left and right."""
    transform = sitk.DisplacementFieldTransform(sitk.Image(displacement))
    grid = _grid(shape, spacing, origin)
    fields = {}
    for name, sigma in (("body", 4.0), ("lung", 2.6), ("fat", 4.0), ("soft", 4.0)):
        image = average.image(name)
        if name == "lung":  # the right apex of several of the seven is scarred: there the better side counts for both
            array, other = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(_mirrored(image))
            apex = np.clip((image.GetOrigin()[2] + image.GetSpacing()[2] * np.arange(len(array)) - 70) / 15, 0, 1)[:, None, None]
            array = array + apex * (np.minimum(array, other) - array)
            image = _like(array.astype(np.float32), image)
        else:
            image = (image + _mirrored(image)) / 2
        image = sitk.Cast(smoothed(image, sigma), sitk.sitkFloat32)
        beyond = 30.0 if name in ("body", "lung") else 0.0
        fields[name] = sitk.GetArrayFromImage(sitk.Resample(image, grid, transform, sitk.sitkBSpline, beyond, sitk.sitkFloat32))
    return fields


def _mirrored(image):
    return _like(sitk.GetArrayFromImage(image)[..., ::-1].copy(), image)  # the grid is centered: flipping the array mirrors the body


def _like(array, image):
    made = sitk.GetImageFromArray(array)
    made.CopyInformation(image)
    return made


def _remove_specks(canvas, smallest_ml=0.25):
    """Pieces cut off from their organ take the name of what surrounds them."""
    voxel_ml = float(np.prod(canvas.spacing)) / 1000
    for name, value in canvas.names.items():
        pieces = sitk.ConnectedComponent(sitk.GetImageFromArray((canvas.labels == value).astype(np.uint8)))
        stats = sitk.LabelShapeStatisticsImageFilter()
        stats.Execute(pieces)
        sizes = sorted(((stats.GetNumberOfPixels(n), n) for n in stats.GetLabels()), reverse=True)
        limit = smallest_ml if name in ("muscle", "fat", "subcutaneous_fat", "lung_vessels", "costal_cartilages", "skin") else 2.0
        array = sitk.GetArrayViewFromImage(pieces)
        for count, n in sizes[1:]:
            if count * voxel_ml > limit:
                continue
            x, y, z, wide, high, deep = stats.GetBoundingBox(n)
            box = tuple(slice(max(b - 1, 0), b + s + 1) for b, s in ((z, deep), (y, high), (x, wide)))
            piece = array[box] == n
            rim = sitk.GetArrayFromImage(sitk.BinaryDilate(sitk.GetImageFromArray(piece.astype(np.uint8)), (1, 1, 1), sitk.sitkCross)) > 0
            around = canvas.labels[box][rim & ~piece]
            if len(around):
                canvas.labels[box][piece] = np.bincount(around).argmax()


def _labelmap(canvas, geometry):
    """With names, colors and codes from the anatomy table; labels in the table's order of painting, unused ones left out."""
    from ..anatomy import structure

    order = sorted((name for name, value in canvas.names.items() if (canvas.labels == value).any()), key=_natural)
    lookup = np.zeros(256, np.uint8)
    segments = []
    for value, name in enumerate(order, start=1):
        lookup[canvas.names[name]] = value
        found = structure(name)
        segments.append(Segment(value, name, found.code, found.modifier, color(name)))
    about = {"CTSynthesis.Sample": "An atlas averaged from seven persons, deformed at random, organs drawn in: no person's anatomy."}
    return LabelMap(lookup[canvas.labels], geometry, tuple(segments), about)


def _natural(name):
    """Body and tissues first, then by name, with rib_left_2 before rib_left_10."""
    tissues = ("body", "skin", "subcutaneous_fat", "fat", "muscle")
    number = re.search(r"\d+$", name)
    region = "CTL".find(name[-len(number[0]) - 1]) if number else 0  # cervical, thoracic, lumbar
    return (
        tissues.index(name) if name in tissues else len(tissues),
        re.sub(r"[CTL]?\d+$", "", name),
        region,
        int(number[0]) if number else 0,
    )


# fmt: off
COLORS = {
    "body": (177, 122, 101), "skin": (177, 122, 101), "subcutaneous_fat": (240, 222, 130), "fat": (247, 234, 172),
    "muscle": (192, 104, 88), "autochthon": (150, 70, 60), "diaphragm": (205, 130, 110), "lung_left": (172, 138, 115),
    "lung_right": (197, 165, 145), "lung_vessels": (88, 106, 215), "trachea": (182, 228, 255), "bronchi": (162, 208, 245),
    "airway_wall": (210, 200, 215), "heart": (206, 110, 84), "heart_myocardium": (178, 64, 60), "heart_ventricle_left": (230, 80, 70),
    "heart_atrium_left": (240, 120, 110), "heart_ventricle_right": (70, 100, 190), "heart_atrium_right": (90, 130, 215),
    "aorta": (224, 60, 50), "pulmonary_artery": (0, 112, 190), "pulmonary_vein": (186, 77, 64), "vena_cava": (0, 151, 206),
    "vein": (0, 130, 190), "artery": (216, 80, 60), "trunk": (216, 80, 60), "esophagus": (211, 171, 143), "thyroid_gland": (62, 162, 114),
    "liver": (221, 130, 101), "spleen": (157, 108, 162), "stomach": (202, 130, 150), "bowel_gas": (190, 225, 235),
    "colon": (204, 168, 143), "duodenum": (205, 167, 142), "small_bowel": (205, 140, 142), "iliopsoas": (172, 84, 70),
    "pancreas": (249, 180, 111), "gallbladder": (139, 150, 98), "kidney": (185, 102, 83), "adrenal_gland": (249, 186, 150),
    "vertebrae": (226, 202, 134), "rib": (241, 214, 145), "sternum": (244, 217, 154), "clavicula": (205, 179, 108),
    "scapula": (212, 188, 102), "humerus": (220, 195, 120), "costal_cartilages": (111, 184, 210), "intervertebral_discs": (150, 190, 220),
    "spinal_canal": (230, 235, 180), "spinal_cord": (244, 214, 49),
}
# fmt: on


def color(name):
    """RGB in 0..1, like 3D Slicer's colors of anatomy; the many vertebrae and ribs alternate a little so that neighbors are told apart."""
    known = [key for key in COLORS if key == name] or sorted((key for key in COLORS if key in name), key=len)[-1:]
    r, g, b = COLORS[known[0]] if known else (128, 174, 128)
    number = "".join(c for c in name if c.isdigit())
    shade = 0.88 if number and int(number) % 2 else 1.0
    return (r * shade / 255, g * shade / 255, b * shade / 255)


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m CTSynthesisLib.training.atlas", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of scans, one folder a case with ct.nrrd")
    parser.add_argument("-o", "--output", type=Path, required=True, help=".seg.nrrd to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--average", type=Path, help="an .npz of the averaged chest: used when it exists, else written")
    given = parser.parse_args(arguments)
    start = time.monotonic()
    say = lambda text: print(f"{time.monotonic() - start:6.0f} s  {text}", flush=True)  # noqa: E731
    try:
        if given.average and given.average.exists():
            average = Average.load(given.average)
        elif given.data:
            average = average_chest(given.data, say=say)
            if given.average:
                average.save(given.average)
        else:
            raise UnusableInput("Give the folder of scans with --data, or an average made before with --average.")
        from ..files import write_segmentation

        write_segmentation(draw_atlas(average, seed=given.seed, say=say), given.output)
        say(f"{given.output}: {given.output.stat().st_size / 1e3:.0f} kB")
    except (UnusableInput, SynthesisFailed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UnusableInput) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
