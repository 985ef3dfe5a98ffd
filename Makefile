# Everything is installed into .venv on demand, and again when pyproject.toml changes. `make` alone lists the targets.

PYTHON ?=
export PYTHON
unexport PYTHONDONTWRITEBYTECODE # tests start hundreds of Pythons, which would compile the package each
BIN := .venv/bin
NOTEBOOK ?= notebooks/01_quickstart.ipynb
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: help demo lab test page js chaos bench pictures lint format clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/installed-demo  ## run the quickstart notebook here, in the terminal; the result goes to build/
	@$(BIN)/python tools/run_notebook.py $(NOTEBOOK) build

lab: .venv/installed-lab  ## open the quickstart notebook in JupyterLab
	@$(BIN)/jupyter lab $(ROOT_FLAG) $(NOTEBOOK)

test: .venv/installed-test  ## all tests, the notebooks among them; ARGS='-k name' picks some
	@sh tools/system-packages
	@$(BIN)/python -m pytest --nbval -n 4 --dist loadfile --no-loadscope-reorder -m "not long" $(ARGS)

page: .venv/installed-test  ## all tests in a real browser, the long ones too; takes minutes
	@sh tools/system-packages
	@$(BIN)/python -m pytest tests/page $(ARGS)

js:  ## build the terminal's program anew from js/; needs Node
	@python3 tools/build-js

chaos: .venv/installed-test  ## cut links a hundred times under 500 MB; takes minutes
	@CHAOS=1 $(BIN)/python -m pytest tests/test_breaking_links.py tests/relay/test_chaos.py

bench: .venv/installed-test  ## measure; FULL=1 for the real sizes, ONLY=name for one
	@$(BIN)/python -m benchmarks $(if $(FULL),--full) $(if $(ONLY),--only $(ONLY))

pictures: .venv/installed-test  ## take the README's pictures anew, in a real page
	@$(BIN)/python tools/readme_pictures.py docs/pictures

lint: .venv/installed-test  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/installed-test  ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove .venv, build/ and the caches
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed-%: pyproject.toml
	@sh tools/install $*
	@touch $@ $(if $(filter test,$*),.venv/installed-demo .venv/installed-lab)
