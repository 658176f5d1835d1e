PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_OPTIONS ?= -n 2 --dist loadfile

SOUNDS ?= sounds
TEACHER ?=
INTERFERENCE ?=

# The tests that depend on the Hugging Face packages: `make test-oldest` runs them with the oldest supported versions.
OLDEST_TESTS := tests/test_install.py tests/modeling_pseldnet/test_sharing_doors.py tests/modeling_pseldnet/test_pipeline.py \
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

# Feeds thousands of broken inputs to the programs, and kills each program 20 times.
fuzz: export OMP_NUM_THREADS := 1
fuzz: $(VENV)/installed-dev
	$(BIN)/python -m tests.fuzz.fuzz --inputs 2000
	$(BIN)/python -m tests.fuzz.kills --kills 20

bench: $(VENV)/installed-dev
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# Trains the next default model, starting from the current one, on the isolated sounds in SOUNDS. Optional: out-of-class
# sounds in INTERFERENCE, and a tagger to learn from in the module TEACHER (see training/teacher.py). The result is written
# to runs/default_model/packaged; if its card shows better scores, copy it over modeling_pseldnet/default_model. After an
# interruption, run the same command to continue from the last checkpoint. The two variables keep freed memory with the
# process, as the next batch needs it again at once.
default-model: export MALLOC_MMAP_THRESHOLD_ := 4294967296
default-model: export MALLOC_TRIM_THRESHOLD_ := 17179869184
default-model: $(VENV)/installed-dev
	@echo "52,000 scenes, each in two augmented versions: about four hours on two cores; the progress bar shows the time left"
	$(BIN)/pseldnet-train default_model --resume --override data.data_dir=$(SOUNDS) \
		teacher.module=$(TEACHER) data.train.interference_dir=$(INTERFERENCE)
	$(BIN)/python -m training.experiments.default_model runs/default_model --sounds $(SOUNDS) \
		--scene-recipe default_model_48 $(if $(INTERFERENCE),--interference $(INTERFERENCE)) \
		--beside modeling_pseldnet/default_model \
		--trained-on "52,000 more ten-second scenes, each in two augmented versions (rotated, mirrored and filtered)"

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

# The lowest versions of the Hugging Face packages that pyproject.toml allows, on top of everything else in $(VENV).
$(VENV)/installed-oldest: $(VENV)/installed-dev
	$(BIN)/python -m venv --clear $(VENV)-oldest
	$(BIN)/python -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" \
		> "$$($(VENV)-oldest/bin/python -c 'import site; print(site.getsitepackages()[0])')/beneath.pth"
	sed -nE 's/^ *"(transformers|huggingface_hub|datasets|peft|accelerate|evaluate|safetensors)>=([0-9.]+)".*/\1==\2/p' \
		pyproject.toml | $(VENV)-oldest/bin/python -m pip install --requirement /dev/stdin
	touch $@
