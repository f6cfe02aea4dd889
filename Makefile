# Everything a fresh machine needs: Python 3.10+, a C++20 compiler and make.
#   make demo    fine-tunes a network on real photos with handgrad's focal loss
#   make test    builds, then runs every test
#   make help    lists the rest
PYTHON ?= python3
# The newest torch handgrad is tested with, and the other one the same wheel must run on.
TORCH ?= torch==2.14.1 torchvision==0.29.1
ABI_TORCH ?= torch==2.13.0
JOBS ?= 2
# One architecture, the least processor and this one, to be quick, unless a wheel is asked for: that is for all that
# handgrad supports.
ifeq ($(filter wheel release,$(MAKECMDGOALS)),)
export HANDGRAD_CUDA_ARCHS ?= 90
export HANDGRAD_CPU_LEVELS ?= v2;native
endif
# How many files of kernels are compiled as one. Half of a compiler's time is headers: who builds once, as CI does, takes
# 8 or more; who changes a kernel has it alone.
UNITY ?= 0

# Kernels must not spill registers where they are looked at, on the one architecture. A wheel has older ones too.
NO_SPILLS := -DHANDGRAD_NO_SPILLS=$(if $(HANDGRAD_CUDA_ARCHS),ON,OFF)

# The nvcc of another toolkit: of CUDA 12, say, for older drivers (docs/device.md).
ifdef NVCC
export CUDACXX := $(NVCC)
endif

# One wheel at a time is in dist/; its stamp says which architectures and levels were asked for.
comma := ,
WHEEL := dist/.built-$(subst $(comma),-,$(subst ;,-,$(or $(HANDGRAD_CUDA_ARCHS),all)-$(or $(HANDGRAD_CPU_LEVELS),all)))

BIN := .venv/bin
ABI_BIN := .venv-abi/bin
PIP_FLAGS := -q --disable-pip-version-check
SOURCES := CMakeLists.txt setup.py pyproject.toml $(wildcard cmake/* python/handgrad/sdk/building.py) $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
OP_TESTS := $(patsubst csrc/%/,tests/%,$(filter-out csrc/common/ csrc/emulator/,$(wildcard csrc/*/)))
CXX_FILES := $(shell find csrc examples tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help build wheel release costs test test-python test-levels test-emulated test-cuda test-device bench-device cuda-report test-sanitize test-abi native demo detect rotated segment embed bench lint format table clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: .venv/.built  ## the virtual environment .venv with handgrad in it, editable

.venv/.torch:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_FLAGS) $(TORCH) "setuptools>=77" "cmake>=3.31" ninja wheel
	@touch $@

.venv/.built: .venv/.torch $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" CMAKE_ARGS="-DHANDGRAD_EMULATED=ON -DHANDGRAD_UNITY=$(UNITY) $(NO_SPILLS)" \
	  $(BIN)/pip install $(PIP_FLAGS) --no-build-isolation -e ".[dev]"
	@touch $@

wheel: $(WHEEL)  ## the wheel, in dist/, for all CUDA architectures

$(WHEEL): .venv/.built $(shell find python -name '*.py') $(shell find templates -type f)
	rm -rf dist && mkdir dist
	PATH="$(CURDIR)/$(BIN):$$PATH" CMAKE_ARGS="-DHANDGRAD_EMULATED=OFF -DHANDGRAD_UNITY=$(UNITY) $(NO_SPILLS)" $(BIN)/python -m build -q --no-isolation --sdist --wheel .
	# auditwheel names the oldest C library that will do, and copies nothing in: torch brings what is needed.
	if [ "$$(uname)" = Linux ]; then \
	  PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --exclude 'libtorch*.so' --plat auto --only-plat \
	    --wheel-dir dist dist/*-linux_*.whl && rm dist/*-linux_*.whl; \
	fi
	@touch $@

release: wheel  ## the wheel for everybody: refused unless it has all architectures
	$(BIN)/python tools/release.py dist

# Of tests a question is asked where it can fail, once: python/handgrad/testing/tiers.py says which where.
PYTEST := -m pytest -q -n $(JOBS)
# What is asked of all ops; of one (OP=name), and before a release, it is whole.
TIER ?= usual
# Threads that wait do not spin: every process of pytest has as many as there are processors.
test-% op-%: export OMP_WAIT_POLICY ?= passive

ifdef OP
test: test-op  ## the tests; OP=name: all of one op's, everywhere; TIER=whole: all of all ops'
else
test: test-python test-levels test-emulated test-abi
endif

# All but the ops: those are tested by test-abi, from the wheel, as people have them.
test-python: build wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n $(JOBS) --tier $(TIER) tests $(OP_TESTS:%=--ignore=%)

# The kernels for lesser processors than this one, those that were built: none with HANDGRAD_CPU_LEVELS=native.
LESSER = $$(ls python/handgrad/lib | sed -n 's/^libhandgrad_cpu_\(v[2-4]\)\.so$$/\1/p' | sort | sed '$$d')
test-levels: build
	for level in $(LESSER); do HANDGRAD_CPU_LEVEL=$$level $(BIN)/python $(PYTEST) --tier levels $(OP_TESTS) || exit 1; done

# The CUDA kernels, run on the CPU by the emulator, in place of the CPU kernels.
test-emulated: build  ## the CUDA kernels in the emulator
	HANDGRAD_BACKEND=emulated $(BIN)/python $(PYTEST) --tier kernels $(OP_TESTS)

# One op: its author's loop. The tiers are asked side by side, each in one process; that of another torch where
# `make test-abi` has made its environment.
OP_FILE := $(wildcard tests/*/test_$(OP).py)
ONE := -m pytest -q -p no:xdist $(OP_FILE)
.PHONY: test-op op-whole op-kernels op-levels op-torches
test-op: build
	@test -n "$(OP_FILE)" || { echo "OP must be the name of an op, with a file tests/<family>/test_<OP>.py; got $(OP)"; exit 1; }
	@$(MAKE) --no-print-directory -j $(JOBS) --output-sync=target op-whole op-kernels op-levels op-torches
