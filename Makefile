# Every task of the project. `make help` lists them.

# The Debian release that the bench boots: 12 (Xen 4.17, Linux 6.1) or 13 (Xen 4.20, Linux 6.12).
DEBIAN ?= 12
# The Debian release that the guests of test-full and test-chosen come from, if it is another one; 14 has the newest kernel.
GUESTS ?=
# Only cases with this in their names (or one of several, with commas), for test-fast, test-full, test-chosen and cases.
CASE ?=
# ALONE=1 has test-full take everything down between cases.
ALONE ?=
# A Debian release on which test-full runs the chosen cases as well.
AND_CHOSEN_ON ?=
# How many machines test-full runs beside each other. Alone a machine has two CPUs; several share this one's CPUs out, and guests lose patience
# where those do anything else.
MACHINES ?= 1
# How many cycles, for soak.
CYCLES ?= 10000
# How many crashes, for crash-soak, and MANY=1 for sixty-four guests.
CRASHES ?= 10000
MANY ?=
# How many errors, for error-soak.
ERRORS ?= 100
# How many guests, for hostile-soak.
HOSTILE ?= 100
# V=1 shows commands and consoles.
V ?=
# For bench: which time (both, real, instructions), rounds in real time, groups of figures (docs/performance.md), and KEEP=1 to compare
# later runs with this one.
CLOCKS ?= both
ROUNDS ?= 5
ONLY ?=
KEEP ?=
# For fuzz: seconds for each target, which (part of a name), and a file to be tried again.
TIME ?= 60
TARGET ?=
INPUT ?=
# For sim: how many schedules, and the first.
SEEDS ?= 10000
FIRST ?= 0
# Where `make install` puts things, and what it puts before that (for packages).
PREFIX ?= /usr/local
DESTDIR ?=

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
TRIPLE := x86_64-unknown-linux-gnu
CARGO_HOME ?= $(HOME)/.cargo
# Messages of panics name files. They shall not name the builder's folders.
IMAGES := cargo --config boot/kernel.toml --config 'build.rustflags=["--remap-path-prefix=$(CARGO_HOME)/registry/src=crates"]'
BENCH = cargo run --locked --quiet --package bench -- --debian $(DEBIAN) $(if $(GUESTS),--guests $(GUESTS)) $(if $(V),--verbose)

# Copies a build product only when it changed, so that what depends on it is not made again for nothing. By way of another name, because
# two targets may make and read it at the same time (`make test` runs lint beside the rest).
update = cmp --silent $(1) $(2) || { cp $(1) $(2).$$$$ && mv $(2).$$$$ $(2); }

.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules
.PHONY: all bench fuzz sim deb rpm package-check bench-chart broker-facts cases counting faults help install install-check man man-check reproducible setup sizes stub selftest malicious-stub frontend tool agent unsafe lint test test-host test-release test-fast test-full test-chosen test-debian test-hvm soak crash-soak crash-walk error-soak hostile-soak test-matrix image-check run clean distclean

all: stub tool man ## Build build/pcidom.elf (the stub's image), build/pcidom (the tool) and its manual

run: stub faults malicious-stub frontend tool agent ## Boot Xen in QEMU and show the main job on real devices
	@$(BENCH) demo

# The release that `make test` runs chosen cases on, beside all on $(DEBIAN).
NEWER := 13

test: setup ## Run everything: lint and host tests (beside the rest), image checks, all suites on Xen, and chosen cases on Debian 13
	@$(BENCH) stages +lint +test-host image-check sizes install-check test-fast "DEBIAN=$(NEWER) test-fast" "AND_CHOSEN_ON=$(NEWER) test-full"

test-host: setup ## Run the tests that need no Xen
	cargo test --locked --no-fail-fast
	cargo test --locked --package kernel

test-release: setup ## The same optimised and without overflow checks, as the image and the command are shipped
	cargo test --locked --release --no-fail-fast
	cargo test --locked --release --package kernel

fuzz: ## Fuzz each target for TIME=60 seconds: executions, new code, findings (TARGET=part of a name; INPUT=file tries that one again)
	@PACKAGES=fuzz tests/bench/setup.sh
	@TIME='$(TIME)' TARGET='$(TARGET)' INPUT='$(INPUT)' tests/fuzz/run.sh

