"""Writing beside and renaming: either the whole output is there, or nothing is."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from ..errors import SynthesisFailed, UnusableInput

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextlib.contextmanager
def written_beside(path):
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` when the block ends, remove it when the block fails.

    The block may create a file or a folder there. A folder replaces nothing but an empty folder.

    Raises
    ------
    UnusableInput
        If ``path`` cannot be written to at all.
    SynthesisFailed
        If writing broke off, for example on a full disk.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    if not path.parent.is_dir():
        raise UnusableInput(f"{path} cannot be written because the folder {path.parent} does not exist; create it or choose another.")
    try:
        yield part
        if part.is_dir() and path.is_dir():
            path.rmdir()  # only ever an empty folder: rmdir refuses others
        os.replace(part, path)
    except OSError as error:
        if error.errno in _FULL:
            raise SynthesisFailed(f"{path} could not be written because the disk is full; free space or choose another folder.") from error
        if error.errno == errno.EIO:
            raise SynthesisFailed(f"{path} could not be written ({error.strerror}); check the disk or choose another.") from error
        raise UnusableInput(f"{path} cannot be written ({error.strerror or error}); choose another name or folder.") from error
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
