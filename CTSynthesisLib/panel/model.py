"""Model: which of the installed models generates, what it is made for and where its limits are."""

from __future__ import annotations

from slicer.i18n import tr as _


class ModelSelector:
    """Fills the list of models and shows the card of the chosen one.

    Parameters
    ----------
    selector, description : QComboBox, QLabel
    cards : list of modelstore.ModelCard
    chosen : callable
        Called with the model's name when the user chose one.
    """

    def __init__(self, selector, description, cards, chosen):
        self._selector, self._description, self._chosen = selector, description, chosen
        self._cards = {card.name: card for card in cards if card.generates}
        for card in self._cards.values():
            selector.addItem(card.title, card.name)
        selector.enabled = bool(self._cards)
        selector.toolTip = _("The model that draws the CT.") if self._cards else self.problem(None)
        selector.connect("currentIndexChanged(int)", self._on_changed)
        self._describe()

    def show(self, name):
        """Select a model by name; a name that is not installed leaves nothing selected."""
        self._selector.blockSignals(True)
        self._selector.setCurrentIndex(self._selector.findData(name))
        self._selector.blockSignals(False)
        self._describe()

    def problem(self, name) -> str:
        """Why nothing can be generated with the model of this name, or an empty string."""
        if not self._cards:
            return _("No model is installed; reinstall the extension.")
        if name not in self._cards:
            return _("The model “{name}” is not installed; choose another one.").format(name=name)
        return ""

    def _on_changed(self, index):
        self._describe()
        if index >= 0:
            self._chosen(self._selector.itemData(index))

    def _describe(self):
        card = self._cards.get(self._selector.itemData(self._selector.currentIndex))
        self._description.text = card.description if card else ""
        self._description.visible = card is not None
        self._description.toolTip = "\n".join(card.limits) if card else ""
