"""Nodule: the place of an engine that is still to come. It gets a file of its own when its engine is there."""

from __future__ import annotations

from slicer.i18n import tr as _


def announce_what_is_missing(ui):
    """Disabled sections say why."""
    sentences = {
        ui.noduleCollapsibleButton: _("Adding and removing lung nodules: this engine is not part of this version"),
    }
    for section, sentence in sentences.items():
        section.enabled = False
        section.toolTip = sentence
