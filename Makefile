# All targets use the environment in .venv; delete it to rebuild it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
RECIPE := projects/deimv2/configs/deimv2_hgnetv2_atto_shapes.py
RUN := output/deimv2_hgnetv2_atto_shapes

.PHONY: quickstart test test-all mutants lint gpu docs notebook release clean

quickstart: $(VENV)/.installed
	$(BIN)/python tools/make_shapes_dataset.py datasets/deim_shapes
	rm -rf $(RUN)
	$(BIN)/python tools/train_net.py --config-file $(RECIPE) train.report=true
	$(BIN)/python tools/plot_metrics.py $(RUN)/metrics.json $(RUN)/curves.png
	$(BIN)/python tools/draw_predictions.py --config-file $(RECIPE) --output $(RUN)/predictions.png \
		train.init_checkpoint=$(RUN)/model_final.pth
	@printf '%s\n' "" "Trained, evaluated and drawn in $(RUN):" \
		"  curves.png       loss and AP" \
		"  predictions.png  detections over ground truth" \
		"  report.html      scores, classes, errors and thresholds: open it in a browser" \
		"  model_final.pth  the weights; log.txt and metrics.json record the training" \
		"Next, predict on your own images and train on your own data (docs/predict.md, docs/your_data.md):" \
		"  $(BIN)/python tools/predict.py $(RUN)/model_best.pth datasets/deim_shapes/val --output found" \
		"  $(BIN)/python tools/train_net.py --config-file deim_dfine/deim_dfine_s_coco --data path/to/your/data"

test: $(VENV)/.installed-dev
	$(MAKE) lint
	$(BIN)/python -m pytest -n auto

# Tests that take hours: kills at random moments, thousands of objects, fuzzing, a soak test, mutation tests.
test-all: $(VENV)/.installed-dev
	$(MAKE) lint
	DEIM_FUZZING=500 $(BIN)/python -m pytest -n auto -m "long or not long"
	PYTHONHASHSEED=7 LC_ALL=C PYTHONUTF8=0 $(BIN)/python -m pytest -n auto
	$(MAKE) mutants

# Mutation tests: change single operators and numbers in the core, and list the changes that no test detects.
mutants: $(VENV)/.installed-dev
	$(PIP) mutmut==3.8.1
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# GPU tests, and benchmarks written to output/gpu. DEVICE=cpu runs the target without a GPU; ROUNDS=1 is quick.
# PEER=--peer=path/to/DEIM and EDGECRAFTER=path/to/EdgeCrafter also measure the official code, PYTHONPATH=path/to/detrex
# also detrex's operator.
DEVICE ?= cuda
ROUNDS ?= 10
BENCHMARK := $(BIN)/python tools/benchmark.py
GRAPHS := $(if $(filter cuda%,$(DEVICE)),--with train.cuda_graphs=True)

gpu: $(VENV)/.installed-dev
	mkdir -p output/gpu
	$(BIN)/python -m deim.env
	$(BIN)/python -m pytest tests/test_gpu.py tests/layers/test_deformable_attention.py tests/data/test_data.py
	for dtype in float32 float16 bfloat16; do \
		$(BENCHMARK) attention --device $(DEVICE) --rounds $(ROUNDS) --dtype $$dtype --json output/gpu/attention_$$dtype.json || exit 1; \
	done
	for size in n s l; do \
		recipe=deim_dfine/deim_dfine_$${size}_coco; \
		$(BENCHMARK) train-step --recipe $$recipe --device $(DEVICE) --rounds $(ROUNDS) --amp bfloat16 \
			--with train.compile=True $(GRAPHS) $(PEER) \
			--json output/gpu/train_step_$$size.json || exit 1; \
		$(BENCHMARK) latency --recipe $$recipe --device $(DEVICE) --rounds $(ROUNDS) --compile --half $(PEER) \
			--json output/gpu/latency_$$size.json || exit 1; \
	done
	for name in ecdet ecseg ecpose; do \
		recipe=$$name/$${name}_s_coco; \
		peer=$(if $(EDGECRAFTER),--peer=$(EDGECRAFTER)/$$(test $$name = ecpose && echo ecpose || echo ecdetseg)); \
		$(BENCHMARK) train-step --recipe $$recipe --device $(DEVICE) --rounds $(ROUNDS) --amp bfloat16 $(GRAPHS) $$peer \
			--json output/gpu/train_step_$$name.json || exit 1; \
		$(BENCHMARK) latency --recipe $$recipe --device $(DEVICE) --rounds $(ROUNDS) --half $$peer \
			--json output/gpu/latency_$$name.json || exit 1; \
	done

# The documentation as a site in build/site; broken links are errors. mkdocs counts no warnings with --quiet.
docs: $(VENV)/.installed-docs
	$(BIN)/python tools/gather_docs.py
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "built build/site/index.html"

# Run notebooks/finetune.ipynb from its first to its last cell, in about three minutes.
notebook: $(VENV)/.installed-notebook
	rm -rf notebooks/deim_finetune
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -p no:cacheprovider --nbmake --nbmake-timeout=1800 notebooks

# Build a wheel and a source archive in dist. Test the wheel in a new environment: training, prediction, report, export.
release: $(VENV)/.installed-dev
	rm -rf dist build/try
	$(PIP) build
	$(BIN)/python -m build --quiet --outdir dist .
	$(PYTHON) -m venv build/try
	build/try/bin/pip install --quiet --disable-pip-version-check -c requirements.txt -c requirements-dev.txt \
		"$$(ls dist/*.whl)[export]"
	cd build/try && bin/python ../../tools/try_release.py --export
	@ls dist

$(VENV)/.installed: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed requirements-docs.txt
	$(PIP) -r requirements-docs.txt
	touch $@

$(VENV)/.installed-notebook: $(VENV)/.installed-dev requirements-notebook.txt
	$(PIP) -r requirements-notebook.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
