# The two commands of the README, each from nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help quickstart test check speech music clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

quickstart: $(VENV)/.installed  ## install, then train and score a recogniser on the bundled speech (no network after that)
	$(BIN)/accelerate launch recipes/asr_ctc.py

test: $(VENV)/.installed-dev  ## install with the dev extra, then run the whole test suite
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

speech: $(VENV)/.installed-dev  ## make the bundled speech anew (needs espeak-ng, flite and festival)
	$(BIN)/python scripts/build_speech.py -o hfaudio/data/bundled/speech

music: $(VENV)/.installed-dev  ## make the bundled music anew (needs fluidsynth and fluid-soundfont-gm)
	$(BIN)/python scripts/build_music.py -o hfaudio/data/bundled/music --tunes 40 --format opus

clean:  ## remove the environment and what runs left
	rm -rf $(VENV) output build dist *.egg-info

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@ $(VENV)/.installed
