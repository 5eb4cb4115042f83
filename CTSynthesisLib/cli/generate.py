"""Generate a synthetic CT from a segmentation.

The CT has exactly the segmentation's geometry unless --spacing or --like asks for another grid. It is written as int16 Hounsfield units
by the ending of OUT (.nrrd, .nii, .nii.gz, .mha), and with --dicom as a DICOM series that is marked as synthetic.
"""

from __future__ import annotations

import json
import math
import time

from ..errors import UnusableInput
from . import request as flags
from .outputs import VOLUME_ENDINGS, Outputs
from .progress import progress_line

TABLE_ROWS = 30  # on the screen; the report file holds them all
INPUT_HELP = ".seg.nrrd; label map as .nrrd, .nii(.gz), .mha; DICOM SEG; DICOM RTSTRUCT"


def add_arguments(parser):
    parser.add_argument("segmentation", metavar="SEGMENTATION", help=INPUT_HELP)
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="volume to write: " + ", ".join(VOLUME_ENDINGS))
    flags.add_label_arguments(parser)
    flags.add_request_arguments(parser)
    grid = parser.add_argument_group("grid and reference").add_mutually_exclusive_group()
    grid.add_argument("--spacing", metavar="X,Y,Z", help="voxel spacing of the output in mm")
    grid.add_argument("--like", metavar="VOLUME", help="a volume whose grid the output gets")
    parser.add_argument("--reference", metavar="CT", help="CT for --outside reference, and the series that an RTSTRUCT or SEG was drawn on")
    parser.add_argument(
        "--match", metavar="CT",
        help="CT (file or DICOM folder) of the same patient or scanner: whatever the request leaves open of HU, noise, sharpness, "
        "slice thickness and slice correlation is taken from it",
    )  # fmt: skip
    parser.add_argument(
        "--reject-similar", type=float, metavar="T",
        help="write nothing if the CT is at least T similar to a scan that the model was trained on: 1 is the same scan, other persons "
        "stay below 0.7, copies lie above 0.8",
    )  # fmt: skip
    more = parser.add_argument_group("further output")
    more.add_argument("--dicom", metavar="DIR", help="also write a DICOM CT series into this new or empty folder")
    more.add_argument("--dicom-seg", action="store_true", help="with --dicom: also the segmentation as DICOM SEG, DIR/segmentation.dcm")
    more.add_argument("--report", metavar="FILE.json", help="also write the per-structure report")
    more.add_argument("--preview", metavar="FILE.png", help="also write a picture in three planes")


def run(args):
    from ..evaluation.picture import three_planes
    from ..evaluation.report import as_json, as_text, per_structure
    from ..files import read_segmentation, read_volume, write_volume
    from . import note

    request = flags.request_from(args)
    table, names = flags.labels_from(args)
    if args.dicom_seg and not args.dicom:
        raise UnusableInput("--dicom-seg needs the DICOM series it refers to; add --dicom DIR.")
    if request.outside == "reference" and not args.reference:
        raise UnusableInput("--outside reference needs a CT to take the surroundings from; add --reference CT.")
    if args.reject_similar is not None:
        from ..evaluation.audit import check_limit, refuse_similar

        check_limit(args.reject_similar, request.model)
    started = time.perf_counter()
    labelmap = read_segmentation(args.segmentation, labels=table, reference=args.reference)
    reference = read_volume(args.reference) if request.outside == "reference" else None
    scan = read_volume(args.match) if args.match else None
    labelmap = on_grid(labelmap, spacing=args.spacing, like=args.like)

    if args.dicom:
        from ..files.dicom_ct import right_handed, write_ct_series

        right_handed(labelmap.array, labelmap.geometry)  # a sheared stack is refused now, not after the work
    with Outputs(args.segmentation, table, args.reference, args.match, args.like, request.model) as outputs:
        volume_path = outputs.volume(args.output)
        series = outputs.folder(args.dicom) if args.dicom else None
        report_path = outputs.file(args.report, (".json",)) if args.report else None
        picture_path = outputs.file(args.preview, (".png",)) if args.preview else None
        from ..synthesis.generate import generate  # torch: only now that the input is known to be good

        matched = ()
        if scan:
            from ..synthesis.match import match

            request, matched = match(labelmap, scan, request, names=names)
        result = generate(labelmap, request, names=names, reference=reference, assumed=matched, progress=progress_line())
        if args.reject_similar is not None:
            refuse_similar(result.volume, request.model, args.reject_similar)
        write_volume(result.volume, volume_path)
        if series:
            write_ct_series(result.volume, series, provenance=result.volume.metadata)
            if args.dicom_seg:
                from ..files.dicom_seg import write_dicom_seg

                write_dicom_seg(labelmap, series, series / "segmentation.dcm")
        rows = per_structure(result.volume, labelmap, result.understood)
        if report_path:
            report_path.write_text(as_json(rows, **facts(result, request)), encoding="utf-8")
        if picture_path:
            three_planes(result.volume, labelmap, picture_path, title=f"{request.model} model,  seed {request.seed}")
    note(labelmap, result.assumptions)
    if scan:
        note(scan)
    print(as_text(rows, at_most=TABLE_ROWS))
    slices, height, width = result.volume.geometry.shape
    if scan:
        print(f"\nmatched to {args.match}: {scanned(request)}")
    print(f"\n{args.output}: {width} x {height} x {slices} voxels, {result.device}, {time.perf_counter() - started:.1f} s")


def on_grid(labelmap, *, spacing=None, like=None):
    """``labelmap`` brought to the grid that the user asked for."""
    from ..files import read_volume
    from ..synthesis.memory import check_memory
    from ..volume import LabelMap, resample_labels

    if spacing:
        geometry = labelmap.geometry.with_spacing(_three_numbers(spacing))
    elif like:
        geometry = read_volume(like).geometry
    else:
        return labelmap
    check_memory(math.prod(geometry.shape))
    array = resample_labels(labelmap.array, labelmap.geometry, geometry)
    if not array.any():
        raise UnusableInput(f"The segmentation does not overlap the grid of '{like or spacing}'; choose a volume of the same patient.")
    return LabelMap(array, geometry, labelmap.segments, labelmap.metadata)


def scanned(request) -> str:
    """How the request says the CT is scanned, as in "noise 12 HU, sharpness 0.41"; what it leaves open is left out."""
    texts = (("noise", "noise {:.3g} HU"), ("kernel", "kernel {}"), ("sharpness", "sharpness {:.2f}"),
             ("thickness", "slices {:.3g} mm thick"), ("slice_correlation", "slice correlation {:.2f}"))  # fmt: skip
    return ", ".join(text.format(value) for name, text in texts if (value := getattr(request, name)) is not None)


def facts(result, request) -> dict:
    """What the report says about the run itself."""
    geometry = result.volume.geometry
    return {
        "synthetic": True,
        "request": json.loads(request.to_json()),
        "model": {key.removeprefix("CTSynthesis."): value for key, value in sorted(result.volume.metadata.items())
                  if key in ("CTSynthesis.Model", "CTSynthesis.ModelVersion", "CTSynthesis.WeightsSHA256", "CTSynthesis.Version")},
        "device": result.device,
        "seconds": round(result.seconds, 2),
        "shape_kji": list(geometry.shape),
        "spacing_mm": [round(float(s), 6) for s in geometry.spacing],
        "assumptions": list(result.assumptions),
    }


def _three_numbers(text):
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3:
        raise UnusableInput(f"'--spacing {text}' is not a spacing; write three positive numbers in mm, as in --spacing 0.8,0.8,2.")
    return values
