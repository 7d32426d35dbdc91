# What a developer runs. It needs make and one Python with venv; everything else is set up in .venv, once, and again
# when setup.cfg or pyproject.toml change. Another Python: `make clean test PYTHON=python3.13`.

PYTHON ?= python3
# What `make test-pythons` looks for, except WITHOUT, and the one of them that is given the oldest dependencies that
# setup.cfg allows.
PYTHONS ?= 3.10 3.11 3.12 3.13 3.14 3.15
WITHOUT ?=
OLDEST := 3.10

VENV := .venv
BIN := $(VENV)/bin
IS_OLDEST := $(filter .venv-$(OLDEST),$(VENV))
SETUP := setup.cfg pyproject.toml
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Real programs and the wheel are tried by `make test` only, on one Python: they are what takes long.
UNIT_TESTS := tests $(addprefix --ignore=tests/,interop run servers project/test_packaging.py project/test_typing.py)

.DEFAULT_GOAL := help
.PHONY: help demo test test-servers lint docs man bench test-pythons test-python clean

help:
	@echo 'make demo          see it work: a balancer and two echo servers, in under a minute (VERBOSE=1 shows everything,'
	@echo '                  KEEP=1 leaves the servers running)'
	@echo 'make test          everything: ruff, mypy, the documentation, all tests with their coverage'
	@echo 'make test-servers  only the tests with the servers of other projects; make test runs them too'
	@echo 'make test-pythons  the unit tests on those of Python $(PYTHONS) that are on this machine'
	@echo 'make lint          ruff and mypy only'
	@echo 'make docs          the documentation, into docs/_build/html'
	@echo 'make man           the manual pages, into build/man'
	@echo 'make bench         the speed tables'
	@echo 'make clean         remove all that the others have made'

demo: $(VENV)/.installed
	@$(BIN)/python examples/demo.py $(if $(KEEP),--keep) $(if $(VERBOSE),--verbose)

# pytest comes last, so that its closing line is the last one printed.
test: $(VENV)/.installed-test
	@$(MAKE) --no-print-directory -j2 lint docs
	@$(BIN)/python -m pytest --cov

test-servers: $(VENV)/.installed-test
	@$(BIN)/python -m pytest tests/run tests/servers

lint: $(VENV)/.installed-test
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy

# From scratch (-E), because a page read from the cache does not repeat its warnings.
docs: $(VENV)/.installed-test
	@$(BIN)/python -m sphinx -q -E -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html

MAN := build/man
# COLUMNS is what fits into a page of 80 columns.
make_page = COLUMNS=72 $(BIN)/argparse-manpage --module proxyprotocol.$(2) --function make_parser --description '$(3)' \
	--project-name proxyprotocol --version "$$($(BIN)/python -c 'import proxyprotocol; print(proxyprotocol.__version__)')" \
	--manual-title 'PROXY protocol' | sed 's/^\.SH COMMENTS$$/.SH EXAMPLES/; s/^examples:$$/.nf/' > $(MAN)/$(1).1

man: $(VENV)/.installed-test
	@mkdir -p $(MAN)
	@$(call make_page,proxyprotocol,cli.main,show and write and test PROXY protocol headers)
	@$(call make_page,proxyprotocol-server,server.main,relay connections with a PROXY protocol header)
	@$(call make_page,proxyprotocol-echo,server.echo,echo server that wants a PROXY protocol header)

bench: $(VENV)/.installed-test
	@set -e; for script in benchmarks/codecs.py benchmarks/wrapper.py benchmarks/servers.py benchmarks/relay.py; do $(BIN)/python $$script; done

# A candidate counts only once it has run: pyenv puts names on PATH that refuse to.
test-pythons:
	@for version in $(filter-out $(WITHOUT),$(PYTHONS)); do \
	    found=; \
	    for candidate in "python$$version" "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
	        if "$$candidate" -c 'import ensurepip' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "Python $$version: not on this machine (or without its venv module), so not tested."; continue; \
	    fi; \
	    $(MAKE) --no-print-directory test-python PYTHON="$$found" VENV=".venv-$$version" || exit 1; \
	done

# With warnings shown, not raised, on the oldest: old dependencies warn of what their successors have mended.
test-python: $(VENV)/.installed-unit
	@echo "$(VENV): $$($(BIN)/python --version), Twisted $$($(BIN)/python -c 'import twisted; print(twisted.__version__)')"
	@$(BIN)/python -m pytest --quiet --reactors=select,asyncio $(if $(IS_OLDEST),-W default) $(UNIT_TESTS)

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	    echo 'This needs Python 3.10 or later with the modules venv and ensurepip, which "$(PYTHON)" is not.' >&2; \
	    echo 'On Debian and Ubuntu: apt-get install python3-venv. Or name another: make PYTHON=python3.12 ...' >&2; exit 1; }
	@echo 'Setting up $(VENV), once.'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SETUP) | $(BIN)/python
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(SETUP) | $(BIN)/python
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.installed

# pyOpenSSL 26 breaks ALPN in Twisted 22.4's own ssl: endpoint, without us too.
$(VENV)/.installed-unit: $(SETUP) | $(BIN)/python
	@echo 'pyOpenSSL<25' > $(VENV)/oldest.txt
	@sed -n '/^install_requires/,/^$$/s/^ *\([A-Za-z0-9.]*\)>=/\1==/p' setup.cfg >> $(VENV)/oldest.txt
	@$(PIP_INSTALL) $(if $(IS_OLDEST),--constraint $(VENV)/oldest.txt) --editable '.[unit]'
	@touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info docs/_build .hypothesis .coverage .coverage.*
	find . -name .git -prune -o \( -name __pycache__ -o -name '.*_cache' -o -name 'dropin.cache*' \) -exec rm -rf {} +
