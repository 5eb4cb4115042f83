"""The live preview on the real scene: strokes go to the worker in pieces, slices come back, nothing is left when it ends."""

import time

import numpy as np
import pytest
import slicer
import slicer.util

from CTSynthesisLib import scene, views
from CTSynthesisLib.live import LivePreview
from CTSynthesisLib.session import Session
from CTSynthesisLib.synthesis.generate import generate
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import LabelMap
from CTSynthesisLib.worker import PreviewReady
from Testing.phantom import thorax
from Testing.synthesis.models import save_random_model


@pytest.fixture(scope="module")
def a_session():
    with Session() as session:
        yield session


@pytest.fixture(scope="module")
def a_request(tmp_path_factory):
    return Request(model=save_random_model(tmp_path_factory.mktemp("models")).path, inside="plain")


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setenv("CTSYNTHESIS_PRECISION", "float32")


@pytest.fixture
def the_labelmap():
    return thorax(shape=(30, 40, 44), spacing=(8.0, 8.0, 5.0))


@pytest.fixture
def a_preview(a_scene, a_session, the_labelmap, a_request):
    """The preview of a thorax, begun, with a red view that shows slice 6."""
    view = a_scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    view.SetOrientation("Axial")
    show(view, the_labelmap.geometry, 6)
    preview = LivePreview(a_session)
    preview.view = view
    preview.begin(scene.labelmap_to_segmentation(the_labelmap, "Thorax"), a_request)
    until(preview, lambda: preview.node is not None)
    yield preview
    preview.end()


def show(view, geometry, k):
    view.SetSliceOffset(float((geometry.ijk_to_ras @ [0, 0, k, 1])[2]))


