# `make demo` and `make test` do everything on a machine that has Python 3.11 and make.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_EXTRAS := core,service,mlflow,tensorboard,openvino,otel,notebook,docs,dev

.DEFAULT_GOAL := help
.PHONY: help install demo test test-long faults evidence evidence-tuning imagenet models bench-latency bench-train bench-startup bench-data bench-service bench-growth bench-views performance inputs docs docs-commands screenshots lint format serve clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## Make the virtual environment (2 to 5 minutes, 6 GB: torch is the heavy part)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV); this takes some minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(INSTALLED_EXTRAS)]'
	@touch $@

demo: $(INSTALLED) ## Compress a real network through the running service
	@$(BIN)/python examples/digits/demo.py

# Three processes for two cores, because some tests wait. Bytecode is kept, because the tests start
# hundreds of processes, which would each compile the code anew.
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED) ## Run the tests, against a real PostgreSQL and a real Valkey (9 to 11 minutes on two cores)
	$(PYTEST) -m "not long" $(PYTEST_ARGS)

test-long: $(INSTALLED) ## Run the long forms of the proofs, of which make test has the short ones (11 minutes)
	$(PYTEST) -m long $(PYTEST_ARGS)

faults: $(INSTALLED) ## Kill and freeze the service's processes in all ways that the tests know (5 minutes)
	$(PYTEST) tests/faults tests/service tests/e2e/test_serve.py $(PYTEST_ARGS)

REAL ?=
EXTRAS = $(INSTALLED_EXTRAS),$(if $(REAL),evidence-real,evidence)
EVIDENCE = benchmarks.$(if $(REAL),real,evidence)

evidence: $(INSTALLED) ## Compare the methods and write docs/evidence.md (hours; REAL=1 on real networks; ONLY=experiment/arm/seed)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@$(BIN)/python -m $(EVIDENCE).run --only "$(ONLY)"

evidence-tuning: $(INSTALLED) ## Choose what the evidence's arms leave open, first of all learning rates (an hour; REAL=1)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@$(BIN)/python -m $(EVIDENCE).tune --only "$(ONLY)"

imagenet: $(INSTALLED) ## Compare LIT and PRACTISE on your ImageNet, on a GPU (IMAGENET=/path; days; IMAGENET_ARGS=... for a part)
	@test -n "$(IMAGENET)" \
		|| { echo "IMAGENET is not set: make imagenet IMAGENET=/path/with/train/and/val"; exit 1; }
	@$(BIN)/python -m benchmarks.imagenet.run --imagenet "$(IMAGENET)" $(IMAGENET_ARGS)

models: $(INSTALLED) ## Try the method on torchvision's and timm's networks and write docs/models.md (20 minutes; ONLY=library/name)
	@$(BIN)/python -m benchmarks.models.run --only "$(ONLY)"

bench-latency: $(INSTALLED) ## Compare students' expected latency with their measured one (2 minutes, on a quiet machine)
	@$(BIN)/python -m benchmarks.latency.run

bench-train: $(INSTALLED) ## Compare a training step with a naive one and with the student alone (15 minutes, on a quiet machine; ONLY=networks/batch/loss; TRAIN_ARGS=--full for twice as long)
	@$(BIN)/python -m benchmarks.train.run --only "$(ONLY)" $(TRAIN_ARGS)

bench-data: $(INSTALLED) ## Compare reading of images with torchvision and WebDataset, in images/s and memory (5 minutes, on a quiet machine; DATA_ARGS="--train-images 100000")
	@$(BIN)/python -m benchmarks.data.run $(DATA_ARGS)

bench-service: $(INSTALLED) ## Compare the API with MLflow and the bare framework, and a warm start-up with a cold one (11 minutes, on a quiet machine; BENCH_ARGS=... for a part)
	@$(BIN)/python -m benchmarks.service.run $(BENCH_ARGS)

performance: $(INSTALLED) ## Run bench-train, -data, -service and -growth and write their tables in docs/performance.md (an hour, on a quiet machine; ONLY="train data")
	@$(BIN)/python -m benchmarks.performance.run $(if $(ONLY),--only $(ONLY))

bench-startup: $(INSTALLED) ## Measure how long a small job waits for everything but its training (5 minutes, on a quiet machine)
	@$(BIN)/python -m benchmarks.service.startup

bench-growth: $(INSTALLED) ## Compare a ledger of a million jobs with one of a thousand (20 minutes, 16 GB of disk; GROWTH_ARGS="--jobs 100000 ...")
	@$(BIN)/python -m benchmarks.growth.run $(GROWTH_ARGS)

bench-views: $(INSTALLED) ## Compare students that see few views of each sample with students that see new ones (half an hour; VIEWS_ARGS="--settings hard --views 8 --seeds 3")
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@$(BIN)/python -m benchmarks.views.run $(VIEWS_ARGS)

inputs: $(INSTALLED) ## Write docs/inputs.md: what is taken and what is refused, from the tests' cases (10 seconds)
	@$(BIN)/python -m tests.inputs.page

docs: $(INSTALLED) ## Build the documentation's site into site/; broken links and missing pages fail (10 seconds)
	@$(BIN)/python -m docs.site.build

docs-commands: $(INSTALLED) ## Run every command of the documentation that can run here (3 minutes)
	$(BIN)/pytest -m "long or not long" tests/docs $(PYTEST_ARGS)

screenshots: $(INSTALLED) ## Write the pictures of the web page, docs/images/page-*.png (minutes; needs chromium)
	@$(BIN)/python examples/digits/screenshots.py

lint: $(INSTALLED) ## Style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: $(INSTALLED) ## Run the whole service on http://127.0.0.1:8000
	@$(BIN)/litc serve

clean: ## Remove the virtual environment and caches, but no data
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
