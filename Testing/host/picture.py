"""Take a picture of the panel on the test host: ``python Testing/host/picture.py docs/images/panel.png``.

The widgets are stand-ins, so the picture shows the panel's contents, not 3D Slicer's looks; caption it accordingly.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "host")]


def main(path):
    from CTSynthesisLib.headless import boot_scene

    application = boot_scene()
    import slicer
    import slicer_app

    from CTSynthesisLib.files import read_segmentation
    from CTSynthesisLib.scene import labelmap_to_segmentation

    slicer_app.start()
    module, _ = slicer_app.load_module(ROOT / "CTSynthesis" / "CTSynthesis.py")
    widget = slicer_app.open_panel(module, "CTSynthesis")
    sample = read_segmentation(ROOT / "Resources" / "Samples" / "thorax.seg.nrrd")
    widget.ui.segmentationSelector.setCurrentNode(labelmap_to_segmentation(sample, "Thorax"))
    widget.ui.segmentTable.setMinimumHeight(260)
    widget.ui.generateButton.click()
    while widget.ui.generateButton.text != "Generate":
        slicer.app.processEvents()
        time.sleep(0.02)
    slicer.app.processEvents()
    widget.parent.grab().save(str(path))
    widget.cleanup()
    del application


if __name__ == "__main__":
    main(sys.argv[1])
