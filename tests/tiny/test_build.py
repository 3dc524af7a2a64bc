"""The whole chain on the embedded model and on checkpoints that are not like it."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

import phiforge
from broken.checkpoints import make_checkpoint
from judged import unpassed
from phiforge import errors
from phiforge.gate import Outcome
from phiforge.packaging.layout import variant_folders
from phiforge.packaging.verify import verify_package
from phiforge.reporting import load_report
from phiforge.verbs.build import BuildResult
from phiforge.verbs.package import read_package


def test_the_embedded_model_passes_its_profile(nano_build: BuildResult) -> None:
    assert [finding.reason for finding in unpassed(nano_build.verdicts["cpu-x64"])] == []


def test_the_default_pipeline_keeps_the_answers(nano_build: BuildResult) -> None:
    assert nano_build.report is not None
    report = load_report(nano_build.report.with_name("report.json")).report_for("cpu-x64")
    assert report.tasks is not None
    assert report.tasks.overall.reference_correct >= 0.95 * report.tasks.overall.questions
    assert report.tasks.overall.recovery_fraction >= 0.98


def test_a_second_build_does_no_stage_again(nano_build: BuildResult, nano_checkpoint: Path, nano_output: Path) -> None:
    again = phiforge.build(nano_checkpoint, targets=["cpu-x64"], output=nano_output)
    assert [stage.stage for stage in again.stages if not stage.reused] == []
    assert again.content_sha256 == nano_build.content_sha256
    assert again.verdicts == nano_build.verdicts


def test_every_variant_loads_with_the_stock_runtime(nano_variant: Path) -> None:
    import onnxruntime_genai as og

    model = og.Model(str(nano_variant))
    tokenizer = og.Tokenizer(model)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=96, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(tokenizer.encode("<|user|>What is 12 + 34?<|end|><|assistant|>"))
    while not generator.is_done():
        generator.generate_next_token()
    assert tokenizer.decode(generator.get_sequence(0)).endswith("46")


def test_a_package_carries_what_proves_it(nano_build: BuildResult) -> None:
    package = nano_build.package
    assert package is not None
    verify_package(package)
    (item,) = read_package(package)
    names = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert {
        "manifest.json",
        "SHA256SUMS",
        "LICENSE",
        "build/cpu-int4/plan.json",
        "build/cpu-int4/workflow.json",
    } <= names
    names = {name.removesuffix(".json") for name in item.evidence}
    assert names == {
        "drift",
        "free-running",
        "latency-cpu-x64",
        "prediction-cpu-x64",
        "probes",
        "refusals",
        "tasks",
    }


def test_a_changed_byte_is_found(nano_build: BuildResult, tmp_path: Path) -> None:
    assert nano_build.package is not None
    copy = tmp_path / nano_build.package.name
    shutil.copytree(nano_build.package, copy)
    data = next(copy.rglob("model.onnx.data"))
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    with pytest.raises(errors.PackageTamperedError, match=r"1 of \d+ files"):
        phiforge.verify(copy)


def test_the_verbs_after_the_build_work_on_the_package(nano_build: BuildResult, tmp_path: Path) -> None:
    assert nano_build.package is not None
    made = phiforge.report([nano_build.package], output=tmp_path / "report").fleet
    assert made.report_for("cpu-x64").verdict == nano_build.verdicts["cpu-x64"]
    evidence = phiforge.bench(nano_build.package, target="cpu-x64", output=tmp_path / "evidence")
    merged = phiforge.report([nano_build.package], output=tmp_path / "merged", evidence=list(evidence.values())).fleet
    assert merged.report_for("cpu-x64").latency != made.report_for("cpu-x64").latency
    answer = "".join(phiforge.chat(nano_build.package).say("What is 12 + 34?"))
    assert answer.endswith("46")


def _unshared_pipeline(folder: Path) -> str:
    """A head of 8 bits beside a table of 4, calibrated, from a tied checkpoint."""
    text = (Path(__file__).parents[2] / "pipelines" / "cpu-int4-k-quant.yaml").read_text(encoding="utf-8")
    changes = {
        "algorithm: k-quant": "algorithm: awq",
        "embedding_bits: 8": "embedding_bits: 4\n    shared_embeddings: false",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "unshared.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("pipeline", "shape"),
    [
        pytest.param(
            "cpu-int4-k-quant",
            {"tied": False, "longrope": False, "hidden_size": 128, "intermediate_size": 320, "head_count": 2},
            marks=pytest.mark.long,
        ),
        (
            "cpu-int4",
            {"tied": False, "longrope": True, "shards": 2, "dtype": "float16", "hidden_size": 128, "kv_head_count": 1},
        ),
        pytest.param("cpu-int4-k-quant", {"tied": True, "longrope": False, "layer_count": 3}, marks=pytest.mark.long),
        pytest.param("unshared", {"tied": True, "longrope": False}, marks=pytest.mark.long),
    ],
    ids=["untied, other widths", "untied longrope in shards", "tied without longrope", "tied, not shared"],
)
def test_other_shapes_go_through_the_same_command(tmp_path: Path, pipeline: str, shape: dict[str, object]) -> None:
    checkpoint = make_checkpoint(tmp_path / "other", **shape)  # type: ignore[arg-type]
    if pipeline == "unshared":
        pipeline = _unshared_pipeline(tmp_path)
    result = phiforge.build(checkpoint, targets=["cpu-x64"], pipeline=pipeline, output=tmp_path / "out")
    assert result.package is not None
    variant = variant_folders(result.package)[Path(pipeline).stem]
    assert phiforge.inspect(variant)
    probes = [f for f in result.verdicts["cpu-x64"].findings if f.budget.startswith("probe:")]
    wrong = [f.reason for f in probes if f.outcome is not Outcome.PASS and f.budget != "probe:stopping"]
    assert wrong == []


def test_a_bit_budget_is_spent_on_what_is_measured(small_checkpoint: Path, tmp_path: Path) -> None:
    """The plan says which weights get int8, the graph has them (the build checks it), and the budget is kept."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"id": "a", "text": "one two three four"}\n', encoding="utf-8")
    build = partial(phiforge.build, small_checkpoint, targets=["cpu-x64"], output=tmp_path / "out", texts=texts)
    result = build(target_bpw=5.2)
    (variant,) = result.plan.variants
    raised = variant.workflow["passes"]["quantize"]["int8_modules"]
    assert {weight.module for weight in variant.weights if weight.spec.bits == 8} == set(raised)
    assert 0 < len(raised) < len(variant.weights)
    assert 4.3 < variant.bits_per_weight <= 5.2
    (file,) = (tmp_path / "out" / "store" / "sensitivity").glob("*/sensitivity.json")
    costs = json.loads(file.read_text(encoding="utf-8"))
    assert set(costs) == {weight.module for weight in variant.weights}
    sizes = {weight.module: weight.weights for weight in variant.weights}
    worth = {module: costs[module] / sizes[module] for module in costs}
    left = (5.2 - variant.bits_per_weight) * sum(sizes.values()) / 8
    better = [
        module for module in costs if module not in raised and worth[module] > min(worth[name] for name in raised)
    ]
    assert all(sizes[module] / 2 > left for module in better), "what would have paid more was left out, and fits"
    assert all(stage.reused for stage in build(target_bpw=5.2).stages)
