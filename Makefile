# The one entry. `make run` needs nothing but Rust, `make test` Go as well: missing tools are installed first.
#
#   make run     build, and run the bookshop behind Selvage
#   make check   the quick loop: format, lints, unit and loopback tests
#   make test    every test (this is what CI runs); as root, because hosts and a Kubernetes in network namespaces of their own are part of it
#   make e2e     of these, the tests in a real Kubernetes: built (once a machine, a quarter of an hour), brought up, taken down
#   make conformance   Gateway API's own suite in that Kubernetes; writes docs/conformance
#   make image   the container images, as archives
#   make gen     write again what is generated from the code: docs/reference, CRDs of the chart
#   make clean   remove everything that was built
#
# Whatever is built lies outside the tree, and one profile serves lints, tests and programs, so that nothing is built twice.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/selvage/target
export PATH := $(HOME)/.cargo/bin:$(PATH)
PROFILE := ci
BUILT := $(CARGO_TARGET_DIR)/$(PROFILE)
CARGO_FLAGS := --locked --workspace --profile $(PROFILE)

.PHONY: run build check test e2e conformance image gen clean tools
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n 's/^#   //p' Makefile

tools:
	@.ci/tools

build: tools
	cargo build $(CARGO_FLAGS)

run: build
	exec $(BUILT)/selvage up examples/bookshop

check:
	.ci/tools check
	.ci/parts fmt clippy unit

test:
	.ci/tools test
	.ci/tools cluster
	.ci/parts fmt clippy build unit suites cluster

e2e:
	.ci/tools cluster
	.ci/parts build cluster

conformance:
	.ci/tools cluster
	.ci/parts build conformance

image: build
	.ci/images $(BUILT) $(BUILT)/images

gen: tools
	SELVAGE_WRITE=1 cargo test $(CARGO_FLAGS) --test reference --test chart

clean:
	rm -rf $(CARGO_TARGET_DIR)
