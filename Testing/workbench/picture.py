"""Take a picture of the workbench in Chromium: ``python Testing/workbench/picture.py docs/images/workbench.png``.

It shows the bundled segmentation after Generate and a stroke with the live preview: synthetic content only.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from CTSynthesisLib.evaluation.benchmark import sample  # noqa: E402
from CTSynthesisLib.files import write_segmentation  # noqa: E402
from Testing.workbench.test_workbench import Browser, paint, workbench  # noqa: E402


def main(path):
    folder = Path(tempfile.mkdtemp())
    write_segmentation(sample(48, 256), folder / "thorax.seg.nrrd")
    with workbench(folder, "default") as address:
        page = Browser(address)
        try:
            page.generate()
            page.find("ctsynthesis-live").click()
            page.until(lambda: "Live preview:" in page.status())
            paint(page, "muscle", -140, -10, 5, 5)
            page.until(lambda: "the last stroke took" in page.status())
            page.rest()
            page.driver.save_screenshot(path)
        finally:
            page.driver.quit()


if __name__ == "__main__":
    main(sys.argv[1])
