"""The whole motion in a real browser: paint with the mouse, generate, and see the slice change where it was painted.

Needs the workbench's packages (trame-slicer, selenium) and Chromium with its driver; without them these tests skip and say so.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from CTSynthesisLib.files import write_segmentation
from Testing.phantom import thorax
from Testing.synthesis.models import save_random_model

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

selenium = pytest.importorskip("selenium", reason="selenium is not installed (it is part of '.[dev]')")
pytest.importorskip("trame_slicer", reason="trame-slicer is not installed (pip install '.[workbench]')")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="there is no Chromium with its driver here (apt-get install chromium-driver)"
)


class Browser:
    """The workbench's page, in words that its user would use."""

    def __init__(self, address):
        from selenium import webdriver
        from selenium.webdriver.common.by import By

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1600,1000", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        self.driver, self.by = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)), By
        self.driver.get(address)
        self.until(lambda: len(self.views()) >= 4)
        self.until(lambda: self.find("ctsynthesis-generate").is_displayed())
        time.sleep(2)  # the views fit themselves to the page

    def until(self, condition, seconds=60):
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if found := condition():
                    return found
            except (NoSuchElementException, StaleElementReferenceException):
                pass
            time.sleep(0.1)
        raise AssertionError("the workbench did not get there in time")

    def find(self, name):
        return self.driver.find_element(self.by.ID, name)

    def status(self):
        return self.find("ctsynthesis-status").text

    def views(self):
        """Of the four, the axial one first: it is the one at the upper left."""
        images = [
            image
            for image in self.driver.find_elements(self.by.CSS_SELECTOR, "img")
            if (image.get_attribute("src") or "").startswith("blob")
        ]
        return sorted(images, key=lambda image: (image.location["y"], image.location["x"]))

    def picture(self):
        """Grey values (row, column) of the axial view."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.views()[0].screenshot_as_png)).convert("L")).astype(int)

    def press_icon(self, icon, place=0):
        self.until(lambda: self.driver.find_elements(self.by.CSS_SELECTOR, f"button i.{icon}"))
        self.driver.find_elements(self.by.CSS_SELECTOR, f"button i.{icon}")[place].click()
        time.sleep(0.5)

    def segment(self, name):
        """Its line in the segment editor's list; the names are text fields there."""
        for line in self.driver.find_elements(self.by.CSS_SELECTOR, ".v-list-item"):
            if any(field.get_attribute("value") == name for field in line.find_elements(self.by.CSS_SELECTOR, "input")):
                return line
        return None

    def generate(self):
        before = self.status()  # which may tell of an earlier volume
        self.find("ctsynthesis-generate").click()
        self.until(lambda: "generated in" in self.status() != before)
        time.sleep(1.5)

    def rest(self):
        """Take the mouse away from buttons, whose hints would stand in a picture."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).move_to_element(self.find("ctsynthesis-status")).perform()
        time.sleep(1)

    def stroke(self, x, y, dx, dy):
        """With the mouse held down, from a place relative to the middle of the axial view."""
        from selenium.webdriver.common.action_chains import ActionChains

        view = self.views()[0]
        chain = ActionChains(self.driver).move_to_element_with_offset(view, x, y).pause(0.2).click_and_hold()
        for _ in range(6):
            chain = chain.move_by_offset(dx, dy).pause(0.05)
        chain.release().perform()
        time.sleep(1)


@contextlib.contextmanager
def workbench(folder, model):
    """Start a workbench for ``folder/thorax.seg.nrrd``; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "CTSynthesisLib.workbench", str(folder / "thorax.seg.nrrd"), "--model", model]
    log = folder / "log.txt"
    with open(log, "w") as file:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--no-browser"],
            stdout=file, stderr=subprocess.STDOUT, cwd=folder, env=dict(os.environ, PYTHONPATH=str(ROOT)),
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
        print(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def a_workbench(tmp_path_factory):
    """A workbench that shows the geometric thorax, with a small model: its address, and the folder where it was started."""
    folder = tmp_path_factory.mktemp("workbench")
    write_segmentation(thorax(shape=(24, 80, 90), spacing=(4.0, 4.0, 6.0)), folder / "thorax.seg.nrrd")
    with workbench(folder, save_random_model(folder).path) as address:
        yield address, folder


@pytest.fixture(scope="module")
def the_page(a_workbench):
    browser = Browser(a_workbench[0])
    yield browser
    browser.driver.quit()


def paint(page, segment, *stroke):
    """Choose a segment and the brush in the segment editor, paint, and come back to the panel."""
    page.press_icon("mdi-brush")
    page.until(lambda: page.segment(segment) is not None)
    page.driver.execute_script("arguments[0].click()", page.segment(segment))
    time.sleep(0.5)
    page.press_icon("mdi-brush", -1)
    page.stroke(*stroke)
    page.press_icon("mdi-creation")
    page.until(lambda: page.find("ctsynthesis-generate").is_displayed())
    time.sleep(1)


def test_a_stroke_changes_the_generated_slice_where_it_was_painted(the_page, a_workbench):
    page = the_page
    page.generate()
    before = page.picture()
    height, width = before.shape
    paint(page, "heart", -110, -20, 6, 4)  # into a lung, which is dark
    page.generate()
    change = np.abs(page.picture() - before)
    rows, columns = np.indices(change.shape)
    x, y = columns - width // 2, rows - height // 2
    stroke = (x > -115) & (x < -70) & (y > -25) & (y < 10)
    far = (x > 60) & (np.abs(y) < 100)
    assert change[stroke].mean() > 25, f"where it was painted the slice changed by {change[stroke].mean():.1f} grey values"
    assert change[far].mean() < 5, f"far from the stroke it changed by {change[far].mean():.1f}"
    if picture := os.environ.get("WORKBENCH_PICTURE"):  # for whoever wants to look at it
        page.driver.save_screenshot(picture)
    page.find("ctsynthesis-export").click()
    page.until(lambda: "Written to" in page.status())
    assert list(a_workbench[1].glob("*.nrrd"))


def test_the_live_preview_follows_the_mouse(the_page):
    page = the_page
    page.find("ctsynthesis-live").click()
    page.until(lambda: "Live preview" in page.status())
    time.sleep(1.5)
    before, slices = page.picture(), int(page.find("ctsynthesis-slices").get_attribute("textContent"))
    paint(page, "heart", -110, 60, 6, -2)
    page.until(lambda: int(page.find("ctsynthesis-slices").get_attribute("textContent")) > slices)
    page.until(lambda: "the last stroke took" in page.status())
    time.sleep(1)
    change = np.abs(page.picture() - before)
    assert change.max() > 40
    page.find("ctsynthesis-live").click()


def upload(page, *files):
    """Through the file button of the toolbar; it comes back when the upload has ended."""
    page.until(lambda: page.driver.find_elements(page.by.CSS_SELECTOR, "input[type=file]:not([webkitdirectory])"))
    page.driver.find_element(page.by.CSS_SELECTOR, "input[type=file]:not([webkitdirectory])").send_keys("\n".join(map(str, files)))


def rows(page):
    """What the panel's table of segments says."""
    return page.find("ctsynthesis-structures").text


def test_an_uploaded_segmentation_takes_the_place_of_what_was_shown(the_page, tmp_path):
    page = the_page
    labelmap = thorax(shape=(12, 60, 70), spacing=(5.0, 5.0, 9.0))
    spleen = replace(labelmap.segments[-1], name="spleen")
    write_segmentation(replace(labelmap, segments=(*labelmap.segments[:-1], spleen)), tmp_path / "other.seg.nrrd")
    upload(page, tmp_path / "other.seg.nrrd")
    page.until(lambda: "“other.seg.nrrd” is shown" in page.status())
    page.until(lambda: "spleen" in rows(page))
    page.generate()
    assert "Segmentation synthetic CT" in page.status()


def test_a_wrong_file_changes_nothing(the_page, tmp_path):
    page = the_page
    before, shown = rows(page), page.picture()
    (tmp_path / "notes.txt").write_text("nothing to see")
    (tmp_path / "damaged.nrrd").write_bytes(b"NRRD0004\ntype: short\n")
    for name in ("notes.txt", "damaged.nrrd"):
        upload(page, tmp_path / name)
        page.until(lambda name=name: "Nothing was changed." in page.status() and name in page.status())
    assert str(tmp_path) not in page.status() and rows(page) == before
    assert np.abs(page.picture() - shown).mean() < 2
    page.generate()


def test_an_uploaded_ct_keeps_the_segmentation_and_the_word_synthetic(the_page, a_workbench, tmp_path):
    page = the_page
    before = rows(page)
    page.find("ctsynthesis-export").click()
    page.until(lambda: "Written to" in page.status())
    saved = max(a_workbench[1].glob("*synthetic-CT*.nrrd"), key=lambda path: path.stat().st_mtime)
    upload(page, saved)
    page.until(lambda: "is shown" in page.status())
    assert rows(page) == before and "taken away" not in page.status()
    time.sleep(1)
    corner = page.picture()  # the word is the only bright thing in the black corner of the axial view
    height, width = corner.shape
    assert corner[: height // 8, width * 3 // 4 :].max() > 150
