PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_OPTIONS ?= -n 2 --dist loadfile

SOUNDS ?= sounds
TEACHER ?=
INTERFERENCE ?=

# The tests of what the Hugging Face packages are used for, which `make test-oldest` runs with the oldest of them.
OLDEST_TESTS := tests/test_install.py tests/modeling_pseldnet/test_hub.py tests/modeling_pseldnet/test_pipeline.py \
	tests/modeling_pseldnet/test_modeling.py tests/modeling_pseldnet/test_backbones.py \
	tests/modeling_pseldnet/test_configuration.py tests/modeling_pseldnet/test_default_model.py \
	tests/modeling_pseldnet/adapterbit

.PHONY: demo test test-oldest fuzz bench lint clean default-model

demo: $(VENV)/installed
	$(BIN)/python -m spaces_demo.first_run

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS)

test-oldest: $(VENV)/installed-oldest
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest $(PYTEST_OPTIONS) $(OLDEST_TESTS)

# Thousands of broken inputs, and 20 kills of each program.
fuzz: export OMP_NUM_THREADS := 1
fuzz: $(VENV)/installed-dev
	$(BIN)/python -m tests.fuzz.fuzz --inputs 2000
	$(BIN)/python -m tests.fuzz.kills --kills 20

bench: $(VENV)/installed-dev
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# Trains the next model to come with the package, from the present one: on the isolated sounds in SOUNDS, with sounds of
# no class from INTERFERENCE and the answers of the tagger in the module TEACHER (see training/teacher.py) where these are
# given. It is written to runs/default_model/packaged, to be copied over modeling_pseldnet/default_model if its card is
# better. Interrupted, it goes on from the last checkpoint. Memory that is freed stays with the process, as batches take
# it again at once.
default-model: export MALLOC_MMAP_THRESHOLD_ := 4294967296
default-model: export MALLOC_TRIM_THRESHOLD_ := 17179869184
default-model: $(VENV)/installed-dev
	@echo "52,000 scenes, each heard in two forms: about four hours on two cores; the bar tells how long is left"
	$(BIN)/pseldnet-train default_model --resume --override data.data_dir=$(SOUNDS) \
		teacher.module=$(TEACHER) data.train.interference_dir=$(INTERFERENCE)
	$(BIN)/python -m training.experiments.default_model runs/default_model --sounds $(SOUNDS) \
		--scene-recipe default_model_48 $(if $(INTERFERENCE),--interference $(INTERFERENCE)) \
		--beside modeling_pseldnet/default_model \
		--trained-on "52,000 more scenes of ten seconds, each heard in two forms, turned, mirrored and coloured"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(VENV)-oldest build dist outputs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --editable ".[dev]"
	touch $@ $(VENV)/installed

# The lowest versions that pyproject.toml allows of the Hugging Face packages, over all else that is in $(VENV).
$(VENV)/installed-oldest: $(VENV)/installed-dev
	$(BIN)/python -m venv --clear $(VENV)-oldest
	$(BIN)/python -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" \
		> "$$($(VENV)-oldest/bin/python -c 'import site; print(site.getsitepackages()[0])')/beneath.pth"
	sed -nE 's/^ *"(transformers|huggingface_hub|datasets|peft|accelerate|evaluate|safetensors)>=([0-9.]+)".*/\1==\2/p' \
		pyproject.toml | $(VENV)-oldest/bin/python -m pip install --requirement /dev/stdin
	touch $@
