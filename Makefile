# Every command of the project. Each stands on `setup`, so none needs anything done before.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup servers demo starter check test test-fast bench bench-accuracy bench-report bench-protocols docs clean help

help:            ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(STAMP)  ## make .venv and install the project with pinned dependencies

# torch goes first and by pip: the pin then takes the CPU build where one is offered.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,benchmark,dev]'
	@touch $(STAMP)

servers:         ## what some tests talk to, from Debian's packages, where it can be installed
	@tests/install_servers.sh

demo: setup      ## the whole chain on invented traffic: simulate, meter, train, calibrate, watch
	$(BIN)/python examples/demo.py

starter: setup   ## train the starter detector on simulated sites, into the package (minutes)
	$(BIN)/python -m benchmarks.starter

check: setup     ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup servers ## the whole suite
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-fast: setup servers ## the suite without the slow tests
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m 'not slow'

bench: setup     ## every benchmark; writes benchmarks/results (hours)
	$(BIN)/python -m benchmarks.run_all

BENCHMARK := benchmarks/results/benchmark
bench-accuracy: setup ## every system on every data set, taken up where it stopped (many hours), and its report
	$(BIN)/deepidea benchmark run --data kdd99 --data nsl-kdd --data cicids17 --data cicids18 --models all --seeds 5 \
	  --out $(BENCHMARK) || test $$? -eq 1  # the report lists cells that were cut or failed
	$(BIN)/deepidea benchmark tau --data kdd99 --data nsl-kdd --data cicids17 --models deepidea --models lightgbm \
	  --models random-forest --models mlp-ce --out $(BENCHMARK)
	$(MAKE) bench-report

PROTOCOLS := benchmarks/results/protocols
bench-report: setup ## every table and plot of the benchmark's result files: build/benchmark.html and .md
	mkdir -p build
	$(BIN)/deepidea benchmark report $(BENCHMARK) $(PROTOCOLS) -o build/benchmark.html --markdown build/benchmark.md

FEW := --models majority --models mlp-ce --models random-forest --models lightgbm --models deepidea --models deepidea-forests
DEALT := --protocol stratified --protocol stratified-keep
IMPROVED := botnet ddos dos-goldeneye dos-hulk dos-slowhttptest dos-slowloris ftp-patator heartbleed infiltration \
  infiltration-portscan portscan ssh-patator web-attack-brute-force web-attack-sql-injection web-attack-xss
DAYS := tuesday wednesday thursday friday
bench-protocols: setup ## a few systems on data sets split by time, day, hosts, left-out label, and across data sets (hours)
	$(BIN)/deepidea benchmark run --data cicids17-improved@family $(DEALT) --protocol by-time --protocol by-host-pair \
	  $(FEW) --seeds 3 --out $(PROTOCOLS)
	$(BIN)/deepidea benchmark run --data cicids17-improved@family $(DAYS:%=--protocol by-day-%) --protocol to-cicids17 \
	  --protocol to-cicids18 $(FEW) --seeds 5 --out $(PROTOCOLS)
	$(BIN)/deepidea benchmark run --data cicids17-improved@family $(IMPROVED:%=--protocol leave-out-%) \
	  $(FEW) --seeds 3 --out $(PROTOCOLS)
	$(BIN)/deepidea benchmark run --data cicids17 --protocol stratified-keep --protocol to-cicids17-improved \
	  --protocol to-cicids18 $(FEW) --seeds 5 --out $(PROTOCOLS)
	$(BIN)/deepidea benchmark run --data cicids18@family $(DEALT) --protocol by-time $(FEW) --seeds 3 --out $(PROTOCOLS)
	$(BIN)/deepidea benchmark run --data cicids18@family --protocol leave-out-ftp-bruteforce \
	  --protocol leave-out-ssh-bruteforce $(FEW) --seeds 3 --out $(PROTOCOLS)
	$(BIN)/deepidea benchmark run --data cicids18@family --protocol to-cicids17 --protocol to-cicids17-improved \
	  $(FEW) --seeds 5 --out $(PROTOCOLS)
	$(BIN)/deepidea benchmark run --data nsl-kdd --data kdd99 $(DEALT) $(FEW) --seeds 3 --out $(PROTOCOLS)

docs: setup      ## rewrite the generated parts of README.md and docs/
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_api.py
	$(BIN)/python -m benchmarks.write_docs

clean:           ## remove what the other targets made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist src/*.egg-info
