"""All files of one run appear together, complete, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ..errors import SynthesisFailed, UnusableInput


class Outputs:
    """Files and folders are written beside their final places and moved there when the run has succeeded.

    Opening them before the work starts also finds an unwritable place before minutes are spent.

    >>> with Outputs() as outputs:                                    # doctest: +SKIP
    ...     write_volume(volume, outputs.file("ct.nrrd"))
    """

    def __init__(self):
        self._staged: list[tuple[Path, Path, Path]] = []  # temporary folder, path in it, final path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            for _, written, final in self._staged:
                if kind is None:
                    self._move(written, final)
                elif isinstance(error, UnusableInput | SynthesisFailed):  # the user knows the file by its final name
                    error.args = (str(error).replace(str(written), str(final)),)
        finally:
            for temporary, _, _ in self._staged:
                shutil.rmtree(temporary, ignore_errors=True)

    def file(self, path, endings=()) -> Path:
        """Where to write the file that shall end up at ``path``; ``endings`` are the accepted file names' ends."""
        final = Path(path)
        if endings and not final.name.lower().endswith(tuple(endings)):
            raise UnusableInput(f"'{final}' has no known ending; choose one of {', '.join(endings)}.")
        if final.is_dir():
            raise UnusableInput(f"'{final}' is a folder; name the file to write.")
        return self._stage(final)

    def folder(self, path, replacing=()) -> Path:
        """Where to write the files that shall end up in the folder ``path``.

        The folder may be new or empty, or hold nothing but the names in ``replacing``, which then make way.
        """
        final = Path(path)
        if final.exists() and (not final.is_dir() or {entry.name for entry in final.iterdir()} - set(replacing)):
            raise UnusableInput(f"'{final}' is not an empty folder; name a new or empty one, so that nothing is mixed or overwritten.")
        staged = self._stage(final)
        staged.mkdir()
        return staged

    def _stage(self, final):
        try:
            temporary = Path(tempfile.mkdtemp(prefix=".ctsynthesis-", dir=final.parent))
        except OSError as error:
            raise UnusableInput(f"'{final}' cannot be written ({error.strerror}); choose a folder that exists and is writable.") from error
        self._staged.append((temporary, temporary / final.name, final))
        return temporary / final.name

    @staticmethod
    def _move(written, final):
        if written.is_dir() and final.is_dir():
            shutil.rmtree(final)  # empty, or holding only what may be replaced: see `folder`
        for companion in written.parent.iterdir():  # a detached header's data file lies beside it
            companion.replace(final.parent / companion.name)
