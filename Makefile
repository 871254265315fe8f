# make all: set up (.venv, requirements, compiled kernels) · make test · make demo · make bench · make docs · make clean
# PYTHON=python3.12 make all   takes another interpreter (3.10 or later)

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
# Where a C compiler is, the kernels are compiled; without one numpy and torch do their work.
CC     ?= cc
# Where nvcc is, kernels for GPUs as well: code for those of CUDA_ARCHS that it knows, and PTX of the last for newer ones.
NVCC       ?= nvcc
CUDA_ARCHS ?= 70 75 80 86 89 90 100
CUDA_ROOT  := caffe-fast-rcnn/python/caffe/kernels
CUDA_FLAGS := -O3 -std=c++17 -fmad=false -Xcompiler -fPIC,-fvisibility=hidden -t 0 -shared
KERNEL_SOURCES := setup.py $(shell find lib caffe-fast-rcnn/python -name '*.pyx' -o -name '*.h' 2>/dev/null)

.PHONY: all demo demo-recall demo-pictures demo-losses test bench docs clean

all: $(VENV)/requirements.done $(VENV)/kernels.done $(CUDA_ROOT)/kernels.so

$(VENV)/requirements.done: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("wanted Python 3.10, got " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

# Left undone where it fails, so that make tries again
$(VENV)/kernels.done: $(KERNEL_SOURCES) $(VENV)/requirements.done
	@if ! command -v $(CC) >/dev/null 2>&1; then \
	  echo "No C compiler ($(CC)): the kernels stay uncompiled. Everything works, but slower."; \
	else \
	  echo "Compiling the kernels"; \
	  if $(PY) setup.py -q build_ext --inplace; then touch $@; \
	  else echo "Compiling failed (see above). Everything works without, but slower."; fi; \
	fi

$(CUDA_ROOT)/kernels.so: $(wildcard $(CUDA_ROOT)/*.cu $(CUDA_ROOT)/*.cuh)
	@known=$$($(NVCC) --list-gpu-arch 2>/dev/null); flags=; \
	for arch in $(CUDA_ARCHS); do \
	  if echo "$$known" | grep -qx "compute_$$arch"; then \
	    flags="$$flags -gencode arch=compute_$$arch,code=sm_$$arch"; last=$$arch; \
	  fi; \
	done; \
	if [ -z "$$flags" ]; then \
	  echo "No CUDA compiler ($(NVCC)) that knows any of $(CUDA_ARCHS): on GPUs torch does the kernels' work, slower."; \
	else \
	  echo "Compiling the CUDA kernels for$$(echo "$$flags" | sed 's/-gencode [^ ]*code=//g')"; \
	  $(NVCC) $(CUDA_FLAGS) $$flags -gencode arch=compute_$$last,code=compute_$$last \
	    -o $@.part $(filter %.cu,$^) && mv $@.part $@ || \
	    { rm -f $@.part; echo "Compiling the CUDA kernels failed (see above). Everything works without, but slower."; }; \
	fi

# Drawn shapes, all of alternating optimization in short, test, pictures: a few minutes on two cores
demo: all
	$(PY) data/make_toy.py data/toy
	PYTHON=$(PY) experiments/scripts/faster_rcnn_alt_opt.sh cpu ResNet-10 toy $(TOY_SHORT)
	@$(MAKE) --no-print-directory -j 2 demo-recall demo-pictures demo-losses
	@echo
	@log=$$(ls -t experiments/logs/faster_rcnn_alt_opt_ResNet-10_toy.txt.* | head -n 1); \
	  echo "On the test images: $$(grep '^Mean AP' $$log | tail -n 1)"
	@echo "Pictures of detections: $(TOY_OUT)/pictures; losses: $(TOY_OUT)/losses.png; model: $(TOY_MODEL)"
	@echo "All of it on one page: $(TOY_OUT)/ResNet-10_faster_rcnn_alt_opt_report.html"

demo-recall:
	$(PY) tools/rpn_generate.py --gpu cpu --def $(TOY_NETS)/rpn_test.pt --net $(TOY_MODEL) --imdb toy_val \
	  --cfg $(TOY_CFG)
	$(PY) tools/eval_recall.py --imdb toy_val --method rpn --cfg $(TOY_CFG)

demo-pictures:
	$(PY) tools/demo.py --gpu cpu --def $(TOY_NETS)/faster_rcnn_test.pt --net $(TOY_MODEL) --imdb toy_val \
	  --cfg $(TOY_CFG) --out $(TOY_OUT)/pictures

demo-losses:
	$(PY) tools/plot_loss.py $(TOY_OUT)/*_log.jsonl --out $(TOY_OUT)/losses.png

# Fewer iterations than toy.yml's own, of fewer regions, half of them objects'
TOY_SHORT := --max_iters 200 550 150 550 --set TRAIN.BATCH_SIZE 32 TRAIN.FG_FRACTION 0.5
TOY_OUT   := output/faster_rcnn_alt_opt/toy_train
TOY_MODEL := $(TOY_OUT)/ResNet-10_faster_rcnn_final.caffemodel
TOY_NETS  := models/toy/ResNet-10/faster_rcnn_alt_opt
TOY_CFG   := experiments/cfgs/faster_rcnn_alt_opt.yml

# As many processes as there are cores and memory for (tests/conftest.py); a test that hangs fails
test: all $(VENV)/extras.done
	$(PY) -m pytest -q -ra -n auto --dist loadfile --no-loadscope-reorder --timeout 900 tests

# How fast this machine runs it all, against others: a table, bench.json and bench.png
bench: all
	$(PY) tools/bench.py $(ROWS)

# The documentation as a site, build/site/index.html, which opens without a network
docs: $(VENV)/extras.done
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build -q
	@echo "The documentation: build/site/index.html"

# Where they cannot be had, tests that want them skip and say so
$(VENV)/extras.done: requirements-extra.txt $(VENV)/requirements.done
	@$(PY) -m pip install -q --disable-pip-version-check -r requirements-extra.txt && touch $@ || \
	  echo "requirements-extra.txt cannot be installed (see above)"

clean:
	rm -rf $(VENV) build dist frcnn.egg-info
	find lib caffe-fast-rcnn/python \( -name '*.so' -o -name '__pycache__' \) -prune -exec rm -rf {} +
