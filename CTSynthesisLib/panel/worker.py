"""Advanced: where the network runs, memory given back, and a worker on another computer."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from ..errors import SynthesisFailed, UnusableInput
from . import dialogs
from .choice import Choice
from .wording import said

SETTING = "CTSynthesis/RemoteAccessFile"  # of this user on this computer: a path, never a token, and not saved with the scene


class WorkerSection:
    """The device, the worker's state, and the connection.

    Parameters
    ----------
    ui : the panel's widgets
    session : callable
        Returns the session in use.
    chosen : callable
        Called with ``(parameter, value)`` when the device was chosen.
    """

    def __init__(self, ui, session, chosen):
        self._ui, self._session = ui, session
        words = {"auto": _("Automatic"), "cpu": _("CPU"), "cuda": _("NVIDIA graphics card"), "mps": _("Apple graphics")}
        self._device = Choice(ui.deviceSelector, words, lambda value: chosen("device", value))
        ui.freeButton.connect("clicked(bool)", lambda _checked=False: self.free())
        ui.accessEdit.text = qt.QSettings().value(SETTING, "") or ""
        ui.accessEdit.connect("textChanged(QString)", lambda text: qt.QSettings().setValue(SETTING, text))
        ui.accessButton.connect("clicked(bool)", lambda _checked=False: self._on_browse())
        ui.testButton.connect("clicked(bool)", lambda _checked=False: self._on_test())
        ui.remoteCheckBox.connect("toggled(bool)", self._on_remote)
        self._on_remote(False)

    def show(self, device):
        self._device.show(device)

    def update(self):
        """What the worker is at."""
        worker = self._session().worker
        if not worker.running:
            text = _("not started; it starts with the first run and takes some seconds")
        elif worker.busy:
            text = _("working on {where}").format(where=worker.transport.where)
        else:
            text = _("ready on {where}").format(where=worker.transport.where)
        self._ui.workerLabel.text = f"{text} · {worker.device}" if worker.device else text
        reason = _("There is nothing to free: the worker is not running") if not worker.running else ""
        reason = reason or (_("Cancel the run first") if worker.busy else "")
        self._ui.freeButton.enabled = not reason
        self._ui.freeButton.toolTip = reason or _(
            "End the worker; the next run starts another. It also ends after 15 minutes without work."
        )

    def free(self):
        self._session().worker.close()
        self.update()

    def _on_remote(self, on):
        for widget in (self._ui.accessEdit, self._ui.accessButton, self._ui.testButton):
            widget.enabled = on
        why_not = _("Tick the box above first")
        self._ui.testButton.toolTip = _("Connect, show the token, and compare versions; nothing else is sent") if on else why_not
        if not on:
            self._use(None)
            self._ui.remoteLabel.text = _("Nothing leaves this computer.")
            return
        self._ui.remoteLabel.text = _(
            "When you generate, the label map, the names and Hounsfield values of the segments and the settings are sent to the worker you"
            " choose, encrypted; and the CT, if it is to surround the segments. Names of patients and files are not sent."
        )
        if self._ui.accessEdit.text:
            self._connect()

    def _on_browse(self):
        path = dialogs.file_to_open(_("Access file of the remote worker"), _("Access files (*.json)"))
        if path:
            self._ui.accessEdit.text = path
            self._connect()

    def _on_test(self):
        from ..worker.socket_transport import probe

        try:
            self._ui.remoteLabel.text = probe(self._connect(quiet=False))
        except (UnusableInput, SynthesisFailed) as error:
            self._ui.remoteLabel.text = said(error)

    def _connect(self, quiet=True):
        from ..worker.frames import Access

        try:
            access = Access.read(self._ui.accessEdit.text)
        except UnusableInput as error:
            self._ui.remoteLabel.text = said(error)
            if quiet:
                return None
            raise
        self._use(access)
        return access

    def _use(self, access):
        """Let the session's worker run there, or here if ``access`` is None."""
        from ..worker.socket_transport import SocketTransport
        from ..worker.transport import PipeTransport

        worker = self._session().worker
        here = not isinstance(worker.transport, SocketTransport)
        if (access is None and here) or (not here and access == worker.transport.access):
            return
        worker.close()
        worker.transport = PipeTransport() if access is None else SocketTransport(access)
        self.update()
