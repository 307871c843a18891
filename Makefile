# `make help` lists the targets. Everything is installed into .venv; beside it, pip and uv keep what they download in
# their caches (UV_CACHE_DIR names another place). No recipe needs more than the make 3.81 of macOS.
SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed-$(shell cksum requirements.lock | cut -d ' ' -f 1)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

.PHONY: setup
setup: $(INSTALLED) drivers ## install the locked packages into .venv

# Compiled at once: every stage is a process of its own, and imports are most of a short one
$(INSTALLED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than Python 3.11; say PYTHON=python3.12 or alike" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	@rm -f .venv/installed-*; touch $@

# What git runs to merge the files of .gitattributes. Where that finds a conflict or can't run, git merges lines as usual.
LINES := git merge-file -L ours -L base -L theirs %A %O %B
.PHONY: drivers
drivers:
	@test ! -e .git || { \
		git config merge.by-key.driver '$(BIN)/python -m pipeline.merge %O %A %B %P || $(LINES)' && \
		git config merge.dvc.driver '$(BIN)/dvc git-hook merge-driver --ancestor %O --our %A --their %B || $(LINES)'; } || \
		echo "note: git can't be told how to merge results; \`make drivers\` tries again" >&2

.PHONY: repro
repro: $(INSTALLED) drivers ## run the embedded example, digits, through all stages
	@set -o pipefail; $(BIN)/dvc repro --glob 'evaluate@digits-*' 'report@digits' | tee .venv/repro.log
	@if grep -q '^Data and pipelines are up to date' .venv/repro.log; then $(BIN)/python -m pipeline.index; \
		else $(MAKE) --silent --no-print-directory results; fi

.PHONY: results
results: $(INSTALLED)
	@$(BIN)/python -m pipeline.index >/dev/null
	@echo && $(BIN)/python -m pipeline.compare 'digits-*' && echo
	@if git diff --quiet HEAD -- dvc.lock data/splits reports 2>/dev/null; then echo "The same results as published, to the byte."; echo; fi
	@echo "Where to look next:"
	@echo "  reports/index.html             all experiments: leader board, learning curves; open it in a browser"
	@echo "  reports/digits/index.html      the images: what is odd, sizes, light"
	@echo "  make ui                        the runs in MLflow"
	@echo "  $(BIN)/dvc plots show       learning curves of all experiments, as a page"
	@echo "  README.md                      your own images; published studies"

.PHONY: verify
verify: $(INSTALLED) ## run published experiments again in a fresh clone, and compare
	@$(BIN)/python -m pipeline.verify

.PHONY: test
test: $(INSTALLED) ## run the whole test suite
	@$(BIN)/python -m pytest

.PHONY: torture
torture: $(INSTALLED) ## kill every stage at random moments, and see that `dvc repro` then ends right: half an hour
	@PYTHONPATH=. $(BIN)/python tests/torture.py

.PHONY: coverage
coverage: $(INSTALLED) ## run the whole test suite, list the lines and branches of pipeline/ that it leaves out
	@rm -rf .coverage
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: bench
bench: $(INSTALLED) ## measure training and start-up, write the tables of docs/benchmarks.md
	@$(BIN)/dvc repro --quiet download@digits
	@$(BIN)/python -m benchmarks.document

.PHONY: lint
lint: $(INSTALLED) ## check style, types and the workflow of GitHub
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/zizmor --offline --quiet .github

# On the project's own database, or the one that MLFLOW_TRACKING_URI names; of a server it prints the address of the runs.
# MLflow's jobs for generative AI are switched off: eight processes with 1.4 GB that nothing here uses
.PHONY: ui
ui: PORT ?= 5000
ui: $(INSTALLED) ## show the runs in MLflow: its page opens at the printed address (PORT=5000)
	@$(BIN)/python -m pipeline.track --pages http://127.0.0.1:$(PORT)
	@case "$${MLFLOW_TRACKING_URI:-}" in http*) ;; *) \
		MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_LOGGING_LEVEL=WARNING PYTHONWARNINGS=ignore \
			MLFLOW_BACKEND_STORE_URI="$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" \
			exec $(BIN)/mlflow ui --port $(PORT) --workers 1 --uvicorn-opts '--log-level warning' ;; esac

.PHONY: page
page: $(INSTALLED) ## write reports/index.html: data, leader boards and learning curves of all experiments
	@$(BIN)/python -m pipeline.index

MODEL ?= models/digits-cnn
.PHONY: app
app: $(INSTALLED) ## drop photos on a page and see what a model says of them: make app MODEL=models/digits-cnn
	@$(BIN)/python -m pipeline.app --model '$(MODEL)'

.PHONY: serve
serve: $(INSTALLED) ## answer requests with a model: make serve MODEL=digits@champion, or MODEL=models/digits-cnn
	@$(BIN)/python -m pipeline.serve '$(MODEL)'

.PHONY: lock
# one version of each package for as many Pythons as can be: other versions of NumPy may give other bytes
lock: $(INSTALLED) ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
		--no-emit-index-url --no-header --all-extras --upgrade pyproject.toml --output-file requirements.lock
