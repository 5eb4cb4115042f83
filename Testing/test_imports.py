"""Imports run one way, and nothing heavy or foreign is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "CTSynthesisLib"
FILES = sorted(LIBRARY.rglob("*.py"))

ALLOWED = {"numpy", "SimpleITK", "vtk", "slicer", "qt"}  # third-party modules that Slicer has: free to be imported at file scope
SLICER_SIDE = {
    "scene",
    "surfaces",
    "session",
    "live",
    "views",
    "note",
    "history",
    "runner",
    "headless",
    "panel",
    "workbench",
}  # may import slicer and vtk; only panel may import qt
COMPUTING = {
    "networks",
    "synthesis",
    "training",
    "evaluation",
}  # may hold files that import torch: they are themselves imported when they are needed
FORBIDDEN = {  # part → the parts that it must not import
    "anatomy": {"files", "synthesis", "networks", "modelstore", "training", "evaluation", "worker", "cli", *SLICER_SIDE},
    "volume": {"anatomy", "files", "synthesis", "networks", "modelstore", "training", "evaluation", "worker", "cli", *SLICER_SIDE},
    "files": {"synthesis", "networks", "modelstore", "training", "evaluation", "worker", "cli", *SLICER_SIDE},
    "networks": {"synthesis", "files", "training", "evaluation", "worker", "cli", *SLICER_SIDE},
    "modelstore": {"synthesis", "files", "training", "evaluation", "worker", "cli", *SLICER_SIDE},
    "synthesis": {"training", "evaluation", "worker", "cli", *SLICER_SIDE},
    "training": {"worker", "cli", *SLICER_SIDE},
    "evaluation": {"worker", "cli", *SLICER_SIDE},
    "worker": {"training", "cli", *SLICER_SIDE},  # the child measures what it has made
    "scene": {"synthesis", "networks", "training", "evaluation", "worker", "cli", "session", "headless", "panel"},
    "headless": {"scene", "session", "panel", "synthesis", "networks", "training", "evaluation", "worker", "cli"},
    "runner": {"headless", "panel", "workbench", "networks", "training", "evaluation", "cli"},
    "live": {"headless", "panel", "networks", "training", "evaluation", "cli"},
    "session": {"headless", "panel", "networks", "training", "evaluation", "cli"},
    "panel": {"headless", "networks", "training", "evaluation", "cli", "workbench"},
    "workbench": {"panel", "headless", "networks", "training", "cli"},
}


def part_of(file):
    """The part of the library a file belongs to: its folder, or its own name."""
    relative = file.relative_to(LIBRARY)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(file, file_scope_only=False):
    """Absolute names of the modules that a file imports, everywhere or only when it is itself imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if file_scope_only:
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
        inside = {id(child) for function in functions for child in ast.walk(function)}
        inside |= {id(child) for n in ast.walk(tree) if _only_for_type_checkers(n) for child in ast.walk(n)}
    package = ["CTSynthesisLib", *file.relative_to(LIBRARY).parts[:-1]]
    for node in ast.walk(tree):
        if file_scope_only and id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _only_for_type_checkers(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def parts_imported(file):
    return {name.split(".")[1] for name in imports(file) if name.startswith("CTSynthesisLib.")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(LIBRARY).as_posix())
def test_imports_run_one_way(file):
    assert parts_imported(file) & FORBIDDEN.get(part_of(file), set()) == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(LIBRARY).as_posix())
def test_slicer_and_qt_stay_where_they_belong(file):
    roots = {name.split(".")[0] for name in imports(file)}
    allowed = {"slicer", "vtk", "qt", "SampleData", "PyTorchUtils"} if part_of(file) == "panel" else {"slicer", "vtk"}
    if part_of(file) not in SLICER_SIDE | {"cli"}:  # the demo, one of the commands, boots a scene
        allowed = set()
    assert roots & {"slicer", "vtk", "qt", "ctk", "SampleData", "PyTorchUtils", "PySide6"} <= allowed


def third_party_at_file_scope(file):
    names = {name.split(".")[0] for name in imports(file, file_scope_only=True)}
    return {name for name in names if name not in sys.stdlib_module_names} - ALLOWED - {"CTSynthesisLib"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(LIBRARY).as_posix())
def test_nothing_foreign_is_imported_at_file_scope(file):
    allowed = {"torch", "safetensors"} if part_of(file) in COMPUTING else set()
    if part_of(file) == "workbench" and not file.stem.startswith("__"):  # its __main__ says in words what is missing
        allowed = {"trame", "trame_server", "trame_slicer"}
    assert third_party_at_file_scope(file) <= allowed


def test_the_module_file_imports_nothing_foreign():
    tree = ast.parse((ROOT / "CTSynthesis" / "CTSynthesis.py").read_text(encoding="utf-8"))
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    modules += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    foreign = {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert foreign <= {"CTSynthesisLib", *ALLOWED}


def test_the_walk_sees_what_it_should(tmp_path, monkeypatch):
    """A walk that finds nothing would pass all of the above."""
    monkeypatch.setattr(sys.modules[__name__], "LIBRARY", tmp_path)
    (tmp_path / "synthesis").mkdir()
    file = tmp_path / "synthesis" / "bad.py"
    file.write_text("import torch.nn\nfrom ..panel import inputs\nfrom .. import scene\ndef f():\n    import scipy\n")
    assert parts_imported(file) == {"panel", "scene"}
    assert third_party_at_file_scope(file) == {"torch"}


def modules_after(statement, folder=ROOT):
    """Names of the modules that are loaded in a fresh process after a statement."""
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{statement}\nprint('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return set(done.stdout.rpartition("\n")[0].rpartition("\n")[2].split()) | set(done.stdout.split())


HEAVY = {"torch", "pydicom", "highdicom", "safetensors", "PIL", "matplotlib", "scipy"}


@pytest.mark.parametrize(
    "module", ["anatomy", "volume", "files", "synthesis.request", "synthesis.generate", "modelstore", "worker", "scene", "session", "cli"]
)
def test_importing_the_library_loads_nothing_heavy(module):
    loaded = modules_after(f"import CTSynthesisLib.{module}")
    assert f"CTSynthesisLib.{module}" in loaded
    assert loaded & HEAVY == set()


def test_loading_the_module_and_opening_its_panel_loads_no_torch():
    loaded = modules_after(
        "import os\nos.environ['QT_QPA_PLATFORM'] = 'offscreen'\nsys.path.insert(0, 'Testing/host')\n"
        "from CTSynthesisLib.headless import boot_scene\napplication = boot_scene()\nimport slicer_app\nslicer_app.start()\n"
        "module, _ = slicer_app.load_module('CTSynthesis/CTSynthesis.py')\nwidget = slicer_app.open_panel(module, 'CTSynthesis')"
    )
    assert "CTSynthesis" in loaded
    assert loaded & HEAVY == set()
