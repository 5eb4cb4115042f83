"""Export: the last result as NRRD, NIfTI or a DICOM series."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from .. import scene
from ..errors import SynthesisFailed, UnusableInput
from . import dialogs
from .wording import said


class ExportSection:
    """Three buttons; each asks for a place and writes there.

    Parameters
    ----------
    ui : the panel's widgets
    volume : callable
        Returns the volume node to export, or None.
    """

    def __init__(self, ui, volume):
        self._ui, self._volume = ui, volume
        ui.exportNrrdButton.connect("clicked(bool)", lambda _checked=False: self._on_file(".nrrd", _("NRRD files (*.nrrd)")))
        ui.exportNiftiButton.connect("clicked(bool)", lambda _checked=False: self._on_file(".nii.gz", _("NIfTI files (*.nii.gz)")))
        ui.exportDicomButton.connect("clicked(bool)", lambda _checked=False: self._on_dicom())
        ui.exportLabel.text = _(
            "NRRD keeps how the volume came about in its header; NIfTI does not. DICOM is written for a patient “SYNTHETIC^CT” in a study"
            " of its own, each image marked as synthetic and derived; no patient data is copied into it. Do not use 3D Slicer's own DICOM"
            " export: it would call the images original."
        )
        self.update()

    def update(self):
        volume = self._volume()
        tooltips = {
            self._ui.exportNrrdButton: _("Write HU, geometry and provenance to one file"),
            self._ui.exportNiftiButton: _("Write HU and geometry to one file"),
            self._ui.exportDicomButton: _("Write a CT series, one file a slice, into a new folder"),
        }
        for button, tooltip in tooltips.items():
            button.enabled = volume is not None
            button.toolTip = tooltip if volume is not None else _("Generate a volume first")

    def write(self, path, dicom=False) -> str:
        """Write the volume; returns the sentence that says what has come of it."""
        volume = self._volume()
        if source := _loaded_from(path, volume):
            return _("“{name}” was loaded from {path}, which would be lost; choose another name.").format(name=source, path=path)
        try:
            if dicom:
                count = len(scene.export_dicom(volume, path))
                return _("{count} DICOM images were written to {path}.").format(count=count, path=path)
            scene.export_volume(volume, path)
            return _("“{name}” was written to {path}.").format(name=volume.GetName(), path=path)
        except (UnusableInput, SynthesisFailed) as error:
            return said(error)
        except OSError as error:
            return _("{path} cannot be written ({reason}); choose another place.").format(path=path, reason=error.strerror)

    def _on_file(self, suffix, kind):
        name = f"{self._volume().GetName()}{suffix}"
        path = dialogs.file_to_save(_("Export the synthetic CT"), name, kind)
        if path and not str(path).endswith(suffix):
            path = f"{path}{suffix}"
            if Path(path).exists():  # the dialog asked about the name without its ending
                self._ui.exportLabel.text = _("{path} exists already; choose another name.").format(path=path)
                return
        if path:
            self._ui.exportLabel.text = self.write(path)

    def _on_dicom(self):
        parent = dialogs.folder(_("Choose where the DICOM folder is made"))
        if parent:
            safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in self._volume().GetName())
            folder, number = Path(parent) / safe, 1
            while folder.exists():
                number += 1
                folder = Path(parent) / f"{safe}-{number}"
            self._ui.exportLabel.text = self.write(folder, dicom=True)


def _loaded_from(path, volume) -> str:
    """The name of another node of the scene that lies in the file ``path``, or ""."""
    for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        storage = node.GetStorageNode()
        if node is volume or storage is None or not Path(path).is_file():
            continue
        names = [storage.GetFullNameFromFileName(), *(storage.GetFullNameFromNthFileName(n) for n in range(storage.GetNumberOfFileNames()))]
        if any(name and Path(name).is_file() and Path(path).samefile(name) for name in names):
            return node.GetName()
    return ""
