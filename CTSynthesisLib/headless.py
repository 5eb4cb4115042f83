"""A bare MRML scene without the 3D Slicer application (pip package ``slicer-core``), for the demo, scripts and tests."""

from __future__ import annotations

import types

import slicer
import slicer.util
import vtk


def boot_scene():
    """Make ``slicer.mrmlScene`` and the logics that segmentations and volumes need, as the application does when it starts.

    Returns
    -------
    vtkSlicerApplicationLogic
        Keep it as long as the scene is used.
    """
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    slicer.util.slicer = slicer  # some of its functions rely on the application having imported it
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.SetSliceLogics(vtk.vtkCollection())
    application.SetViewLogics(vtk.vtkCollection())
    colors = slicer.vtkMRMLColorLogic()  # not the application's own: that one looks for color files of an installation
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    slicer.modules = types.SimpleNamespace()
    for name, logic in (
        ("Volumes", slicer.vtkSlicerVolumesLogic()),
        ("Segmentations", slicer.vtkSlicerSegmentationsModuleLogic()),
        ("SubjectHierarchy", slicer.vtkSlicerSubjectHierarchyModuleLogic()),
    ):
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name, logic)
        setattr(slicer.modules, name.lower(), types.SimpleNamespace(name=name, logic=lambda logic=logic: logic))
    return application