def until(preview, condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the preview did not get there in time"
        if isinstance(news := preview.session.poll(), PreviewReady):
            preview.take(news)
        preview.tick()
        time.sleep(0.003)


def paint(node, segment, window, value=1):
    """A stroke, as the Segment Editor leaves it: voxels added to a segment and taken from the others."""
    ids = node.GetSegmentation().GetSegmentIDs()
    geometry = scene.labelmap_from_segmentation(node, empty=True).geometry
    array = scene.read_labels(node, geometry)
    array[window] = list(ids).index(segment) + 1 if value else 0
    for place, segment_id in enumerate(ids, start=1):
        image = slicer.vtkOrientedImageData()
        image.DeepCopy(scene._oriented_image(LabelMap((array == place).astype(np.uint8), geometry, ())))
        slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(
            image, node, segment_id, slicer.vtkSlicerSegmentationsModuleLogic.MODE_REPLACE
        )
    return array


def test_a_stroke_updates_the_slice_that_is_looked_at(a_preview, the_labelmap, a_request):
    full = generate(the_labelmap, a_request).volume.array
    voxels = lambda: slicer.util.arrayFromVolume(a_preview.node)  # noqa: E731
    until(a_preview, lambda: np.abs(voxels()[6] - full[6].astype(int)).max() <= 1)
    assert a_preview.node.GetAttribute("CTSynthesis.Synthetic") == "1" and (voxels()[20][the_labelmap.array[20] == 0] == -1000).all()

    segmentation = slicer.util.getNode("Thorax")
    heart = segmentation.GetSegmentation().GetSegmentIdBySegmentName("heart")
    painted = paint(segmentation, heart, (slice(4, 8), slice(8, 14), slice(9, 20)))
    edited = LabelMap(painted, the_labelmap.geometry, the_labelmap.segments)
    sent = []
    put = a_preview.session.worker.transport.put
    a_preview.session.worker.transport.put = lambda name, array: (sent.append(array.size), put(name, array))
    a_preview.touched()
    expected = generate(edited, a_request).volume.array
    until(a_preview, lambda: np.abs(voxels()[6] - expected[6].astype(int)).max() <= 1)
    assert sum(sent) == 4 * 6 * 11  # no more than the stroke
    assert 0 < a_preview.latency < 20
    show(a_preview.view, the_labelmap.geometry, 20)  # scrolling shows what nobody has looked at
    until(a_preview, lambda: np.abs(voxels()[20] - expected[20].astype(int)).max() <= 1)
    a_preview.session.worker.transport.put = put


def test_a_full_run_gives_all_slices_and_strokes_in_other_slices_are_found(a_preview, a_session, the_labelmap, a_request):
    segmentation = slicer.util.getNode("Thorax")
    result = a_session.generate(segmentation, a_request).node
    a_preview.begin(segmentation, a_request, like=result)
    until(a_preview, lambda: a_preview.node is not None)
    voxels = lambda: slicer.util.arrayFromVolume(a_preview.node)  # noqa: E731
    assert np.array_equal(voxels(), slicer.util.arrayFromVolume(result))
    heart = segmentation.GetSegmentation().GetSegmentIdBySegmentName("heart")
    painted = paint(segmentation, heart, (slice(25, 27), slice(8, 14), slice(9, 20)))
    a_preview.touched()
    expected = generate(LabelMap(painted, the_labelmap.geometry, the_labelmap.segments), a_request).volume.array
    until(a_preview, lambda: np.abs(voxels() - expected.astype(int)).max() <= 1)


def test_removing_an_empty_segment_changes_no_other_and_a_new_one_must_be_told(a_preview, the_labelmap):
    node = slicer.util.getNode("Thorax")
    segmentation, transport, sent = node.GetSegmentation(), a_preview.session.worker.transport, []
    lung = segmentation.GetSegmentIdBySegmentName("lung_left")
    paint(node, segmentation.GetSegmentIdBySegmentName("body"), the_labelmap.array == 2)
    a_preview.touched()
    until(a_preview, lambda: a_preview.latency is not None and not a_preview._slabs)
    transport.put, put = lambda name, array: (sent.append(array.size), put(name, array)), transport.put
    segmentation.RemoveSegment(lung)  # the others move up
    a_preview.touched()
    until(a_preview, lambda: not a_preview._slabs)
    assert sent == [] and not a_preview.outdated
    segmentation.GetNthSegment(2).SetColor(1, 0, 0)
    assert not a_preview.outdated
    segmentation.GetNthSegment(2).SetName("spleen")
    assert a_preview.outdated
    segmentation.GetNthSegment(2).SetName("heart")
    segmentation.AddEmptySegment("", "tumour")
    assert a_preview.outdated
    transport.put = put


def test_it_takes_its_volume_along(a_preview, a_scene):
    before = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")}
    assert before == {"Thorax live preview"}
    a_preview.end()
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == [] and not a_preview.active
    a_preview.tick()


def test_it_ends_quietly_with_its_worker_or_its_segmentation(a_preview, a_session, a_scene, a_request):
    a_session.worker.close()
    until(a_preview, lambda: not a_preview.active)
    segmentation = slicer.util.getNode("Thorax")
    a_preview.begin(segmentation, a_request)
    until(a_preview, lambda: a_preview.node is not None)
    a_scene.RemoveNode(segmentation)
    until(a_preview, lambda: not a_preview.active)
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_an_oblique_view_is_no_slice(a_scene, the_labelmap):
    segmentation = scene.labelmap_to_segmentation(the_labelmap)
    assert views.looked_at(the_labelmap.geometry, 0, segmentation) == 15
    view = a_scene.AddNewNodeByClass("vtkMRMLSliceNode", "Yellow")
    view.SetOrientation("Sagittal")
    show(view, the_labelmap.geometry, 3)
    assert views.looked_at(the_labelmap.geometry, 0, segmentation) == 15
    view.SetOrientation("Axial")
    show(view, the_labelmap.geometry, 3)
    assert views.looked_at(the_labelmap.geometry, 0, segmentation) == 3
