"""The check of compiled files on real ones: whole they pass, damaged in any way they do not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from emulator.parts import HIDDEN, KV_SHAPE
from phiforge import errors
from phiforge.graph.npu.context import ContextTensor, check_context, read_context
from phiforge.runtime.qnn import sdk_version

ALLOWED = {"GroupQueryAttention": 2}
NAME, BINARY = "prefill_0.onnx", "prefill_0_qnn.bin"


def check(folder: Path, started: float = 0.0) -> None:
    check_context(folder / NAME, allowed=ALLOWED, started=started, sdk_version=sdk_version())


def test_the_facts_are_read(plain: Path, whole: Path) -> None:
    facts = read_context(plain / "out" / NAME)
    assert len(facts.graphs) == len(set(facts.graphs)) == 3
    assert facts.outside == {"GroupQueryAttention": ("l0_attention", "l1_attention")}
    assert facts.binaries == (BINARY,)
    assert not facts.embedded
    assert not facts.external
    assert facts.inputs[0] == ContextTensor(name="h_in", dtype="uint16", shape=(1, 16, HIDDEN))
    assert facts.outputs[0] == ContextTensor(name="present.0.key", dtype="float16", shape=tuple(KV_SHAPE))
    assert read_context(whole / "out" / NAME).outside == {}


def test_a_whole_file_passes(plain: Path, shared: Path) -> None:
    for folder in (plain, shared):
        check(folder / "out", started=(folder / "work" / "prefill_0.job.json").stat().st_mtime)


def rename_binary(name: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        change(folder, lambda node: setattr(attribute(node, "ep_cache_context"), "s", name.encode()))

    return rename


def change(folder: Path, edit: Callable[[onnx.NodeProto], None]) -> None:
    """Edit the EPContext node that names the binary."""
    model = onnx.load(folder / NAME)
    edit(next(node for node in model.graph.node if any(a.name == "ep_cache_context" for a in node.attribute)))
    onnx.save(model, folder / NAME)


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    found: onnx.AttributeProto = next(a for a in node.attribute if a.name == name)
    return found


def age(name: str) -> Callable[[Path], None]:
    return lambda folder: os.utime(folder / name, (0, 1e9))


def embed(folder: Path) -> None:
    change(folder, lambda node: setattr(attribute(node, "embed_mode"), "i", 1))


def compile_elsewhere(folder: Path) -> None:
    change(folder, lambda node: setattr(attribute(node, "ep_sdk_version"), "s", b"v2.52.0.270101"))


def not_compiled(folder: Path) -> None:
    shutil.copy(folder.parent / "src" / NAME, folder / NAME)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / BINARY).unlink(), "is missing"),
        (lambda folder: (folder / BINARY).write_bytes(b""), "is empty"),
        (lambda folder: (folder / NAME).write_bytes(b"no model"), "cannot be read"),
        (lambda folder: (folder / NAME).unlink(), "cannot be read"),
        (age(BINARY), "earlier run"),
        (age(NAME), "earlier run"),
        (rename_binary("../src/prefill_0.onnx"), "outside its folder"),
        (rename_binary("..\\src\\prefill_0.onnx"), "outside its folder"),
        (rename_binary("/etc/hostname"), "outside its folder"),
        (embed, "names no binary"),
        (compile_elsewhere, "another SDK"),
        (not_compiled, "Nothing of"),
    ],
)
def test_a_damaged_file_is_refused(plain: Path, tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    shutil.copytree(plain, tmp_path / "copy")
    folder = tmp_path / "copy" / "out"
    check(folder, started=1.1e9)
    damage(folder)
    with pytest.raises(errors.CompileFailedError, match=told):
        check(folder, started=1.1e9)


def test_a_link_out_of_the_folder_is_refused(plain: Path, tmp_path: Path) -> None:
    shutil.copy(plain / "out" / NAME, tmp_path / NAME)
    (tmp_path / BINARY).symlink_to(plain / "out" / BINARY)
    with pytest.raises(errors.CompileFailedError, match="outside its folder"):
        check(tmp_path)


@pytest.mark.parametrize("allowed", [{}, {"GroupQueryAttention": 1}, {"GroupQueryAttention": 3}])
def test_the_count_of_operators_outside_is_exact(plain: Path, allowed: dict[str, int]) -> None:
    with pytest.raises(errors.CompileFailedError, match="GroupQueryAttention"):
        check_context(plain / "out" / NAME, allowed=allowed, started=0.0, sdk_version=sdk_version())


@pytest.mark.parametrize("installed", ["2.50.0", "2.52.0", "unknown"])
def test_another_sdk_is_refused(plain: Path, installed: str) -> None:
    with pytest.raises(errors.CompileFailedError, match="another SDK"):
        check_context(plain / "out" / NAME, allowed=ALLOWED, started=0.0, sdk_version=installed)
