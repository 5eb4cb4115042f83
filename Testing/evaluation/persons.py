"""Make-believe persons for the evaluation: the geometric thorax with correlated grain, as a Case or as a folder of files. No anatomy."""

import json

import numpy as np

from CTSynthesisLib.evaluation.cases import Case
from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.regions import REGIONS
from CTSynthesisLib.volume import LabelMap, Segment, Volume
from Testing.phantom import hounsfield, thorax

REGION_OF = {
    "body": "soft_tissue", "lung_left": "lungs", "lung_right": "lungs", "heart": "soft_tissue", "aorta": "blood", "vertebrae": "bone"
}  # fmt: skip
VALUES = {"body": 40, "lung_left": -850, "lung_right": -850, "heart": 45, "aorta": 220, "vertebrae": 300}
SHAPE, SPACING = (16, 88, 96), (3.4, 3.4, 6.0)


def grain(shape, seed=0, sd=12.0):
    """Noise whose neighbours in a slice are alike."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), (0, 0.5, 0.5))
    return sd * noise / noise.std()


def a_person(name="one", organs=None, seed=0, spacing=SPACING) -> Case:
    """Regions as they are known; ``organs`` are segment names of the thorax, or {new name: thorax's name}."""
    labelmap = thorax(SHAPE, spacing)
    value = {region.name: region.value for region in REGIONS}
    regions = np.zeros(SHAPE, np.uint8)
    for segment in labelmap.segments:
        regions[labelmap.array == segment.value] = value[REGION_OF[segment.name]]
    ct = np.rint(np.maximum(hounsfield(labelmap, VALUES) + grain(SHAPE, seed), -1024)).astype(np.int16)
    outlined = None
    if organs:
        pairs = organs.items() if isinstance(organs, dict) else [(o, o) for o in organs]
        array = np.zeros(SHAPE, np.uint16)
        source = {segment.name: segment.value for segment in labelmap.segments}
        for n, (_, old) in enumerate(pairs, start=1):
            array[labelmap.array == source[old]] = n
        outlined = LabelMap(array, labelmap.geometry, tuple(Segment(n, new) for n, (new, _) in enumerate(pairs, start=1)))
    return Case(name, Volume(ct, labelmap.geometry), LabelMap(regions, labelmap.geometry, REGIONS), outlined)


def regions_by_threshold(ct: Volume) -> LabelMap:
    """Stands in for ``segment_regions``, which takes seconds and has tests of its own: voxel by voxel, as :data:`VALUES` tells."""
    names = {"soft_tissue": (-500, 130), "blood": (130, 260), "bone": (260, 3000), "lungs": (-940, -500)}
    array = np.zeros(ct.array.shape, np.uint8)
    for region in REGIONS:
        low, high = names.get(region.name, (0, 0))
        array[(ct.array >= low) & (ct.array < high)] = region.value
    return LabelMap(array, ct.geometry, REGIONS)


def write_person(case: Case, data) -> None:
    """The person as a folder of ``data``, as users lay it out."""
    folder = data / case.name
    folder.mkdir(parents=True)
    write_volume(case.ct, folder / "ct.nrrd")
    if case.organs:
        write_segmentation(case.organs, folder / "segmentation.nrrd")
        (folder / "labels.json").write_text(json.dumps({s.value: s.name for s in case.organs.segments}))
