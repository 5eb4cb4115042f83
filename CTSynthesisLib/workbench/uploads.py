"""Files that the browser sends, understood by their content as the command line understands them."""

from __future__ import annotations

from pathlib import Path

from ..errors import UnusableInput
from ..files import read_segmentation, read_volume
from ..files.dicom_series import is_dicom, read_dataset
from ..volume import LabelMap, Volume

READ_ALONG = (".json", ".csv", ".ctbl", ".raw", ".zraw", ".img")  # label tables, and the voxels of a detached header
DRAWN = ("SEG", "RTSTRUCT")


def understand_upload(folder: Path) -> tuple[LabelMap | None, Volume | None]:
    """The segmentation, the CT, or both, that the files in ``folder`` are.

    Raises
    ------
    UnusableInput
        If they are neither, or more than one of a kind; the sentence names a file as the user does, without the folder.
    """
    labelmaps, volumes = [], []
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() not in READ_ALONG)
        dicom = [path for path in files if is_dicom(path)]
        drawn = [path for path in dicom if str(read_dataset(path, specific_tags=["Modality"]).get("Modality")) in DRAWN]
        if len(dicom) > len(drawn):
            volumes.append(read_volume(folder))
        labelmaps += [read_segmentation(path, reference=folder if volumes else None) for path in drawn]
        for path in [path for path in files if path not in dicom]:
            found = _read(path)
            (labelmaps if isinstance(found, LabelMap) else volumes).append(found)
    except UnusableInput as error:
        raise UnusableInput(str(error).replace(f"{folder}/", "").replace(str(folder), "the upload")) from error
    for found, what in ((labelmaps, "segmentations"), (volumes, "CTs")):
        if len(found) > 1:
            raise UnusableInput(f"{len(found)} {what} were uploaded; upload one at a time.")
    if not labelmaps and not volumes:
        raise UnusableInput("There is neither a segmentation nor a CT in what was uploaded.")
    return labelmaps[0] if labelmaps else None, volumes[0] if volumes else None


def _read(path: Path) -> LabelMap | Volume:
    try:
        return read_segmentation(path)
    except UnusableInput:
        if path.name.lower().endswith(".seg.nrrd"):
            raise
        return read_volume(path)
