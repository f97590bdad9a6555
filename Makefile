# What a person does often is one command with a name. `make help` lists them.
#
# Four build folders, because their flags differ and a shared one would be rebuilt at every change of mind:
#   .build        release with testing enabled: `make test`, `make soak`
#   .build-bench  plain release, what users run:  `make up`, `make bench`
#   .build-dist   static release:                 `make dist`
#   .build-fuzz   libFuzzer and AddressSanitizer: `make fuzz`, and what fuzzing found interesting

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

STAGES := $(shell scripts/stage --names)
PLAIN := swift build -c release --scratch-path .build-bench --product tapedeck
SOURCES := find Sources Tests -name '*.swift' -not -path '*/Generated/*' -not -path '*/Fixtures/*' -print0

.PHONY: help deps deps-build deps-test build up test test-cluster $(STAGES) bench bench-edge bench-cassandra bench-cluster fuzz soak dist format lint proto clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo; echo "stages of make test, each a target:"; scripts/stage --list

deps: ## install what the build and the tests need (distribution packages, a Python environment for the tests)
	@scripts/deps test

deps-build:
	@scripts/deps build --if-missing >&2

deps-test:
	@scripts/deps test --if-missing

# Standard output belongs to the program: `make bench JSON=1` prints figures and nothing else.
build: deps-build ## the plain release binary, .build-bench/release/tapedeck
	@$(PLAIN) >&2

up: build ## build and run the platform in one process; ARGS="--data DIR --listen HOST:PORT ..."
	@exec .build-bench/release/tapedeck up $(ARGS)

test: deps-test ## everything, in stages with time budgets; fails on any failure
	@scripts/test

test-cluster: test-kafka test-cassandra test-both test-drills ## what needs real engines

$(STAGES): deps-test
	@scripts/stage $@

bench: build ## all benches that need no other server; JSON=1 for one line of JSON per figure
	@.build-bench/release/tapedeck bench all $(if $(filter 1,$(JSON)),--json)

bench-edge: deps-test build ## the edge beside the peers of ../shared/peers, in one run; JSON=1, CASES="unary64 stream8"
	@scripts/bench-edge $(if $(filter 1,$(JSON)),--json) --runs $(or $(RUNS),3) $(CASES)

bench-cassandra: deps-test build ## the Cassandra driver and store beside the Python driver and the Go peer; JSON=1
	@scripts/bench-cassandra $(if $(filter 1,$(JSON)),--json) --runs $(or $(RUNS),3)

bench-cluster: deps-test build ## what runs on Kafka beside the Go peer of ../shared/peers, on one broker; JSON=1, CASES="feed"
	@scripts/bench-cluster $(if $(filter 1,$(JSON)),--json) --runs $(or $(RUNS),3) $(CASES)

fuzz: deps-test ## fuzz every parser; SECONDS=20 each, TARGETS="tick block" for some
	@scripts/fuzz --seconds $(or $(SECONDS),20) $(TARGETS)

soak: deps-test ## the long forms: 100 kills, minutes of fuzzing, thousands of seeds
	@scripts/soak

dist: deps-build ## dist/tapedeck: one binary, linked statically as far as the distribution has archives
	@scripts/dist

format: ## format the sources in place
	@{ $(SOURCES); printf 'Package.swift\0'; } | xargs -0 scripts/wrap-comments
	@{ $(SOURCES); printf 'Package.swift\0'; } | xargs -0 swift format format --in-place --parallel

lint: ## fail where `make format` would change something, or a rule is broken
	@{ $(SOURCES); printf 'Package.swift\0'; } | xargs -0 swift format lint --strict --parallel

proto: deps-test ## generate Sources/Wire/MarketProto/Generated from proto/
	@scripts/generate-proto

clean: ## remove everything built
	@rm -rf .build .build-bench .build-dist .build-fuzz dist
