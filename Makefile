# `make` lists the targets.

# What is shipped must not depend on the folder or the commit that it was built
# from, or every commit would restart every process: -trimpath, no VCS stamp.
# The same for vet and tests, without cgo: so one compilation of each package is all's,
# wherever the clone is; only the race detector needs one of its own, and cgo.
export GOFLAGS := $(filter-out -buildvcs=% -trimpath,$(GOFLAGS)) -buildvcs=false -trimpath
export CGO_ENABLED := 0
# A version is stable where a commit is not; only the programs that show it have
# it, so that a new version restarts no component that is as it was.
VERSION := $(shell cat VERSION)
VMC := ./jobs/cloud_controller/cmd/vmc
VERSIONED := ./agent/cmd/agent ./deployer/cmd/deploy $(VMC)
BUILD := go build -ldflags "-s -w" \
	$(foreach p,$(VERSIONED),-ldflags "$(p)=-s -w -X main.version=$(VERSION)")

# The platforms that VMs can have; by default this machine's.
PLATFORMS ?= $(shell go env GOHOSTOS)/$(shell go env GOHOSTARCH)

# What is released.
DIST_PLATFORMS ?= linux/amd64 linux/arm64

# Every program that goes to VMs.
PROGRAMS := $(filter-out %/vmc,$(patsubst %/,./%,$(sort $(dir $(wildcard \
	agent/cmd/*/*.go jobs/*/cmd/*/*.go examples/jobs/*/cmd/*/*.go)))))
# The programs that stay here. pack is a step of the build; vmc is the users'.
TOOLS := $(patsubst %/,./%,$(sort $(dir $(wildcard deployer/cmd/*/*.go)))) $(VMC)

EXAMPLE := examples/cluster.hcl
DEMO_API := api.cf.localhost:8080
DEMO_URL := http://node.cf.localhost:8080/

.PHONY: help build $(PLATFORMS) setup setup-vm stemcell demo demo-down check unit e2e test dist check-format bench bench-ansible soak fmt lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: $(PLATFORMS) ## bin/deploy, bin/vmc, and bin/packages/<os>_<arch> for each of PLATFORMS ("linux/amd64 linux/arm64")

bin/tools: # always: go's own cache knows best what is up to date
	@mkdir -p bin
	$(BUILD) -o bin/ $(TOOLS)
.PHONY: bin/tools

$(PLATFORMS): bin/tools
ifneq ($(PROGRAMS),)
	@mkdir -p bin/programs/$(subst /,_,$@)
	GOOS=$(firstword $(subst /, ,$@)) GOARCH=$(lastword $(subst /, ,$@)) $(BUILD) -o bin/programs/$(subst /,_,$@)/ $(PROGRAMS)
	@bin/pack bin/programs/$(subst /,_,$@) bin/packages/$(subst /,_,$@) $@ $(notdir $(PROGRAMS))
endif

setup: ## install what the demo and the tests run and this machine lacks (apt), and an engine (built once)
	@.ci/setup.sh nginx /usr/lib/nginx/modules/ngx_http_brotli_filter_module.so keepalived curl chromium gcc sshd ip nft qemu-system-x86_64 mkfs.ext4 mkfs.vfat sfdisk pg_ctlcluster mariadbd redis-server memcached rabbitmq-server /usr/bin/node /usr/share/nodejs/express/package.json /usr/bin/python3 /usr/bin/flask /usr/bin/django-admin /usr/bin/ruby /usr/bin/rackup /usr/bin/bundle /usr/bin/javac /usr/share/tomcat10/bin/catalina.sh /usr/share/java/spring3-web.servlet.jar
	@command -v tofu >/dev/null || command -v terraform >/dev/null || go run ./deployer/cmd/deploy engine

setup-vm: ## install what stemcells and libvirt's VMs need (apt)
	@.ci/setup.sh mmdebstrap mke2fs sfdisk mkfs.vfat mcopy grub-mkimage fakeroot qemu-img genisoimage xsltproc qemu-system-x86_64 libvirtd virsh dnsmasq iptables ip

RECIPE ?= base
stemcell: ## an image that VMs boot; its path is printed last (RECIPE=base)
	@stemcells/build $(RECIPE)

demo: ## build, stand the platform up, push an app to it, and update it under load
	@.ci/setup.sh nginx curl pg_ctlcluster redis-server /usr/bin/node
	@$(MAKE) --no-print-directory build
	bin/deploy apply --auto-approve $(EXAMPLE)
	@echo
	@bin/deploy status $(EXAMPLE)
	@echo
	bin/vmc target $(DEMO_API)
	@export VMC_PASSWORD=demonstration; bin/vmc login demo@example.com 2>/dev/null || \
		{ set -x; bin/vmc register demo@example.com && bin/vmc login demo@example.com; }
	bin/vmc push --path examples/apps/node
	@echo
	curl -fsS $(DEMO_URL)
	@echo
	@examples/update-under-load.sh $(DEMO_URL) bin/vmc restart node
	@echo
	@echo "The app runs on: $(DEMO_URL)    bin/vmc is logged in as demo@example.com. make demo-down ends it all."

demo-down: ## end the demo's cluster and remove its state, disks and all
	@if [ -e examples/.deploy ]; then \
		[ -x bin/deploy ] || $(MAKE) --no-print-directory build; \
		bin/deploy destroy --auto-approve --accept-data-loss --delete-disks $(EXAMPLE) && \
		bin/vmc logout --forget --target $(DEMO_API); \
	fi

demo-check: # the README's first command, and that the second leaves nothing
	@if [ -e examples/.deploy ]; then echo "the demo's cluster runs here: make demo-down first"; exit 1; fi
	@$(MAKE) --no-print-directory demo
	@$(MAKE) --no-print-directory demo-down
	@if [ -e examples/.deploy ]; then echo "make demo-down left examples/.deploy"; exit 1; fi
.PHONY: demo-check

# Runs all stages, even after one that fails, so that one run shows all that is
# wrong; then prints their times: how long each took, and the processor time of the
# processes that it waited for (two processors that never wait give twice the first).
STAGES = failed=; times=; mkdir -p bin; \
	cpu() { times > bin/times; cpu=$$(awk 'END { split($$1, u, /[ms]/); split($$2, s, /[ms]/); \
		print int((u[1] + s[1]) * 60 + u[2] + s[2]) }' bin/times); rm -f bin/times; }; \
	stage() { \
		name=$$1; shift; echo "=== $$name: $$*"; begin=$$(date +%s); cpu; before=$$cpu; \
		if "$$@"; then result=ok; else result=FAILED; failed="$$failed $$name"; fi; cpu; \
		times="$$times$$(printf '  %-8s %4d s, processors %4d s  %s' $$name $$(($$(date +%s) - begin)) $$((cpu - before)) $$result)\n"; \
	}; \
	summary() { \
		printf "=== stages\n$$times"; \
		if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi; \
		echo "all stages passed"; \
	}
MAKE_STAGE = $(MAKE) --no-print-directory
# Runs go test and keeps what it says of each test in bin/NAME.json. Up to twelve
# tests that fail are run again, at most twice, unless a data race was found:
# thousands of tests with real processes on two cores have one whose time is up now and then.
# Which these were is kept in bin/NAME-again.txt and said at the end: look at them.
GOTESTSUM := go run gotest.tools/gotestsum@v1.13.0
TIMED = $(GOTESTSUM) --format standard-quiet --jsonfile bin/$(1).json --rerun-fails=2 --rerun-fails-max-failures=12 \
	--rerun-fails-abort-on-data-race --rerun-fails-report bin/$(1)-again.txt --packages "$(2)" --

check: ## what to run before each commit: format, lint, unit tests; under a minute when little changed
	@$(STAGES); \
	stage format $(MAKE_STAGE) check-format; \
	stage lint $(MAKE_STAGE) lint; \
	stage unit $(MAKE_STAGE) unit; \
	summary

# Packages whose tests take longest begin first, so that the others run beside them.
LONG = ./jobs/cloud_controller/vmc ./jobs ./jobs/component/gateway ./jobs/router ./jobs/cloud_controller ./jobs/postgresql_node ./jobs/rabbitmq_node ./jobs/stager ./jobs/dea ./agent ./deployer
unit: ## unit tests, without the race detector
	go test -p 4 $(LONG) ./... # as in the target test: they wait more than they compute

e2e: build ## end-to-end tests: make e2e RUN=TestX
	go test -tags e2e -v -run '$(RUN)' -parallel 3 -timeout 25m ./examples/

# The race detector needs cgo. Tests wait more than they compute (for processes, for
# disks, for times to pass), so four packages at once, and six end-to-end tests, keep two
# processors busy. What one goroutine computes long has fewer rounds with the race detector
# (race_test.go); the stage rounds runs all of them. The stage lint has vetted all
# packages, so go test need not.
ROUNDS = ./deployer ./deployer/internal/simulate ./jobs/cloud_controller/internal/placement
test: ## everything: check, unit tests with the race detector, end-to-end tests, demo; prints the slowest tests
	@mkdir -p bin; rm -f bin/unit* bin/e2e*; $(STAGES); \
	stage setup $(MAKE_STAGE) setup; \
	stage format $(MAKE_STAGE) check-format; \
	stage build $(MAKE_STAGE) build; \
	stage lint $(MAKE_STAGE) lint; \
	stage unit env CGO_ENABLED=1 $(call TIMED,unit,$(LONG) ./...) -race -vet=off -ldflags=-w -p 4 -timeout 20m; \
	stage rounds go test $(ROUNDS); \
	stage e2e $(call TIMED,e2e,./examples/...) -tags e2e -vet=off -p 1 -parallel 6 -timeout 40m; \
	stage demo $(MAKE_STAGE) demo-check; \
	for stage in unit e2e; do \
		echo "=== the slowest $$stage tests"; $(GOTESTSUM) tool slowest --num 15 --jsonfile bin/$$stage.json; \
		if [ -s bin/$$stage-again.txt ]; then echo "=== $$stage tests that failed at first"; cat bin/$$stage-again.txt; fi; \
	done; \
	summary

# Where stemcells are kept: outside of the clone, since each takes minutes to build.
STEMCELLS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/deploy/stemcells
# The image is the one that the build names, not the newest of the folder.
test-vm: build ## real VMs by libvirt (root): the stemcell built twice, the contract's suite, the life of a VM, a platform on three, one of clones of the devbox; minutes, longer by emulation
	@$(MAKE_STAGE) setup-vm
	@for template in libvirt openstack; do templates/$$template/provider.sh $(CURDIR)/bin/providers; done
	image=$$(STEMCELLS=$(STEMCELLS) stemcells/build base) && runtimes=$$(STEMCELLS=$(STEMCELLS) stemcells/build runtimes) && devbox=$$(STEMCELLS=$(STEMCELLS) stemcells/build devbox) && \
		export STEMCELL=$$image STEMCELL_RUNTIMES=$$runtimes STEMCELL_DEVBOX=$$devbox DEPLOY_PROVIDER_MIRROR=$(CURDIR)/bin/providers && \
		go test -tags vm -count 1 -v -run TestSameInputsSameDigest -timeout 60m ./stemcells && \
		.ci/with-libvirt.sh go test -tags "e2e vm" -count 1 -v -p 1 -run '^Test(Libvirt|OpenStack)' -timeout 180m ./deployer/internal/terraform ./examples
.PHONY: test-vm

check-format:
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted (make fmt does it):"; echo "$$unformatted"; exit 1; fi

bench: build ## how long applies take; the router beside nginx, haproxy and httputil.ReverseProxy; services beside their servers
	@.ci/setup.sh nginx haproxy redis-server memcached rabbitmq-server pg_ctlcluster mariadbd
	go test -run '^$$' -bench . -benchtime 5x ./deployer # plans (10,000 in a process of their own), applies and rollouts of simulated agents
	go test -run '^$$' -bench Linear -benchtime 3x ./deployer/internal/simulate # 10,000 beside 2,000 instances
	go test -tags e2e -run '^$$' -bench . -benchtime 5x -timeout 15m ./examples/...
	go test -run '^$$' -bench 'Peers|Routes' -benchtime 1x ./jobs/router
	go test -run '^$$' -bench Provision -benchtime 1x -p 1 ./jobs/redis_node ./jobs/memcached_node ./jobs/rabbitmq_node ./jobs/postgresql_node ./jobs/mysql_node # 20 at once

soak: build ## 30 kills, hung bus and database, full disk, two power cuts (root); 200,000 requests during rolling updates and reloads, 100,000 during those of DEAs, 50,000 during those of an app: none may fail; 200 placements
	go test -tags "e2e soak" -v -run TestWorstHours -timeout 60m ./examples/
	go test -tags e2e -v -run TestEveryFileDamaged -timeout 60m ./examples/ -damage-every 1
	go test -tags e2e -v -run TestSignalsAtRandomMoments -timeout 30m ./examples/ -moments 50 -seed $$(date +%s)
	go test -tags e2e -v -run TestRollingUpdateUnderLoad -timeout 30m ./examples/ -soak 200000 -rate 2000
	go test -tags e2e -v -run TestDEAsRollUnderLoad -timeout 30m ./examples/ -soak 100000 -rate 1000
	go test -tags e2e -v -run TestPlatform -timeout 90m ./examples/ -long

bench-ansible: build ## the same deployment to the same 30 machines, by deploy and by Ansible (root; ansible-core)
	go test -tags "e2e ansible" -v -run TestBesideAnsible -timeout 60m ./examples/

fmt: ## format all Go code
	gofmt -w .

lint: ## the analyzers of go vet, staticcheck and .ci/lint in one pass; spelling
	@mkdir -p bin
	cd .ci/lint && go build -o ../../bin/lint .
	go vet -vettool=bin/lint -tags e2e ./...
	@for system in darwin windows; do GOOS=$$system go vet $(VMC) || exit 1; done # users' own machines
	@git ls-files '*.go' '*.md' '*.hcl' '*.yml' | grep -v /testdata/ | \
		xargs go run github.com/golangci/misspell/cmd/misspell@v0.8.0 -error -i adress,scirpt,wrok

# A file of a key (bin/deploy release key makes one); "": the checksums are not signed.
SIGN_KEY ?=
dist: ## dist/: an archive for each of DIST_PLATFORMS, checksums (signed with SIGN_KEY=FILE), and an SBOM
	@$(MAKE_STAGE) build PLATFORMS="$(DIST_PLATFORMS)"
	$(foreach p,$(DIST_PLATFORMS),mkdir -p bin/dist/$(subst /,_,$(p)) && \
		GOOS=$(firstword $(subst /, ,$(p))) GOARCH=$(lastword $(subst /, ,$(p))) \
		$(BUILD) -o bin/dist/$(subst /,_,$(p))/ ./deployer/cmd/deploy $(VMC) &&) true
	PROGRAMS="$(PROGRAMS) ./deployer/cmd/deploy $(VMC)" .ci/dist.sh $(VERSION) $(DIST_PLATFORMS)
	$(if $(SIGN_KEY),bin/deploy release sign $(SIGN_KEY) dist/SHA256SUMS)

clean: ## remove what was built (clusters stay: make demo-down)
	rm -rf bin dist
