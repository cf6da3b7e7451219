# Each target makes .venv itself when it is missing or older than the requirements.
PYTHON ?= python3
# How long a waiting thread of libgomp keeps its core busy; utils/__init__.py says why.
export GOMP_SPINCOUNT ?= 10000
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help report test lab notebooks class clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

.venv/ready: requirements.txt requirements-runtimes.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt || \
	  { echo "pip could not install the requirements; its message stands above. They need about 7 GB in this folder, and 3 GB each in the folders of temporary files (elsewhere: TMPDIR=/larger/disk make ...) and of its cache. Free here: $$(df -Ph . | awk 'NR == 2 {print $$4}')." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-runtimes.txt || \
	  echo "ONNX Runtime and OpenVINO could not be installed: the benchmark goes without them."
	@touch $@

report: .venv/ready  ## Execute all notebooks and write report/index.html
	$(BIN)/python -m utils.report

test: .venv/ready  ## Run every test, notebooks included, in the quick profile
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

lab: .venv/ready  ## Open JupyterLab on the notebooks
	$(BIN)/python -m jupyterlab notebooks

notebooks: .venv/ready  ## Refresh the committed outputs, results/ and README table (full profile, MNIST)
	COURSE_PROFILE=full $(BIN)/python -m utils.report --in-place

class: .venv/ready  ## Write student notebooks, slides, nbgrader sources and notes to class/
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-class.txt || \
	  echo "The class requirements could not be installed: there will be no slides."
	$(BIN)/python -m utils.lab.classroom

clean:  ## Delete what was made here: artifacts, report, caches and .venv (data/ stays)
	rm -rf artifacts class report .venv .pytest_cache .ruff_cache *.egg-info
