# make all: set up (.venv, requirements, compiled kernels) · make test · make demo · make clean
# PYTHON=python3.12 make all   takes another interpreter (3.10 or later)

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
# Where a C compiler is, the kernels are compiled; without one numpy and torch do their work.
CC     ?= cc
SETUPS := $(wildcard lib/setup.py caffe-fast-rcnn/python/setup.py)
KERNEL_SOURCES := $(SETUPS) $(shell find lib caffe-fast-rcnn/python -name '*.pyx' 2>/dev/null)

.PHONY: all demo test clean

all: $(VENV)/requirements.done $(VENV)/kernels.done

$(VENV)/requirements.done: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "Python 3.10 or later is needed, %s is %s" % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

$(VENV)/kernels.done: $(KERNEL_SOURCES) $(VENV)/requirements.done
	@if command -v $(CC) >/dev/null 2>&1; then \
	  for setup in $(SETUPS); do \
	    echo "Compiling the kernels of $$setup"; \
	    (cd $$(dirname $$setup) && $(CURDIR)/$(PY) setup.py -q build_ext --inplace) || exit 1; \
	  done; \
	else \
	  echo "No C compiler ($(CC)): the kernels stay uncompiled. Everything works, but slower; install one and run make again."; \
	fi
	@touch $@

demo: all
	$(PY) data/make_toy.py data/toy
	experiments/scripts/faster_rcnn_alt_opt.sh cpu ResNet-10 toy
	$(PY) tools/demo_report.py

test: all
	$(PY) -m pytest -q -ra tests

clean:
	rm -rf $(VENV) build lib/build caffe-fast-rcnn/python/build
	find lib caffe-fast-rcnn/python \( -name '*.so' -o -name '__pycache__' \) -prune -exec rm -rf {} +
