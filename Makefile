# make demo   builds .venv the first time, then makes a synthetic CT of the bundled segmentation in demo/
# make test   builds .venv the first time, then runs all tests
# make test-slicer510   the tests of files, scene and panel with the versions that 3D Slicer 5.10 brings
# make lint   style and import order
# Nothing but Python 3.11 or later and make is needed. Choose another Python with: make demo PYTHON=/path/to/python3

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; exit; }; done; echo python3)
VENV := .venv
SLICER510 := .venv-slicer510
PYTEST_ARGS ?= -n 2 --dist loadfile  # two processes: the suite takes eight minutes of processor time
READY := $(VENV)/.ready

.PHONY: demo test test-slicer510 lint clean

demo: $(READY)
	$(VENV)/bin/python -m CTSynthesisLib demo -o demo

test: $(READY)
	QT_QPA_PLATFORM=offscreen $(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-slicer510: $(SLICER510)/.ready
	QT_QPA_PLATFORM=offscreen $(SLICER510)/bin/python -m pytest $(PYTEST_ARGS) Testing/files Testing/test_scene.py Testing/test_live.py Testing/test_panel*.py

$(SLICER510)/.ready: Testing/slicer-5.10.txt
	@test -x $(SLICER510)/bin/python || "$(PYTHON)" -m venv $(SLICER510)
	@echo "Installing into $(SLICER510), with the versions of 3D Slicer 5.10 ..."
	@$(SLICER510)/bin/python -m pip install --quiet -r Testing/slicer-5.10.txt
	@touch $@

lint: $(READY)
	$(VENV)/bin/ruff check .

# The stamp is younger than pyproject.toml once everything in it is installed, so later runs start at once.
$(READY): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "CTSynthesis needs Python 3.11 or later; '$(PYTHON)' is missing or older. Name another one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(VENV)/bin/python || "$(PYTHON)" -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python could not make a virtual environment; on Debian and Ubuntu install python3-venv." >&2; exit 1; }
	@echo "Installing into $(VENV): about 2.5 GB, a few minutes the first time ..."
	@$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) $(SLICER510) demo .pytest_cache .ruff_cache *.egg-info
