"""What tests of the panel ask of the test host: events until something holds, what is in the scene, what a table shows."""

import time

import slicer
import slicer.util


def events_until(condition, seconds=120):
    """Process events until ``condition()`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the panel did not get there in time"
        slicer.app.processEvents()
        time.sleep(0.005)


def volumes():
    return slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")


def nodes():
    """IDs of all nodes in the scene."""
    return {slicer.mrmlScene.GetNthNode(i).GetID() for i in range(slicer.mrmlScene.GetNumberOfNodes())}


def row_of(table, row):
    return [table.item(row, column).text() for column in range(table.columnCount)]