sim: setup ## Simulate stub, broker and commands: SEEDS=10000 schedules from FIRST=0 on, and each call of twelve scenarios fails once; as many schedules of the stub alone
	PCIDOM_SEED='$(FIRST)' PCIDOM_SEEDS='$(SEEDS)' PCIDOM_STRIDE=1 cargo test --locked --package pcidom --lib whole:: -- --nocapture
	SCHEDULES=$$(( $(SEEDS) / 2 )) cargo test --locked --package sim --test hotplug_schedules

test-fast: selftest ## Fast suite: Xen boots the kernel's self-test image (seconds; CASE=part of a name selects)
	@$(BENCH) fast --case '$(CASE)'

test-full: stub faults malicious-stub frontend tool agent ## Suites with Xen, Linux dom0, the stub, Linux guests (CASE=part of a name selects, ALONE=1 takes all down between cases)
	@$(BENCH) full --case '$(CASE)' $(if $(ALONE),--alone) $(if $(AND_CHOSEN_ON),--and-chosen-on $(AND_CHOSEN_ON)) --machines $(MACHINES)

test-chosen: stub faults malicious-stub frontend tool agent ## Chosen cases of the full suite in one boot (DEBIAN=13, CASE=)
	@$(BENCH) chosen --case '$(CASE)'

test-debian: stub tool man agent ## A Debian host with systemd and Xen: this tree's package installed, booted with, upgraded, purged (DEBIAN=13, CASE=; needs root)
	@PACKAGES=debian tests/bench/setup.sh
	@dist/deb.sh
	@tests/bench/deb-before.sh
	@$(BENCH) debian --case '$(CASE)'

test-hvm: stub tool ## An HVM guest with its device model in a Linux stub domain, on Xen (Debian 12; minutes)
	@tests/bench/hvm.sh

cases: agent ## List all cases on Xen, each with its suite (CASE=part of a name selects)
	@$(BENCH) cases --case '$(CASE)'

soak: stub faults malicious-stub frontend tool agent ## Attach and detach a device 10,000 times (CYCLES=), in a boot of its own; takes hours
	@$(BENCH) soak --cycles $(CYCLES)

crash-soak: stub faults malicious-stub frontend tool agent ## Crash the stub 10,000 times (CRASHES=) with guests at work (MANY=1: sixty-four), in a boot of its own; takes hours
	@$(BENCH) crash-soak --crashes $(CRASHES) $(if $(MANY),--many)

error-soak: stub faults malicious-stub frontend tool agent ## Inject 100 errors (ERRORS=) into the port above a disk that a guest writes to, in a boot of its own; takes half an hour
	@$(BENCH) error-soak --errors $(ERRORS)

hostile-soak: stub faults malicious-stub frontend tool agent ## Start 100 hostile frontends (HOSTILE=) beside a guest that works, in a boot of its own; takes half an hour
	@$(BENCH) hostile-soak --guests $(HOSTILE)

crash-walk: stub faults malicious-stub frontend tool agent ## Crash the stub before and after each hypercall and at each message of a request, a detach, an attach and a connect (CASE=), in a boot of its own
	@$(BENCH) crash-walk --case '$(CASE)'

bench: stub counting faults malicious-stub frontend tool agent ## Measure pcidom and xen-pciback in turn: a table, build/bench.json (half an hour; CLOCKS=, ROUNDS=, ONLY=)
	@$(BENCH) benchmark --clocks $(CLOCKS) --rounds $(ROUNDS) --only '$(ONLY)' $(if $(KEEP),--keep)

bench-chart: ## Draw the figures of the last `make bench`: build/bench.svg
	@$(BENCH) chart

test-matrix: setup ## Host tests in release, and all suites on Xen on every Debian release that the bench knows, one machine at a time, and a hundred cycles
	@$(BENCH) stages test-release \
		"DEBIAN=12 test-fast" "DEBIAN=12 test-full" "DEBIAN=13 test-fast" "DEBIAN=13 test-full" \
		"GUESTS=13 test-chosen" "GUESTS=14 test-chosen" test-hvm \
		"DEBIAN=12 test-debian" "DEBIAN=13 test-debian" "CYCLES=100 soak"

