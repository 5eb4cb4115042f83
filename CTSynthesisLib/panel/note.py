"""The SYNTHETIC note in the corner of the application's slice views."""

from __future__ import annotations

import slicer

from ..note import SyntheticNote


class Notes:
    """One note a slice view; views that the layout makes later get theirs from :meth:`update`."""

    def __init__(self):
        self._notes = {}

    def update(self):
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames() if manager else ():
            if name not in self._notes:
                widget = manager.sliceWidget(name)
                view = widget.sliceView()
                renderer = view.renderWindow().GetRenderers().GetFirstRenderer()
                self._notes[name] = SyntheticNote(renderer, widget.mrmlSliceCompositeNode(), view.scheduleRender)
        for note in self._notes.values():
            note.update()

    def remove(self):
        for note in self._notes.values():
            note.remove()
        self._notes = {}
