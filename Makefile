# Every target makes .venv and installs what it needs on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGING := setup.cfg pyproject.toml
# A plain path entry: otherwise Python started beside a checkout named ncap_jax takes that folder
# for an empty package.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--config-settings editable_mode=compat --editable

.PHONY: rank test test-all lint format bench docs pictures address clean

# Rank the embedded pretrained models on the embedded digits, offline. On two idle cores (AMD EPYC,
# JAX 0.10.2) it took 56 to 88 s, and 41 to 46 s with compiled programs cached; on busy ones several
# times that. It prints the command that trains the first ones to the end.
rank: $(VENV)/.installed
	$(BIN)/python -m ncap_jax $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(ARGS)

# Compiles as users do; `test` compiles cheaply (tests/conftest.py).
test-all: $(VENV)/.installed-test
	XLA_FLAGS=$(XLA_FLAGS) $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "The documentation is in site/index.html"

$(VENV): $(VENV)/.installed

$(VENV)/.installed: $(PACKAGING)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): one to three minutes, once"
	$(INSTALL) .
	touch $@

# With `timm` too, the tests of PyTorch models run; its torch is several gigabytes on Linux.
TEST_EXTRAS ?= test,dev
$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) '.[$(TEST_EXTRAS)]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) '.[docs]'
	touch $@

# The report's pictures under docs/, by headless Chromium; REPORT chooses the run. Those that are
# there show a winner: make rank ARGS='--finish=2 --test_fraction=0.5'
REPORT ?= runs/digits/report.html
pictures: $(VENV)/.installed
	$(BIN)/python docs/pictures.py $(REPORT) docs

# Where the notebooks install from if the package index has no ncap_jax, and which GitHub repository
# the README's badge and the notebooks' pages open in Colab; once per publication: URL, else the
# remote `origin`.
URL ?= $(shell git remote get-url origin)
GITHUB = $(patsubst %.git,%,$(patsubst git@github.com:%,%,$(patsubst https://github.com/%,%,$(URL))))
COLAB = https://colab.research.google.com/github/$(GITHUB)/blob/main
address:
	test -n "$(URL)"
	sed -i.bak -E 's|(REPOSITORY = \\?")[^"\\]*|\1$(URL)|' colab/*.py colab/*.ipynb
	rm colab/*.bak
	case "$(URL)" in *github.com[:/]*) \
		sed -i.bak -E 's|(colab-badge\.svg\)\]\()[^)]*|\1$(COLAB)/colab/quickstart.ipynb|' README.md && \
		sed -i.bak -E 's|(github: ")[^"]*|\1$(GITHUB)|' mkdocs.yml && \
		rm README.md.bak mkdocs.yml.bak ;; esac

clean:
	rm -rf $(VENV) build dist site *.egg-info runs
