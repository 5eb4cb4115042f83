"""Model: which of the installed models generates, what it is made for and where its limits are."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from .. import modelstore
from ..errors import UnusableInput
from . import dialogs
from .wording import said


class ModelSelector:
    """Fills the list of models, shows the card of the chosen one, imports and removes.

    Parameters
    ----------
    ui : the panel's widgets
    cards : callable
        Returns the installed models as a list of modelstore.ModelCard.
    chosen : callable
        Called with the model's name when the user chose one.
    """

    def __init__(self, ui, cards, chosen):
        self._ui, self._selector, self._read_cards, self._chosen = ui, ui.modelSelector, cards, chosen
        self._cards = {}
        self._selector.connect("currentIndexChanged(int)", self._on_changed)
        ui.importModelButton.connect("clicked(bool)", lambda _checked=False: self._on_import())
        ui.removeModelButton.connect("clicked(bool)", lambda _checked=False: self._on_remove())
        self.reload()

    def reload(self):
        """Read the list of installed models anew."""
        self._cards = {card.name: card for card in self._read_cards() if card.generates}
        self._selector.blockSignals(True)
        self._selector.clear()
        for card in self._cards.values():
            self._selector.addItem(card.title, card.name)
        self._selector.blockSignals(False)
        self._selector.enabled = bool(self._cards)
        self._selector.toolTip = _("The model that draws the CT.") if self._cards else self.problem(None)
        self._describe()

    def show(self, name):
        """Select a model by name; a name that is not installed leaves nothing selected."""
        self._selector.blockSignals(True)
        self._selector.setCurrentIndex(self._selector.findData(name))
        self._selector.blockSignals(False)
        self._describe()

    def card(self, name):
        return self._cards.get(name)

    def problem(self, name) -> str:
        """Why nothing can be generated with the model of this name, or an empty string."""
        if not self._cards:
            return _("No model is installed; reinstall the extension.")
        if name not in self._cards:
            return _("The model “{name}” is not installed; choose another one.").format(name=name)
        return ""

    def import_from(self, path):
        """Add the model of this file to the list and choose it; a sentence says what is wrong with it otherwise."""
        try:
            card = modelstore.import_model(path)
        except (UnusableInput, OSError) as error:
            self._say(said(error))
            return
        self.reload()
        self._chosen(card.name)

    def _on_import(self):
        path = dialogs.file_to_open(_("Import a model"), _("Models (*.safetensors *.json)"))
        if path:
            self.import_from(path)

    def _on_remove(self):
        name = self._selector.itemData(self._selector.currentIndex)
        question = _("Delete the model “{name}” from this computer?").format(name=name)
        if slicer.util.confirmYesNoDisplay(question, windowTitle=_("CT Synthesis")):
            modelstore.remove_model(name)
            self.reload()
            self._chosen("default")

    def _on_changed(self, index):
        self._describe()
        if index >= 0:
            self._chosen(self._selector.itemData(index))

    def _say(self, sentence):
        self._ui.modelDescriptionLabel.text = sentence
        self._ui.modelDescriptionLabel.visible = bool(sentence)

    def _describe(self):
        card = self._cards.get(self._selector.itemData(self._selector.currentIndex))
        self._say(card.description if card else "")
        self._ui.modelLimitsLabel.visible = bool(card and card.limits)
        self._ui.modelLimitsLabel.text = _limits(card) if card else ""
        self._ui.modelLimitsLabel.toolTip = "\n".join(card.limits) if card else ""
        self._ui.modelDescriptionLabel.toolTip = (
            _("Version {version}, {size} MB, {licence}. Trained on: {data}").format(
                version=card.version, size=f"{card.bytes / 1e6:.0f}", licence=card.licence, data="; ".join(map(str, card.training_data))
            )
            if card
            else ""
        )
        removable = card is not None and card.imported
        self._ui.removeModelButton.enabled = removable
        tooltip = _("Delete the chosen model from your own folder") if removable else _("This model belongs to the extension")
        self._ui.removeModelButton.toolTip = tooltip


def _limits(card):
    """The first limit, and that there are more: all of them would fill the panel."""
    more = _(" (point here for {count} more)").format(count=len(card.limits) - 1) if len(card.limits) > 1 else ""
    return _("Limits: {first}{more}").format(first=card.limits[0], more=more) if card.limits else ""
