# make demo   build, validate, judge and package the embedded model
# make npu    the same for an NPU: compiled by QNN, validated on its emulator
# make gpu    the same for CPU, DirectML and WebGPU: one package, three variants, one quantized checkpoint
# make release  all four, a report, a signed release in three forms, and their verification; waives what needs a device
# make test   set up and run every check but the long ones (under 15 minutes on two cores)
# make bench-quality  the table of docs/quantization.md, from real builds (half an hour on two cores)
# make bench-scale    memory and time at the shapes of real models (50 GB of disk, 22 GiB of memory, two hours)
# make bench-npu      memory and time of an NPU variant at real shapes, stage by stage (40 GB of disk, an hour on two cores)
# make bench          time and memory of building the embedded model, speed of the quantizers
# make bench-speed MODELS="stock=FOLDER ours=FOLDER"   prefill and decode of model folders in one interleaved run
# make browser        the report in headless Chromium, which must be installed
# make bench-report   size of a report of 5 models on 12 devices, and how fast it opens
# make nano   train the embedded model anew (about an hour on two cores)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NANO := tools/phiforge/checkpoint/nano/phi-4-nano
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo npu gpu release test test-all lint unit tiny browser long bench bench-report bench-quality bench-scale bench-npu bench-speed nano clean

demo: $(VENV)/.user
	$(BIN)/phiforge build $(NANO) --target cpu-x64

npu: $(VENV)/.npu
	$(BIN)/phiforge build $(NANO) --target qnn-x-elite

gpu: $(VENV)/.gpu
	$(BIN)/phiforge build $(NANO) --target cpu-x64 --target directml-generic --target webgpu-generic

# A build ends with 4 where profiles are unverified, as those of devices that are not here are; so does their report.
PACKAGE := artifacts/phi-4-nano.ortpackage
RELEASE := artifacts/release
ABSENT := directml-generic webgpu-generic qnn-x-elite
FORMS := folder oci hf foundry
release: $(VENV)/.release
	$(BIN)/phiforge build $(NANO) --target cpu-x64 $(ABSENT:%=--target %) || test $$? -eq 4
	$(BIN)/phiforge report $(PACKAGE) -o artifacts/report || test $$? -eq 4
	mkdir -p $(RELEASE)
	rm -rf $(FORMS:%=$(RELEASE)/%) $(FORMS:%=$(RELEASE)/.%.publishing)
	test -f $(RELEASE)/private.pem || openssl ecparam -name prime256v1 -genkey -noout -out $(RELEASE)/private.pem
	openssl ec -in $(RELEASE)/private.pem -pubout -out $(RELEASE)/public.pem
	$(BIN)/phiforge release $(PACKAGE) --first --key $(RELEASE)/private.pem \
	    $(ABSENT:%=--waive '%=no such device was at hand') \
	    --to $(RELEASE)/folder --to oci:$(RELEASE)/oci --to hf:$(RELEASE)/hf --to foundry:$(RELEASE)/foundry
	for form in $(FORMS); do \
	    $(BIN)/phiforge verify $(RELEASE)/$$form --key $(RELEASE)/public.pem || exit; done

test: lint unit tiny browser

test-all: test long bench bench-quality

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/pytest tests/unit tests/contract

tiny: $(VENV)/.dev
	$(BIN)/pytest tests/tiny tests/broken tests/emulator -m "not long" --durations 15

browser: $(VENV)/.dev
	$(BIN)/pytest tests/browser

long: $(VENV)/.dev
	$(BIN)/pytest tests/tiny tests/broken tests/emulator -m long

bench: $(VENV)/.user
	$(BIN)/python tests/bench/resources.py
	$(BIN)/python tests/bench/quantizers.py

bench-quality: $(VENV)/.user
	$(BIN)/python tests/bench/quality.py

bench-scale: $(VENV)/.user
	PYTHONPATH=tests $(BIN)/python -m bench.scale

bench-npu: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m bench.npu

bench-report: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m bench.report

bench-speed: $(VENV)/.user
	$(BIN)/python tests/bench/speed.py $(MODELS)

nano: $(VENV)/.user
	$(BIN)/python -m phiforge.checkpoint.nano.train artifacts/nano

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.user: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP_INSTALL) -e '.[build,cpu]'
	touch $@

$(VENV)/.npu: $(VENV)/.user
	$(PIP_INSTALL) -e '.[build,cpu,qnn]'
	touch $@

$(VENV)/.gpu: $(VENV)/.user
	$(PIP_INSTALL) -e '.[build,cpu,webgpu]'
	touch $@

$(VENV)/.release: $(VENV)/.user
	$(PIP_INSTALL) -e '.[build,cpu,qnn,webgpu,release]'
	touch $@

$(VENV)/.dev: $(VENV)/.user
	$(PIP_INSTALL) -e '.[build,cpu,qnn,webgpu,release,dev]'
	touch $@

clean:
	rm -rf $(VENV) artifacts/store artifacts/*.ortpackage .mypy_cache .pytest_cache .ruff_cache
