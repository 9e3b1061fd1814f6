# Everything a newcomer needs. Nothing here touches the machine outside this folder, but for Mosquitto (apt) in "make test".
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test check faults claims bench bench-peers e2e docs wheel clean

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.demo ## Put Millrace and what it needs into .venv (about 410 MB, once)
	@echo "Installed. Try: $(BIN)/millrace --help"

demo: $(VENV)/.demo ## See the whole line run on this machine, the cloud cut off and back (30 s)
	@$(BIN)/millrace demo

test: $(VENV)/.dev mosquitto ## Run the whole suite, on two cores at once (five minutes)
	@$(BIN)/python -m pytest -m "not faults" -n 2 --dist loadfile --no-loadscope-reorder
	@$(BIN)/python tests/left_out.py

check: $(VENV)/.dev ## Formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

faults: $(VENV)/.dev mosquitto ## Kill every process many times over, two campaigns at once, and count what is lost (nine minutes); build/faults.json
	@mkdir -p build
	@$(BIN)/python -m pytest -m faults tests/faults -n 2 --dist loadfile --no-loadscope-reorder -p no:cacheprovider

claims: $(VENV)/.dev mosquitto ## Run each campaign at its full size (hours; ONLY="crash points" for one); docs/fault-runs.jsonl
	@PYTHONPATH=tests $(BIN)/python -m faults.claims $(if $(ONLY),"$(ONLY)")

bench: $(VENV)/.dev mosquitto ## Measure against the limits of this machine (3 minutes; PROFILE=full for the claims, 25); build/bench.json
	@$(BIN)/python bench/run.py --profile $(or $(PROFILE),quick) $(if $(ONLY),--only $(ONLY))

bench-peers: $(VENV)/.dev ## Bring the other systems that "make bench PROFILE=full" measures beside ours (1.2 GB)
	@$(BIN)/python bench/peers/venvs.py

e2e: $(VENV)/.dev mosquitto ## Run the demo at both brokers and on real pictures and series (minutes); build/e2e.json
	@mkdir -p build
	@$(BIN)/python tests/acceptance/e2e.py

docs: $(VENV)/.dev ## Write the generated pages again
	$(BIN)/millrace config docs > docs/config.md
	$(BIN)/python tests/unit/test_topics_docs.py
	PYTHONPATH=tests $(BIN)/python -m faults.table

wheel: $(VENV)/.dev ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove what was built, .venv too
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: mosquitto
mosquitto:
	@sh tests/bring_mosquitto.sh

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Millrace needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "Python cannot make a virtual environment. On Debian: sudo apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.demo: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "Installing Millrace into $(VENV): OpenCV, LiteRT, NumPy, two small web parts, MQTT; about 115 MB to fetch, 410 MB on disk."
	@$(BIN)/python -m pip install --quiet -e '.[demo]'
	@touch $@

$(VENV)/.dev: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "Installing Millrace and its test tools into $(VENV): about 185 MB to fetch, 640 MB on disk."
	@$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.demo
