"""The word SYNTHETIC in the corner of each slice view that shows a generated volume. VTK and the scene, no Qt."""

from __future__ import annotations

import slicer
import vtk

TEXT = "SYNTHETIC"
COLOR = (1.0, 0.72, 0.2)


class SyntheticNote:
    """Keeps the note of one slice view right while its volumes change.

    Parameters
    ----------
    renderer : vtkRenderer
        Of the slice view.
    composite : vtkMRMLSliceCompositeNode
        What the view shows.
    render : callable
        Draws the view anew.
    """

    def __init__(self, renderer, composite, render, text=TEXT):
        self._renderer, self._composite, self._render = renderer, composite, render
        self._actor = vtk.vtkCornerAnnotation()
        self._actor.SetText(vtk.vtkCornerAnnotation.UpperRight, text)
        self._actor.SetMaximumFontSize(16)
        self._actor.SetNonlinearFontScaleFactor(0.4)
        self._actor.GetTextProperty().SetColor(*COLOR)
        self._actor.GetTextProperty().BoldOn()
        self._actor.GetTextProperty().ShadowOn()
        self._actor.SetVisibility(False)
        renderer.AddViewProp(self._actor)
        self._tag = composite.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self.update())
        self.update()

    @property
    def visible(self) -> bool:
        return bool(self._actor.GetVisibility())

    def update(self):
        visible = shows_synthetic(self._composite)
        if visible != self.visible:
            self._actor.SetVisibility(visible)
            self._render()

    def remove(self):
        self._composite.RemoveObserver(self._tag)
        self._renderer.RemoveViewProp(self._actor)
        self._render()


def shows_synthetic(composite) -> bool:
    """Whether a slice view shows a volume that was generated, behind or in front."""
    foreground = composite.GetForegroundVolumeID() if composite.GetForegroundOpacity() > 0 else None
    for node_id in (composite.GetBackgroundVolumeID(), foreground):
        node = slicer.mrmlScene.GetNodeByID(node_id) if node_id else None
        if node is not None and node.GetAttribute("CTSynthesis.Synthetic") == "1":
            return True
    return False
