"""Many volumes in one folder: resumable, one at a time in memory, shared among processes, listed in a manifest.

Each volume is written beside and renamed, its record last: where ``volume-0007.json`` is, volume 7 is whole. So a run that was broken off
goes on with the first number that has no record, and processes that share the numbers need not talk to each other.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import UnusableInput
from ..files import write_segmentation, write_volume
from ..files.beside import written_beside
from ..modelstore import load_card
from .ct_sgan import Drawn, VolumeRequest, check, draw
from .memory import give_memory_back

MANIFEST, SETTINGS = "manifest.json", "cohort.json"
ENDINGS = {"nrrd": ".nrrd", "nifti": ".nii.gz", "dicom": ""}
STRUCTURES = "segmentation.dcm"


@dataclass(frozen=True)
class Cohort:
    """What is made, and where: ``format`` is one of ENDINGS."""

    request: VolumeRequest
    folder: Path
    format: str = "nrrd"
    with_segmentation: bool = False

    def settings(self) -> dict:
        """What must be the same for a folder to be continued: all but the device, and models by their weights, whatever their names."""
        card, given = check(self.request), asdict(self.request)
        renderer = load_card(given.pop("renderer")).sha256 if card.kind == "anatomy" else None
        request = {name: value for name, value in given.items() if name not in ("device", "preset")}
        return {"preset": card.name, "weights": card.sha256, "renderer": renderer, "request": request, "format": self.format,
                "segmentation": self.with_segmentation}  # fmt: skip


def share() -> tuple[int, int]:
    """(rank, world size) that ``torchrun`` tells this process; (0, 1) without it."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= rank < world:
        raise UnusableInput(f"RANK {rank} is no rank among WORLD_SIZE {world} processes; start them with torchrun, or unset both.")
    return rank, world


def make(
    cohort: Cohort, number: int, *, resume: bool = False, progress=None, cancelled=None, say: Callable[[str], None] = print
) -> tuple[int, int]:
    """Make this process's share of volumes 0 … ``number`` - 1; returns how many were made and how many were there already.

    Raises
    ------
    UnusableInput
        If the folder holds other things, or a cohort with other settings; or nothing can be made as asked for.
    """
    rank, world = share()
    if cohort.with_segmentation and check(cohort.request).kind != "anatomy":
        raise UnusableInput(f"The preset '{cohort.request.preset}' draws voxels and knows no structures; leave --with-segmentation out.")
    _begin(cohort, resume or world > 1)
    mine = [n for n in range(number) if n % world == rank]
    waiting = [n for n in mine if not _record(cohort, n).exists()]
    for done, n in enumerate(waiting):

        def tell(fraction, stage, done=done, n=n):
            if progress:
                progress((done + fraction) / len(waiting), f"volume {n + 1} of {number}: {stage}" if number > 1 else stage)

        started = time.monotonic()
        write(cohort, n, draw(cohort.request, n, progress=tell, cancelled=cancelled), started)
        give_memory_back()  # else what lies between two volumes' arrays adds up
    list_all(cohort)
    others = number - len(mine)
    if others:
        say(f"process {rank} of {world} made its share; the other {others} volumes are the other processes'.")
    return len(waiting), len(mine) - len(waiting)


def write(cohort: Cohort, n: int, drawn: Drawn, started: float):
    """The volume's files, and then its record."""
    name = f"volume-{n:04d}"
    target = cohort.folder / f"{name}{ENDINGS[cohort.format]}"
    files = [target.name]
    if cohort.format == "dicom":
        from ..files.dicom_ct import write_ct_series
        from ..files.dicom_seg import write_dicom_seg

        shutil.rmtree(target, ignore_errors=True)  # without its record: of a run that was broken off
        part = cohort.folder / f".{name}.{os.getpid()}.part"
        try:
            write_ct_series(drawn.volume, part, provenance=drawn.volume.metadata)
            if cohort.with_segmentation:
                write_dicom_seg(drawn.labelmap, part, part / STRUCTURES)
                files.append(f"{name}/{STRUCTURES}")
            os.replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    else:
        write_volume(drawn.volume, target)
        if cohort.with_segmentation:
            write_segmentation(drawn.labelmap, cohort.folder / f"{name}.seg.nrrd")
            files.append(f"{name}.seg.nrrd")
    geometry = drawn.volume.geometry
    record = {
        "number": n, "seed": drawn.seed, "files": files,
        "voxels": list(geometry.shape[::-1]), "spacing": geometry.spacing.round(4).tolist(),
        "structures": [segment.name for segment in drawn.labelmap.segments] if drawn.labelmap else None,
        "seconds": round(time.monotonic() - started, 2), "peak_mb": peak_mb(), "provenance": drawn.volume.metadata,
    }  # fmt: skip
    _write_json(_record(cohort, n), record)


def peak_mb() -> int | None:
    """The process's largest memory so far; None on Windows, which does not tell."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024))


def list_all(cohort: Cohort):
    """Write the manifest of all records in the folder; again, if another process has added one meanwhile."""
    while True:
        records = sorted(cohort.folder.glob("volume-*.json"))
        listed = [json.loads(path.read_text(encoding="utf-8")) for path in records]
        _write_json(cohort.folder / MANIFEST, {**cohort.settings(), "volumes": listed})
        if sorted(cohort.folder.glob("volume-*.json")) == records:
            return


def _begin(cohort: Cohort, resume: bool):
    settings, path = cohort.settings(), cohort.folder / SETTINGS
    try:
        cohort.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableInput(f"'{cohort.folder}' cannot be made a folder ({error.strerror}); name another.") from error
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if not resume:
            raise UnusableInput(f"'{cohort.folder}' holds a cohort already; add --resume to go on with it, or name another folder.")
        if before != settings:
            was, wanted = ({**one, **one["request"]} for one in (before, settings))
            different = ", ".join(sorted(name for name in wanted if was.get(name) != wanted[name] and name != "request"))
            raise UnusableInput(f"'{cohort.folder}' holds a cohort made with another {different}; repeat its settings, or name a new one.")
        return
    if any(entry for entry in cohort.folder.iterdir() if not entry.name.startswith(".")) and not resume:
        raise UnusableInput(f"'{cohort.folder}' is not an empty folder; name a new or empty one, so that nothing is mixed or overwritten.")
    _write_json(path, settings)


def _record(cohort: Cohort, n: int) -> Path:
    return cohort.folder / f"volume-{n:04d}.json"


def _write_json(path: Path, values):
    with written_beside(path) as part:
        part.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")

