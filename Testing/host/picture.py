"""Take pictures of the panel on the test host: ``python Testing/host/picture.py docs/images/panel.png [--dark]``.

The widgets are stand-ins, so the pictures show the panel's contents, not 3D Slicer's looks; caption them accordingly.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "host")]


def main(path, dark):
    from CTSynthesisLib.headless import boot_scene

    application = boot_scene()
    import slicer_app

    from CTSynthesisLib.evaluation.benchmark import sample
    from CTSynthesisLib.scene import labelmap_to_segmentation

    slicer_app.start()
    set_theme(dark)
    module, _ = slicer_app.load_module(ROOT / "CTSynthesis" / "CTSynthesis.py")
    widget = slicer_app.open_panel(module, "CTSynthesis")
    widget.ui.segmentationSelector.setCurrentNode(labelmap_to_segmentation(sample(48, 256), "Thorax"))
    widget.ui.resultCollapsibleButton.collapsed = False
    widget.ui.compareCollapsibleButton.collapsed = False
    widget.ui.exportCollapsibleButton.collapsed = False
    widget.ui.generateButton.click()
    until(lambda: widget.ui.qualityTable.rowCount)
    widget.parent.resize(470, widget.parent.sizeHint.height() + 60)
    until(lambda: not widget.logic.session.worker.busy)
    widget.parent.grab().save(str(path))
    widget.cleanup()
    del application


def until(condition):
    import slicer

    while not condition():
        slicer.app.processEvents()
        time.sleep(0.02)
    slicer.app.processEvents()


def set_theme(dark):
    import slicer
    from PySide6.QtGui import QColor, QPalette

    slicer.app.setStyle("Fusion")
    palette = QPalette(QColor(53, 53, 53) if dark else QColor(240, 240, 240))
    if dark:
        palette.setColor(QPalette.Base, QColor(35, 35, 35))
        palette.setColor(QPalette.AlternateBase, QColor(45, 45, 45))
    slicer.app.setPalette(palette)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    main(options.path, options.dark)
