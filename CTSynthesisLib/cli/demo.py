"""Make a synthetic CT of the bundled segmentation, the way the panel in 3D Slicer does.

The segmentation is loaded into a real MRML scene (pip package slicer-core), generated through the panel's own session and worker process,
and exported: compressed NRRD, DICOM series with segmentation object, a picture in three planes and a report.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path

from .. import RESOURCES
from ..errors import SynthesisFailed
from .outputs import Outputs

SAMPLE = RESOURCES / "Samples" / "thorax.seg.nrrd"
MADE = {
    "synthetic-ct.nrrd": "the synthetic CT, int16 HU",
    "segmentation.seg.nrrd": "the segmentation it was made from",
    "dicom": "the same as DICOM CT series, marked as synthetic, with the segmentation as DICOM SEG",
    "preview.png": "axial, sagittal and coronal; segmentation, soft-tissue and lung window",
    "report.json": "per-structure table, model, seed, assumptions",
}


def add_arguments(parser):
    parser.add_argument("-o", "--output", metavar="DIR", default="demo", help="new folder, or that of an earlier demo (default: demo)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses the random texture (default: 0)")


def run(args):
    from . import note

    started = time.perf_counter()
    with Outputs() as outputs:
        folder = outputs.folder(args.output, replacing=MADE, known_by="report.json")
        labelmap, result, table = _make(folder, args.seed)
    note(labelmap, result.assumptions)
    print("\n" + table + "\n")
    for name, meaning in MADE.items():
        print(f"{Path(args.output) / name!s:<{len(args.output) + 22}}  {meaning}")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Drag the two .nrrd files into 3D Slicer, or import the DICOM folder there.")


def _make(folder, seed):
    from ..evaluation.picture import three_planes
    from ..evaluation.report import as_json, as_text, per_structure
    from ..files import write_segmentation, write_volume
    from ..files.dicom_ct import write_ct_series
    from ..files.dicom_seg import write_dicom_seg
    from ..synthesis.request import Request
    from .generate import TABLE_ROWS, facts
    from .progress import progress_line

    request = Request(seed=seed)
    with _step("Starting an MRML scene"):
        scene, session_class = _slicer()
        application = scene.boot()
    with _step(f"Loading the bundled segmentation {SAMPLE.name}"):
        node = scene.load_segmentation(SAMPLE)
        labelmap = scene.labelmap(node)
    slices, rows, columns = labelmap.geometry.shape
    size = f"{columns} x {rows} x {slices} voxels, {len(labelmap.segments)} segments"
    with session_class() as session, _step(f"Generating {size}"):
        generated = session.generate(node, request, progress=progress_line())
    volume = scene.volume(generated.node)
    with _step("Writing NRRD and segmentation"):
        write_volume(volume, folder / "synthetic-ct.nrrd")
        write_segmentation(labelmap, folder / "segmentation.seg.nrrd")
    with _step("Writing the DICOM series and its segmentation"):
        write_ct_series(volume, folder / "dicom", provenance=volume.metadata)
        write_dicom_seg(labelmap, folder / "dicom", folder / "dicom" / "segmentation.dcm")
    with _step("Drawing the picture"):
        three_planes(volume, labelmap, folder / "preview.png", title=f"from {len(labelmap.segments)} segments,  seed {seed}")
    report = per_structure(volume, labelmap, generated.result.understood)
    (folder / "report.json").write_text(as_json(report, **facts(generated.result, request)), encoding="utf-8")
    del application  # the scene lives as long as its application logic
    return labelmap, generated.result, as_text(report, at_most=TABLE_ROWS)


class _Slicer:
    """The few calls of 3D Slicer that the demo needs, imported only when it runs."""

    def __init__(self):
        import slicer

        from .. import headless, scene

        self.boot = headless.boot_scene
        self.labelmap = scene.labelmap_from_segmentation
        self.volume = scene.volume_in_world
        self._slicer = slicer

    def load_segmentation(self, path):
        node = self._slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", path.name.split(".")[0])
        storage = self._slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
        storage.SetFileName(str(path))
        if not storage.ReadData(node):
            raise SynthesisFailed(f"The bundled segmentation '{path}' could not be loaded; get a fresh copy of the project.")
        node.CreateDefaultDisplayNodes()
        return node


def _slicer():
    try:
        from ..session import Session

        return _Slicer(), Session
    except ImportError as error:
        raise SynthesisFailed(
            f"The demo needs 3D Slicer's scene ({error}); run `make demo`, which installs it, or use `ctsynthesis generate` without it."
        ) from error


@contextmanager
def _step(title):
    """Says what is being done, and how long it took."""
    started = time.perf_counter()
    if sys.stdout.isatty():
        print(f"{title} ...", end="", flush=True)
    try:
        yield
    finally:
        if sys.stdout.isatty():
            print("\r\033[K", end="")
    print(f"{title:<58} {time.perf_counter() - started:6.1f} s", flush=True)
