"""What several DICOM tests need: changed and bare files, dciodvfy's verdict, and where the optional real files lie."""

import os
import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset

REPOSITORY = Path(__file__).resolve().parents[2]


def change(file, **attributes):
    """Set ``attributes`` in ``file``; None takes one away."""
    ds = pydicom.dcmread(file)
    for keyword, value in attributes.items():
        if value is None and keyword in ds:
            del ds[keyword]
        elif value is not None:
            setattr(ds, keyword, value)
    ds.save_as(file)


def without_preamble(file, implicit):
    """Make ``file`` a bare data set, as planning systems export it: no preamble, no "DICM", no transfer syntax."""
    ds = pydicom.dcmread(file)
    with open(file, "wb") as out:
        stream = DicomFileLike(out)
        stream.is_little_endian, stream.is_implicit_VR = True, implicit
        write_dataset(stream, Dataset(ds))


def errors_of_dciodvfy(path):
    """The lines beginning with Error that David Clunie's validator prints for ``path``; skips the test where it is not installed.

    Versions older than the standard's 2023 edition do not know SyntheticData (0008,001C) and call it unrecognized; that one line is no
    error of the file and is left out.
    """
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    unknown = "</(0008,001c)> - Attribute with an even group number is not a recognized standard attribute"
    return [line for line in lines if line.startswith("Error") and unknown not in line]


def real_dicom(case):
    """The folder of an optional real case; skips the test where it is absent."""
    folder = Path(os.environ.get("CTSYNTHESIS_DATA", REPOSITORY / ".data")) / "dicom" / case
    if not folder.is_dir():
        pytest.skip(f"the optional data has no dicom/{case} (set CTSYNTHESIS_DATA)")
    return folder