lint: man-check ## Formatting, clippy, rustdoc, man pages, units, references and imports; warnings are errors
	dist/lint-units.sh
	cargo fmt --all --check
	cargo run --locked --quiet --package tree
	cargo clippy --locked --quiet --all-targets -- -D warnings
	$(IMAGES) clippy --locked --quiet --release --target-dir $(TARGET_DIR)/kernel -p kernel -p pcidom-stub -p selftest -p malicious-stub -p frontend -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --quiet --no-deps --document-private-items

BROKER := toolstack/broker/src
BROKER_CALLS := $(addprefix toolstack/dom0/src/xen/,events.rs grants.rs libxc.rs physdev.rs)

broker-facts: ## How large the broker is, with all of our crates in it, and which privileged calls it makes (docs/threat-model.md)
	@cargo run --locked --quiet --package tree -- broker
	@echo "calls into Xen's libraries:"
	@grep -Eoh '"(PHYSDEVOP|xengnttab|xenevtchn|xencall|xc)_[a-z0-9_]*"' $(BROKER_CALLS) | tr -d '"' | sort -u | sed 's/^/  /'

unsafe: ## List every `unsafe` of what is shipped, with its place and its reason
	@cargo run --locked --quiet --package tree -- unsafe

# The manual page of the command: its options come from the definitions of the command line.
man: tool
	@mkdir -p build/man
	@page=build/pcidom.8.$$$$; cargo run --locked --quiet --release --package manual -- docs/man/pcidom.8.in > $$page && mv $$page build/man/pcidom.8
	@$(call update,docs/man/pcidom.cfg.5,build/man/pcidom.cfg.5)

