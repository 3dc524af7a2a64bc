"""Small release folders made by hand, sealed like real ones but with a hash in the place of a signature."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from phiforge.hashing import hash_file, hash_files
from phiforge.packaging.layout import COMPONENT, COMPONENT_FOLDER, MANIFEST, SUMS, Component, Manifest, VariantEntry
from phiforge.release.layout import RECORD, SIGNATURE

MODEL = "phi-4-nano"
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
VARIANTS: dict[str, tuple[str, Literal["cpu", "gpu"]]] = {
    "cpu-int4": ("CPUExecutionProvider", "cpu"),
    "webgpu-int4": ("WebGpuExecutionProvider", "gpu"),
}


def unchecked() -> None:
    """Say of a destination, whatever is there, that a release may go there."""


def seal(folder: Path) -> None:
    """Write SHA256SUMS, and in the place of a signature the hash of it."""
    for name in (SUMS, SIGNATURE):
        (folder / name).unlink(missing_ok=True)
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hash_files(folder).items()))
    (folder / SUMS).write_text(lines, encoding="utf-8", newline="\n")
    (folder / SIGNATURE).write_text(hash_file(folder / SUMS), encoding="utf-8", newline="\n")


def faults(folder: Path) -> list[str]:
    """What of a sealed folder is not whole."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    present = hash_files(folder)
    signed = (folder / SIGNATURE).read_text(encoding="utf-8") == present[SUMS]
    for name in (SUMS, SIGNATURE):
        present.pop(name)
    wrong = [name for name in listed.keys() | present.keys() if listed.get(name) != present.get(name)]
    return wrong or ([] if signed else [SIGNATURE])


def make_release(folder: Path, version: str = "1.0", *, model: str = MODEL, template: str = TEMPLATE) -> Path:
    """Make a sealed release folder whose every large file depends on the version."""
    package = folder / f"{model}.ortpackage"
    component = package / COMPONENT_FOLDER
    for name in VARIANTS:
        _fill_variant(component / name, name, version, template)
    entries = {
        name: VariantEntry(variant_directory=name, ep=provider, device=device)
        for name, (provider, device) in VARIANTS.items()
    }
    manifest = Manifest(
        schema_version="1.0",
        package_name=model,
        package_version=version,
        description="made up",
        components={"model": COMPONENT_FOLDER},
    )
    (component / COMPONENT).write_text(
        Component(component_name="model", variants=entries).model_dump_json(exclude_none=True), encoding="utf-8"
    )
    (package / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    (package / "LICENSE").write_text("MIT License", encoding="utf-8")
    (package / "build" / "cpu-int4").mkdir(parents=True)
    (package / "build" / "cpu-int4" / "variant.json").write_text("{}", encoding="utf-8")
    texts = {
        "README.md": f"---\nlicense: mit\n---\n# {model} {version}\n",
        RECORD: json.dumps({"name": model, "version": version, "licence": "MIT"}),
        "CHANGES.md": f"Since before {version}\n",
        "report.html": "<p>report</p>",
        "evidence/latency.json": json.dumps({"version": version}),
        "sbom.cdx.json": "{}",
        "provenance.intoto.json": "{}",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    seal(folder)
    return folder


def _fill_variant(folder: Path, name: str, version: str, template: str) -> None:
    folder.mkdir(parents=True)
    noise = hashlib.shake_256(f"{name} {version}".encode()).digest(50_000)
    (folder / "model.onnx").write_bytes(noise[:1000])
    (folder / "model.onnx.data").write_bytes(noise)
    (folder / "genai_config.json").write_text("{}", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}', encoding="utf-8")
