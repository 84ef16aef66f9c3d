# Everything happens in .venv; delete it to start afresh.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
RECIPE := projects/deim_dfine/configs/deim_dfine_n_shapes.py
RUN := output/deim_dfine_n_shapes

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.installed
	$(BIN)/python tools/make_shapes_dataset.py datasets/deim_shapes
	rm -rf $(RUN)
	$(BIN)/python tools/train_net.py --config-file $(RECIPE)
	$(BIN)/python tools/plot_metrics.py $(RUN)/metrics.json $(RUN)/curves.png
	$(BIN)/python tools/draw_predictions.py --config-file $(RECIPE) --output $(RUN)/predictions.png \
		train.init_checkpoint=$(RUN)/model_final.pth
	@printf '%s\n' "" "Trained, evaluated and drawn in $(RUN):" \
		"  curves.png       loss and AP" \
		"  predictions.png  detections over ground truth" \
		"  model_final.pth  the weights; log.txt and metrics.json tell how they came about" \
		"Next, your own data: see docs/data.md, and look it over first with" \
		"  $(BIN)/python tools/check_dataset.py --config-file projects/deim_dfine/configs/deim_dfine_s_yolo.py \\" \
		"    dataloader.train.dataset.data_file=path/to/data.yaml"

test: $(VENV)/.installed-dev
	$(MAKE) lint
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(VENV)/.installed: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
