"""Make a coarse tissue map of a CT by classical image processing.

Soft tissue, fat, bone, lungs and their vessels, airway, bowel gas and contrast-filled blood: for training, evaluation and quick trials.
"""

from __future__ import annotations

from .outputs import Outputs

SEGMENTATION_ENDINGS = (".nrrd", ".nii", ".nii.gz", ".mha")


def add_arguments(parser):
    parser.add_argument("ct", metavar="CT", help="volume file or DICOM series folder")
    parser.add_argument("-o", "--output", metavar="SEGMENTATION", required=True, help=".seg.nrrd, or a label map as .nrrd, .nii(.gz), .mha")


def run(args):
    from ..files import read_volume, write_segmentation
    from ..regions import segment_regions
    from . import note

    volume = read_volume(args.ct)
    with Outputs(args.ct) as outputs:
        path = outputs.file(args.output, SEGMENTATION_ENDINGS)
        labelmap = segment_regions(volume)
        write_segmentation(labelmap, path)
    note(volume)
    for segment in labelmap.segments:
        print(f"{segment.name:<14} {labelmap.mask(segment).sum() * labelmap.geometry.voxel_ml:9.1f} ml")
