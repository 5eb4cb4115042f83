"""All files of one run appear together, complete, or not at all, and none of them takes the place of one that the run reads."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from ..errors import SynthesisFailed, UnusableInput

VOLUME_ENDINGS = (".nrrd", ".nii", ".nii.gz", ".mha")


class Outputs:
    """Files and folders are written beside their final places and moved there when the run has succeeded.

    Opening them before the work starts also finds an unwritable place before minutes are spent.

    Parameters
    ----------
    inputs : paths or None
        Every file and folder that the command reads. An output that is one of them, through a link too, is refused.

    >>> with Outputs("organs.seg.nrrd") as outputs:                   # doctest: +SKIP
    ...     write_volume(volume, outputs.volume("ct.nrrd"))
    """

    def __init__(self, *inputs):
        self._inputs = [Path(path) for path in inputs if path]
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

    def volume(self, path) -> Path:
        """The same for a CT volume."""
        refuse_inputs(path, self._inputs)
        if Path(path).name.lower().endswith(".seg.nrrd"):
            raise UnusableInput(f"'{path}' is named like a segmentation, but a CT is written; end the name in .nrrd alone.")
        return self.file(path, VOLUME_ENDINGS)

    def folder(self, path, replacing=(), known_by="") -> Path:
        """Where to write the files that shall end up in the folder ``path``.

        The folder may be new or empty, or hold nothing but names in ``replacing``, among them ``known_by``; these then make way.
        """
        final = Path(path)
        held = {entry.name for entry in final.iterdir()} if final.is_dir() else set()
        if (final.exists() and not final.is_dir()) or (held and (known_by not in held or held - set(replacing))):
            raise UnusableInput(f"'{final}' is not an empty folder; name a new or empty one, so that nothing is mixed or overwritten.")
        staged = self._stage(final)
        staged.mkdir()
        return staged

    def _stage(self, final):
        refuse_inputs(final, self._inputs)
        if _identity(final) in (_identity(other) for *_, other in self._staged):
            raise UnusableInput(f"'{final}' is to be written twice; give each output a name of its own.")
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


def refuse_inputs(output, inputs) -> None:
    """Raise UnusableInput if the file or folder ``output`` is one of the ``inputs``, through a link too, or is read along with one."""
    output = Path(output)
    for path in map(Path, filter(None, inputs)):
        if _identity(output) == _identity(path) or (output.is_file() and _identity(output) in map(_identity, _read_along(path, output))):
            what = "is an input" if output.resolve() == path.resolve() else f"is read as an input, with '{path}'"
            raise UnusableInput(f"'{output}' {what}; choose another name for what is written, so that nothing is lost.")


def _identity(path: Path):
    """The same for two names of one file, one of which may be a link."""
    try:
        found = path.stat()
        return found.st_dev, found.st_ino
    except OSError:
        return str(path.resolve())


def _read_along(path: Path, output: Path):
    """What is read besides ``path`` itself: voxel files of a header, a model's card, and, beside or in it, label tables and DICOM files."""
    from ..files.dicom_series import is_dicom
    from ..files.label_table import could_name, read_label_table

    folder = path if path.is_dir() else path.parent
    if is_dicom(output):
        yield from folder.rglob("*") if path.is_dir() else folder.iterdir()
    if path.suffix == ".safetensors":
        yield path.with_suffix(".json")
    if path.suffix.lower() in (".nhdr", ".mhd") and path.is_file():
        with open(path, "rb") as file:
            header = file.read(1 << 20).decode("utf-8", "replace")
        yield from (folder / name.strip() for name in re.findall(r"(?m)^(?:[^:=\r\n]*[:=])?([^:=\r\n]+)", header))
    for table in could_name(path):
        try:
            read_label_table(table)
            yield table
        except UnusableInput:  # none, or an earlier report, say
            continue
