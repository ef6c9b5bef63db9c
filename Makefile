# The front door. Each target is one script or one command.

SHELL := /bin/bash
RUN = . scripts/env.sh &&

.PHONY: help demo run test bootstrap page fetch-model model build check fmt defences vectors documents fuzz audit bench reliability test-upstream test-ray test-acme test-haproxy test-proxies test-desk test-deploy test-otel test-upgrade package image reproduce test-operating mutants coverage

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

demo: bootstrap page ## one encrypted question to a real model, from nothing
	@$(RUN) scripts/demo.sh

run: bootstrap page ## serve on 127.0.0.1:8080 (settings: cargo run --release -- --help)
	@$(RUN) cargo run --release --package fabstir-llm-node

test: ## everything that CI checks
	@scripts/test.sh

bootstrap: ## install what this machine lacks
	@scripts/bootstrap.sh

page: bootstrap ## the TypeScript package and the chat page that the binaries serve
	@$(RUN) scripts/build-page.sh

fetch-model: ## fetch the default model
	@scripts/fetch-model.sh

model: bootstrap ## the protocol as a symbolic model: what must hold holds, what must fail fails (Verifpal)
	@$(RUN) scripts/model.sh

build: bootstrap page ## release binaries: target/release/fabstir-llm-node and fabstir
	@$(RUN) cargo build --release --workspace

check: ## formatting and lints
	@$(RUN) cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings

fmt: bootstrap ## format
	@$(RUN) cargo fmt --all

defences: bootstrap ## take each defence out in a copy and see its test fail
	@$(RUN) scripts/defences.sh --all

vectors: bootstrap ## write vectors/ anew; a difference is a change of the protocol
	@$(RUN) UPDATE_VECTORS=1 cargo test -p fabstir-protocol --test vectors

documents: bootstrap ## write docs/openapi.json and docs/asyncapi.json anew from the types
	@$(RUN) UPDATE_DOCS=1 cargo test -p fabstir-protocol --features schema --test schema
	@$(RUN) UPDATE_DOCS=1 cargo test -p fabstir-llm-node --test openapi

fuzz: bootstrap ## each fuzz target for FUZZ_SECONDS (60); running totals in fuzz/totals.json
	@$(RUN) scripts/fuzz.sh

audit: bootstrap ## a folder of evidence to read and repeat: target/audit
	@scripts/audit.sh

bench: bootstrap ## what the protocol costs, and the node beside llama-server (FRESH=1 begins anew)
	@$(RUN) scripts/bench.sh

reliability: bootstrap ## what networks, clients and machines do to a node; ROWS="idle kill", SHORT=1, FRESH=1
	@SHORT="$(SHORT)" FRESH="$(FRESH)" scripts/reliability.sh $(ROWS)

test-upstream: bootstrap ## the node in front of two real llama-servers, one of which is killed
	@$(RUN) scripts/test-upstream.sh

test-ray: bootstrap ## the node in front of a Ray Serve application, one replica of which is killed
	@$(RUN) scripts/test-ray.sh

test-acme: bootstrap ## the node with ACME, given a certificate by Debian's pebble
	@$(RUN) scripts/test-acme.sh

test-haproxy: bootstrap ## the node behind Debian's haproxy, which names its clients by the PROXY protocol
	@$(RUN) scripts/test-haproxy.sh

test-proxies: bootstrap ## deploy/nginx and deploy/caddy under Debian's own, in front of a node; deploy/nftables.conf
	@$(RUN) scripts/test-proxies.sh

test-desk: bootstrap ## the alert rules by promtool, the dashboard by Grafana's model of dashboards
	@$(RUN) scripts/test-desk.sh

test-deploy: bootstrap ## deploy/kubernetes by its schemas and as a node that runs; deploy/systemd by systemd-analyze
	@$(RUN) scripts/test-deploy.sh

test-otel: bootstrap ## what a collector of traces is sent by a build with the feature otel
	@$(RUN) cargo test --locked -p fabstir-llm-node --features otel --test traces

test-upgrade: bootstrap ## from an older version (FROM=tag or commit) to this one and back, with answers under way
	@$(RUN) scripts/test-upgrade.sh

package: bootstrap page ## Debian packages with man pages, completions and a list of contents: target/package (INSTALL=1 tries them here)
	@$(RUN) scripts/package.sh

image: bootstrap page ## an image of the node from nothing, by buildah: target/image
	@WITH_IMAGE=1 scripts/bootstrap.sh
	@$(RUN) scripts/image.sh

reproduce: bootstrap ## build the release binaries twice, elsewhere each time, and compare them
	@$(RUN) scripts/reproduce.sh

test-operating: bootstrap ## docs/operating.md from an empty server, as pasted
	@$(RUN) scripts/test-operating.sh

coverage: ## which lines the tests run: docs/coverage.md
	@WITH_COVERAGE=1 scripts/bootstrap.sh
	@$(RUN) scripts/coverage.sh

mutants: bootstrap ## change the protocol in one place at a time and see its tests fail; hours, or PART=3/40
	@$(RUN) scripts/mutants.sh