op-whole:
	$(BIN)/python $(ONE)
op-kernels:
	HANDGRAD_BACKEND=emulated $(BIN)/python $(ONE) --tier kernels
op-levels:
	for level in $(LESSER); do HANDGRAD_CPU_LEVEL=$$level $(BIN)/python $(ONE) --tier levels || exit 1; done
op-torches:
	@if [ -x $(ABI_BIN)/pytest ]; then PYTHONPATH=python $(ABI_BIN)/python $(ONE) --tier torches; \
	else echo "Not asked of $(ABI_TORCH): make test-abi makes its environment, .venv-abi."; fi

# The same matrix, its tensors on a GPU: for a machine that has one.
test-cuda: build  ## the CUDA kernels on a GPU
	$(MAKE) test-device DEVICE_PYTHON=$(BIN)/python

# With any Python that has torch and pytest, and libraries that lie in python/handgrad/lib: builds and installs nothing.
# What is beyond 2^31 elements takes memory that processes side by side do not have.
DEVICE_PYTHON ?= python3
test-device:
	@$(DEVICE_PYTHON) -c "import sys, torch; torch.cuda.is_available() or sys.exit('make test-cuda and test-device need a GPU, and torch ' + torch.__version__ + ' finds none on this machine that it can use.')"
	export HANDGRAD_TEST_DEVICE=cuda PYTHONPATH="$(CURDIR)/python"; \
	$(DEVICE_PYTHON) $(PYTEST) --dist worksteal $(OP_TESTS) -k "test_matrix and not 06_indexing" && \
	$(DEVICE_PYTHON) -m pytest -q -p no:xdist $(OP_TESTS) -k "test_matrix and 06_indexing"

# Registers, spills, occupancy, widths of accesses, bytes moved; no GPU needs to be there.
cuda-report: build  ## what nvcc makes of the CUDA kernels
	$(BIN)/python tests/cuda_report.py

# The CPU kernels and the emulated CUDA kernels under AddressSanitizer and UBSan; the latter under the emulator's own
# checks (races, unwritten shared memory) too. Every finding ends the run. About twenty minutes on two cores, so not part
# of `test`.
# Addresses far apart and counted memory are no sanitizer's.
SANITIZED := --tier kernels -k "not 06_indexing and not 15_memory"
test-sanitize: build  ## the kernels under sanitizers
	for kind in address checked; do \
	  PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/$$kind -G Ninja -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" \
	    -DHANDGRAD_LIBRARY_DIR="$(CURDIR)/build/$$kind/lib" -DHANDGRAD_EMULATED=ON -DHANDGRAD_CPU_LEVELS=v3 \
	    -DHANDGRAD_CUDA_ARCHS=none -DHANDGRAD_SANITIZER=$$kind && PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/$$kind || exit 1; \
	done
	for backend in "" emulated; do \
	  HANDGRAD_BACKEND=$$backend HANDGRAD_LIBRARY_DIR="$(CURDIR)/build/address/lib" ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	    $(BIN)/python $(PYTEST) $(OP_TESTS) $(SANITIZED) || exit 1; \
	done
	HANDGRAD_BACKEND=emulated HANDGRAD_LIBRARY_DIR="$(CURDIR)/build/checked/lib" \
	  $(BIN)/python $(PYTEST) $(OP_TESTS) $(SANITIZED)

