"""Give a CT or a synthetic CT the look of another scan, structure by structure.

With --segmentation alone, a CT of that anatomy is generated and styled; with --content, that CT is restyled, and every voxel outside the
chosen structures and a margin of one pixel keeps its value. A structure takes the style of the same one in the reference.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from ..errors import UnusableInput
from ..volume import LabelMap, Volume
from . import request as flags
from .generate import INPUT_HELP
from .outputs import VOLUME_ENDINGS, Outputs
from .progress import add_progress_flag, progress_of


def add_arguments(parser):
    parser.add_argument("--style", metavar="CT", required=True, help="the reference: volume file or DICOM series folder")
    parser.add_argument("--style-segmentation", metavar="SEG", help="its segmentation (default: its tissue regions, found by `segment`)")
    parser.add_argument("--style-regions", metavar="FILE", help="where its tissue regions are kept for the next time, as .seg.nrrd")
    parser.add_argument("--segmentation", metavar="SEG", help="the content's anatomy: " + INPUT_HELP)
    parser.add_argument("--content", metavar="CT", help="restyle this CT instead of generating one")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="volume to write: " + ", ".join(VOLUME_ENDINGS))
    parser.add_argument("--structures", metavar="A,B", help="segments, structures or groups to style, as lung,bones (default: all)")
    parser.add_argument(
        "--strength", metavar="S|A=S,B=S", default="1", help="from 0 (content) to 1 (style), for all or for single structures (default: 1)"
    )
    parser.add_argument("--refine", type=int, default=0, metavar="STEPS", help="slow path: so many steps, 60 is a good number (default: 0)")
    parser.add_argument("--preview", metavar="FILE.png", help="also write a picture: content, style and result, and structures enlarged")
    add_progress_flag(parser)
    flags.add_label_arguments(parser)
    flags.add_request_arguments(parser)


def run(args):
    from ..files import read_segmentation, read_volume, write_volume
    from . import note

    if not args.segmentation and not args.content:
        raise UnusableInput("There is nothing to style: give the content with --segmentation SEG, or --content CT, or both.")
    request = flags.request_from(args)
    table, names = flags.labels_from(args)
    started = time.perf_counter()
    progress = progress_of(args)
    from ..synthesis.organ_style import margin_mm, style_ct, style_segmentation  # torch: only now
    from ..synthesis.style_reference import Style, reference_of

    structures = tuple(part.strip() for part in (args.structures or "").split(",") if part.strip())
    style = Style(structures, *strengths(args.strength), args.refine)
    scan = read_volume(args.style)
    drawn = read_segmentation(args.style_segmentation, reference=args.style) if args.style_segmentation else None
    labelmap = read_segmentation(args.segmentation, labels=table, reference=args.content) if args.segmentation else None
    content = read_volume(args.content) if args.content else None
    read = args.style, args.style_segmentation, args.style_regions, args.segmentation, args.content, table, request.model
    with Outputs(*read) as outputs:
        path = outputs.volume(args.output)
        picture = outputs.file(args.preview, (".png",)) if args.preview else None
        reference = reference_of(scan, args.style, drawn, regions=_kept_regions(args, scan))
        if content is None:
            result, plain = style_segmentation(labelmap, reference, request, style, names=names, progress=progress)
            volume, sentences = result.volume, result.assumptions
        else:
            volume, sentences = style_ct(
                content, reference, style, labelmap=labelmap, names=names, seed=request.seed, progress=progress
            )
            plain = content
        write_volume(volume, path)
        if picture:
            from ..evaluation.style_picture import style_picture

            style_picture(plain, reference, volume, labelmap, picture)
    note(labelmap or volume, sentences)
    facts = json.loads(volume.metadata["CTSynthesis.Style"])
    for name, strength in facts["strength"].items():
        print(f"{name:<32} strength {strength:g}")
    print(f"\n{args.output}: style of {args.style}; nothing changed farther than {margin_mm(volume.geometry):.2f} mm from these "
          f"structures, {time.perf_counter() - started:.1f} s")  # fmt: skip


def _kept_regions(args, scan: Volume) -> LabelMap | None:
    """The reference's tissue regions where they are wanted and a file for them is named; found and written if it is not there yet."""
    if args.style_segmentation or not args.style_regions:
        return None
    from ..files import read_segmentation, write_segmentation
    from ..regions import segment_regions
    from ..synthesis.style_reference import check_hounsfield

    path = Path(args.style_regions)
    if not path.name.endswith(".seg.nrrd"):
        raise UnusableInput(f"--style-regions {path} is not a .seg.nrrd file; name one.")
    if not path.exists():
        check_hounsfield(scan, f"The style scan {args.style}")
        write_segmentation(segment_regions(scan), path)
    return read_segmentation(path)



def strengths(text: str) -> tuple[float, dict[str, float] | None]:
    """``"0.5"`` → (0.5, None); ``"lungs=0.5,bone=1"`` → (1.0, {"lungs": 0.5, "bone": 1.0})."""
    single = {}
    common = 1.0
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise UnusableInput(f"'--strength {text}' is not a strength; write a number from 0 to 1, or names with one, as in "
                                "lungs=0.5,bone=1.") from None  # fmt: skip
        if equals:
            single[name.strip()] = value
        else:
            common = value
    return common, single or None