man-check: man
	@for page in build/man/*.[1-8]; do \
		warnings=$$(groff -ww -man -Tutf8 -z $$page 2>&1); \
		[ -z "$$warnings" ] || { echo "$$warnings"; exit 1; }; \
	done

SBIN := $(DESTDIR)$(PREFIX)/sbin
BOOT := $(DESTDIR)$(PREFIX)/lib/xen/boot
UNIT := $(DESTDIR)$(PREFIX)/lib/systemd/system
UNITS := pcidom.service pcidom-backend.service pcidom-guests.service pcidom-reclaim.path pcidom-reclaim.service
RULES := $(DESTDIR)$(PREFIX)/lib/udev/rules.d
MAN := $(DESTDIR)$(PREFIX)/share/man
SHARE := $(DESTDIR)$(PREFIX)/share
DOC := $(SHARE)/doc/pcidom

install: ## Install what `make` built: command, image, units, man pages, completions, documents (PREFIX=, DESTDIR=)
	@[ -e build/pcidom ] && [ -e build/pcidom.elf ] && [ -e build/man/pcidom.8 ] || { echo "install: run make first" >&2; exit 1; }
	install -D -m 755 build/pcidom $(SBIN)/pcidom
	install -D -m 644 build/pcidom.elf $(BOOT)/pcidom.elf
	install -d $(UNIT) $(DOC)/examples
	install -d $(RULES)
	sed 's,/usr/local/sbin,$(PREFIX)/sbin,' dist/60-pcidom.rules > $(RULES)/60-pcidom.rules
	chmod 644 $(RULES)/60-pcidom.rules
	for unit in $(UNITS); do sed 's,/usr/local/sbin,$(PREFIX)/sbin,' dist/$$unit > $(UNIT)/$$unit; done
	sed 's,/usr/lib/xen/boot,$(PREFIX)/lib/xen/boot,' examples/pcidom.cfg > $(DOC)/examples/pcidom.cfg
	install -m 644 examples/guest.cfg dist/pcidom.conf dist/modules-load.conf $(DOC)/examples
	chmod 644 $(addprefix $(UNIT)/,$(UNITS)) $(DOC)/examples/pcidom.cfg
	install -D -m 644 build/man/pcidom.8 $(MAN)/man8/pcidom.8
	install -D -m 644 build/man/pcidom.cfg.5 $(MAN)/man5/pcidom.cfg.5
	install -D -m 644 -t $(DOC) README.md CHANGELOG.md docs/*.md docs/*.svg
	install -D -m 644 -t $(DOC)/schema docs/schema/*.json
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	build/pcidom completions bash > $(SHARE)/bash-completion/completions/pcidom
	build/pcidom completions zsh > $(SHARE)/zsh/site-functions/_pcidom
	build/pcidom completions fish > $(SHARE)/fish/vendor_completions.d/pcidom.fish

install-check: all ## Install into a folder and look at what is there
	@rm -rf build/installed
	@$(MAKE) --no-print-directory --silent install DESTDIR=$(CURDIR)/build/installed PREFIX=/usr
	@dist/install-check.sh build/installed/usr

deb: stub tool man ## Make a Debian package: build/deb/pcidom_VERSION-1_amd64.deb
	@PACKAGES=deb tests/bench/setup.sh
	@dist/deb.sh

rpm: stub tool man ## Make an RPM package: build/rpm/pcidom-VERSION-1.x86_64.rpm
	@PACKAGES=rpm tests/bench/setup.sh
	@dist/rpm.sh

package-check: deb rpm ## Look at both packages: lintian, and what is in them
	@dist/package-check.sh

image-check: stub ## Check how the image is linked, its ELF notes and its size (budget: tests/bench/image-budget)
	@$(BENCH) image-check build/pcidom.elf

sizes: stub tool ## Show the image and the tool by section and crate against tests/bench/sizes (KEEP=1 saves a new table)
	@$(BENCH) sizes build/pcidom.debug.elf build/pcidom $(if $(KEEP),--keep)

reproducible: setup ## Build the stub's image in two folders and compare byte by byte
	@tests/bench/reproducible.sh

stub: setup
	@mkdir -p build
	$(IMAGES) build --locked --release --target-dir $(TARGET_DIR)/kernel -p pcidom-stub
	@$(call update,$(TARGET_DIR)/kernel/$(TRIPLE)/release/pcidom-stub,build/pcidom.debug.elf)
	@strip -o build/pcidom.elf.$$$$ build/pcidom.debug.elf && mv build/pcidom.elf.$$$$ build/pcidom.elf

# The stub's image that crashes where a case wants it; as below.
faults: setup
	@mkdir -p build
	$(IMAGES) build --locked --release --target-dir $(TARGET_DIR)/faults -p pcidom-stub --features faults
	@$(call update,$(TARGET_DIR)/faults/$(TRIPLE)/release/pcidom-stub,build/pcidom-faults.elf)

# The stub's image with counters. Features change what its dependencies are built as, hence a folder of its own.
counting: setup
	@mkdir -p build
	$(IMAGES) build --locked --release --target-dir $(TARGET_DIR)/counting -p pcidom-stub --features counting
	@$(call update,$(TARGET_DIR)/counting/$(TRIPLE)/release/pcidom-stub,build/pcidom-counting.elf)

selftest: setup
	@mkdir -p build
	$(IMAGES) build --locked --release --target-dir $(TARGET_DIR)/kernel -p selftest
	@$(call update,$(TARGET_DIR)/kernel/$(TRIPLE)/release/selftest,build/selftest.elf)

malicious-stub: setup
	@mkdir -p build
	$(IMAGES) build --locked --release --target-dir $(TARGET_DIR)/kernel -p malicious-stub
	@$(call update,$(TARGET_DIR)/kernel/$(TRIPLE)/release/malicious-stub,build/malicious-stub.elf)

frontend: setup
	@mkdir -p build
	$(IMAGES) build --locked --release --target-dir $(TARGET_DIR)/kernel -p frontend
	@$(call update,$(TARGET_DIR)/kernel/$(TRIPLE)/release/frontend,build/frontend.elf)

tool: setup
	@mkdir -p build
	cargo build --locked --release --package pcidom
	@$(call update,$(TARGET_DIR)/release/pcidom,build/pcidom)

agent: setup
	@mkdir -p build/bench
	cargo --config tests/agent/static.toml build --locked --quiet --target-dir $(TARGET_DIR)/agent --package agent
	@$(call update,$(TARGET_DIR)/agent/$(TRIPLE)/debug/agent,build/bench/agent)

setup:
	@tests/bench/setup.sh

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Options: DEBIAN=12|13, CASE=part of a case's name, V=1. Consoles of the last runs: build/bench/logs."

clean: ## Remove build products and logs, keep downloaded packages
	rm -rf build/pcidom build/man build/*.elf build/bench/agent build/bench/logs build/bench/*/images
	cargo clean

distclean: ## Remove everything that was built or downloaded
	rm -rf build
	cargo clean