# One wheel, built once: with torch alone installed, then the ops' tests, under both versions of torch. The oldest that is
# promised and one that is newer than ours are asked by hand, as they are downloads of 4 GB:
#   PIP_CONFIG_FILE=/dev/null make test-abi ABI_TORCH=torch==2.10.0
PLUGIN := build/my-ops
test-abi: wheel  ## the ops, from the wheel, under two versions of torch
	$(PYTHON) -m venv --clear .venv-abi
	$(ABI_BIN)/pip install $(PIP_FLAGS) $(ABI_TORCH)
	$(ABI_BIN)/pip install $(PIP_FLAGS) --no-deps dist/*.whl
	cd / && "$(CURDIR)/$(ABI_BIN)/python" -W ignore -m handgrad info
	$(ABI_BIN)/pip install $(PIP_FLAGS) "$$(ls dist/*.whl)[onnx,testing]" pytest-xdist
	$(ABI_BIN)/python $(PYTEST) --tier torches $(OP_TESTS)
	# Plugins are built against the headers of any torch that is promised.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(ABI_BIN)/python tools/headers.py
	rm -rf build/wheel-site
	$(BIN)/pip install $(PIP_FLAGS) --no-deps --target build/wheel-site dist/*.whl
	PYTHONPATH=build/wheel-site $(BIN)/python $(PYTEST) --tier $(TIER) $(OP_TESTS)
	# A plugin's wheel keeps the same promise; where nvcc is found, it holds CUDA kernels too.
	rm -rf $(PLUGIN)
	PYTHONPATH=build/wheel-site $(BIN)/python -W ignore -m handgrad new $(PLUGIN) --op my_loss --kind elementwise_loss
	cd $(PLUGIN) && PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH="$(CURDIR)/build/wheel-site" HANDGRAD_CPU_LEVELS=v3 \
	  "$(CURDIR)/$(BIN)/python" -m build -q --no-isolation --wheel .
	$(ABI_BIN)/pip install $(PIP_FLAGS) --no-deps $(PLUGIN)/dist/*.whl
	cd $(PLUGIN) && "$(CURDIR)/$(ABI_BIN)/python" $(PYTEST) --tier torches tests/losses
	$(BIN)/pip install $(PIP_FLAGS) --no-deps --target build/wheel-site $(PLUGIN)/dist/*.whl
	cd $(PLUGIN) && PYTHONPATH="$(CURDIR)/build/wheel-site" "$(CURDIR)/$(BIN)/python" $(PYTEST) --tier torches tests/losses

# An example needs what this machine runs: the whole build, where there is one, and a part of it otherwise. That part has
# a folder of its own, so that neither build takes the other's place.
NATIVE := $(CURDIR)/build/native/lib
WITH_LIBRARIES = $(MAKE) -sq .venv/.built || export HANDGRAD_LIBRARY_DIR=$(NATIVE);

.venv/.native: .venv/.torch $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" HANDGRAD_BUILD=native CMAKE_ARGS="-DHANDGRAD_UNITY=8" \
	  $(BIN)/pip install $(PIP_FLAGS) --no-build-isolation -e ".[examples]"
	@touch $@

native:  ## what this machine runs of the libraries, and no more; in build/native
	@$(MAKE) -sq .venv/.built || $(MAKE) -s .venv/.native

demo: native  ## fine-tunes a network with handgrad's focal loss on real photos
	$(WITH_LIBRARIES) $(BIN)/python examples/finetune.py --resume

detect: native  ## trains a small detector of trees on real photos
	$(WITH_LIBRARIES) $(BIN)/python examples/detect.py

rotated: native  ## trains a small detector of rotated things on scenes that it makes of photos
	$(WITH_LIBRARIES) $(BIN)/python examples/rotated.py

segment: native  ## trains a small U-Net on nuclei, with dice and other losses
	$(WITH_LIBRARIES) $(BIN)/python examples/segment.py

embed: native  ## trains embeddings of clothes with a contrastive loss
	$(WITH_LIBRARIES) $(BIN)/python examples/embed.py

costs: build  ## what each op costs: core-seconds, bytes, lines; OP=name for one
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.costs --build --tests $(if $(OP),--op $(OP))

# The kernels' own times on a GPU, beside other libraries'; with any Python that has torch, as test-device.
bench-device:  ## times the CUDA kernels on a GPU
	PYTHONPATH="$(CURDIR)/python" $(DEVICE_PYTHON) tests/device_times.py

bench: build wheel  ## times handgrad against its peers; writes benchmarks/results
	$(BIN)/python -m benchmarks

table: build  ## writes the tables of ops into README.md and docs/contract.md
	$(BIN)/python tests/ops_table.py --write

lint: build  ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: build  ## formats everything
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:  ## removes what the other targets made
	rm -rf .venv .venv-abi build dist runs python/handgrad/lib
