# Every target installs what it needs; see CONTRIBUTING.md.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := $(CURDIR)/bin
DEVSTACK := $(BIN)/devstack
OPENTIMESTAMPS := $(BIN)/opentimestamps
GOLANGCI_VERSION := v2.15.0
GOVULNCHECK_VERSION := v1.8.0

# Tests of packages that start servers of their own are heavy on a small
# machine: a few at a time, and with room for a slow disk.
TEST_FLAGS ?= -race -p 2 -timeout 60m
FUZZTIME ?= 30s
LIFE_STEPS ?= 100000
STREAM_LENGTH ?= 1000000

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: build
build: $(DEVSTACK) ## build calped, calpe and the local stack's launcher into bin/
	go build -trimpath -o $(BIN)/ ./cmd/calped ./cmd/calpe

.PHONY: $(DEVSTACK)
$(DEVSTACK):
	cd deploy/devstack && go build -trimpath -o $(DEVSTACK) .

.PHONY: demo
demo: build ## notarize real documents on a throw-away local stack and verify the receipts
	$(DEVSTACK) demo --calped $(BIN)/calped --calpe $(BIN)/calpe

.PHONY: dev
dev: build ## run the service on a local stack that keeps its state in .calpe/
	$(DEVSTACK) up --state .calpe --calped $(BIN)/calped --calpe $(BIN)/calpe

.PHONY: test
test: $(DEVSTACK) ## run every test with the race detector on real Postgres, S3 and Bitcoin servers
	@./deploy/opentimestamps $(OPENTIMESTAMPS)
	@./deploy/backup/install-tools
	CALPE_OPENTIMESTAMPS_CLIENTS=$(OPENTIMESTAMPS) $(DEVSTACK) exec -- go test $(TEST_FLAGS) -coverprofile=coverage.out -coverpkg=./... ./...
	@./deploy/coverage coverage.out
	cd deploy/devstack && go test -race -timeout 20m ./...

.PHONY: test-core
test-core: $(DEVSTACK) ## run the tests with a real node on Bitcoin Core as well: BITCOIND=/path/to/bitcoind
	@test -x "$(BITCOIND)" || { echo 'make test-core BITCOIND=/path/to/bitcoind' >&2; exit 2; }
	CALPE_TEST_BITCOIND=$(BITCOIND) $(DEVSTACK) exec -- go test -count=1 -timeout 30m -run '^TestReal' -v ./anchor/...

.PHONY: lint
lint: ## vet, golangci-lint, import directions, formatting; govulncheck where its database can be reached
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./... && go vet -tags calpe_crashpoints,powercut ./...
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION) run ./...
	cd deploy/devstack && go vet ./...
	@./deploy/govulncheck $(GOVULNCHECK_VERSION)

.PHONY: fuzz
fuzz: $(DEVSTACK) ## run every fuzz target for FUZZTIME (30s) each, LIFE_STEPS (100000) random steps of the anchor engine, streams of STREAM_LENGTH (1000000)
	CALPE_LIFE_STEPS=$(LIFE_STEPS) go test -count=1 -timeout 24h -run '^TestRandomLife$$' ./anchor
	CALPE_STREAM_LENGTH=$(STREAM_LENGTH) $(DEVSTACK) exec -- go test -count=1 -timeout 1h -run '^TestStream' -v ./integration
	@for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

.PHONY: bench
bench: $(DEVSTACK) ## run the benchmarks; compare ratios within one run, never times between machines
	$(DEVSTACK) exec --durable -- go test -run '^$$' -bench . -benchmem ./...

.PHONY: powercut
powercut: $(DEVSTACK) ## as root on Linux with xfsprogs: what the S3 server has after a power cut, on file systems of its own
	$(DEVSTACK) exec -- go test -tags powercut -run TestPowerCut -v ./storage/s3

.PHONY: clean
clean: ## remove what make built; keeps .calpe/
	rm -rf $(BIN) coverage.out
