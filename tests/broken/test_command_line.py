"""Every bad input, typed: one clear message, its own exit code, no traceback, nothing under a final name."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from broken.checkpoints import BROKEN_CHECKPOINTS, make_checkpoint
from phiforge import cli, errors
from phiforge.checkpoint.nano import CHECKPOINT_DIR, EVAL_DIR
from phiforge.evidence import dump_evidence
from phiforge.hashing import hash_files, hash_listing
from phiforge.tuning import load_tuning
from phiforge.verbs import defaults
from unit.reporting import samples

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Type a command; returns its exit code and all it printed."""
    monkeypatch.chdir(ROOT)

    def typed(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["phiforge", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out + err

    return typed


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "ckpt", hidden_size=128)


def _assert_told(code: int, text: str, error: type[errors.PhiforgeError]) -> None:
    assert code == error.exit_code, text
    assert f"Error {code}:" in text
    assert all(part in text for part in ("Why:", "Do:", f"Read: docs/errors.md#{code}"))
    assert "Traceback" not in text


def _assert_nothing_made(output: Path) -> None:
    left = [path for path in output.rglob("*") if path.is_file() and path.name != ".lock" and "notes" not in path.parts]
    assert left == []


@pytest.mark.parametrize("name", BROKEN_CHECKPOINTS)
def test_broken_checkpoint(run: Run, checkpoint: Path, tmp_path: Path, name: str) -> None:
    broken = BROKEN_CHECKPOINTS[name]
    broken.break_it(checkpoint)
    code, text = run("build", checkpoint, "--target", "cpu-x64", "--output", tmp_path / "out")
    _assert_told(code, text, broken.error)
    _assert_nothing_made(tmp_path / "out")


def test_unknown_profile(run: Run, checkpoint: Path) -> None:
    code, text = run("build", checkpoint, "--target", "cpu-x46")
    _assert_told(code, text, errors.ProfileUnknownError)
    assert "Did you mean 'cpu-x64'?" in text


def test_unknown_pipeline(run: Run, checkpoint: Path) -> None:
    code, text = run("build", checkpoint, "--target", "cpu-x64", "--pipeline", "cpu-in4")
    _assert_told(code, text, errors.PipelineUnknownError)
    assert "Did you mean 'cpu-int4'?" in text


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("kl_mean_nats_max", "kl_mean_nats_maximum", "unknown key"),
        ("peak_anon_bytes_max", "peak_anon_gb_max", "did you mean peak_anon_bytes_max"),
        ("decode_tokens_per_s_min = 5.0", 'decode_tokens_per_s_min = "5 tokens/s"', "decode_tokens_per_s_min"),
    ],
)
def test_broken_profile(run: Run, checkpoint: Path, tmp_path: Path, old: str, new: str, named: str) -> None:
    text = (ROOT / "targets" / "cpu-x64.toml").read_text(encoding="utf-8")
    assert old in text
    profile = tmp_path / "mine.toml"
    profile.write_text(text.replace(old, new), encoding="utf-8")
    code, printed = run("build", checkpoint, "--target", profile)
    _assert_told(code, printed, errors.ProfileInvalidError)
    assert named in printed


def test_blocks_that_do_not_fit(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    text = (ROOT / "pipelines" / "cpu-int4-k-quant.yaml").read_text(encoding="utf-8")
    pipeline = tmp_path / "wide.yaml"
    pipeline.write_text(text.replace("block_size: 32", "block_size: 256"), encoding="utf-8")
    code, printed = run("build", checkpoint, "--target", "cpu-x64", "--pipeline", pipeline, "-o", tmp_path / "out")
    _assert_told(code, printed, errors.PipelineInvalidError)


def test_too_little_memory(run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=100_000_000))
    code, text = run("build", checkpoint, "--target", "cpu-x64", "--output", tmp_path / "out")
    _assert_told(code, text, errors.MemoryTooSmallError)
    _assert_nothing_made(tmp_path / "out")


def test_what_would_fit_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPTQ holds a layer of 128 M weights; k-quant, which needs no layer, fits in less."""
    wide = make_checkpoint(tmp_path / "wide", hidden_size=512, intermediate_size=40960, layer_count=1)
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=1_500_000_000))
    code, text = run("build", wide, "--target", "cpu-x64", "--output", tmp_path / "out")
    _assert_told(code, text, errors.MemoryTooSmallError)
    assert "What fits: --pipeline cpu-int4-k-quant" in text
    _assert_nothing_made(tmp_path / "out")


def test_calibration_on_what_is_asked_later(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    held_out = json.loads(defaults.default_texts().read_text(encoding="utf-8").splitlines()[3])
    lines = defaults.default_calibration().read_text(encoding="utf-8")
    leaking = tmp_path / "leaking.jsonl"
    hidden = {"id": "harmless", "text": f"Some words before. {held_out['text'].upper()}  And after."}
    leaking.write_text(lines + json.dumps(hidden) + "\n", encoding="utf-8")
    code, told = run("build", checkpoint, "--target", "cpu-x64", "--calibration", leaking, "--output", tmp_path / "out")
    _assert_told(code, told, errors.LeakageError)
    _assert_nothing_made(tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b'{"id": "a", "text": "short"}\n'])
def test_calibration_texts_that_are_none(run: Run, checkpoint: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "calibration.jsonl"
    file.write_bytes(content)
    code, told = run("build", checkpoint, "--target", "cpu-x64", "--calibration", file, "--output", tmp_path / "out")
    _assert_told(code, told, errors.CalibrationInvalidError)
    _assert_nothing_made(tmp_path / "out")


def test_a_target_below_what_the_codes_take(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, told = run("build", checkpoint, "--target", "cpu-x64", "--target-bpw", "4.1", "--output", tmp_path / "out")
    _assert_told(code, told, errors.PipelineInvalidError)
    assert "cannot reach 4.1 bits" in told


def test_too_little_disk(run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
    code, text = run("build", checkpoint, "--target", "cpu-x64", "--output", tmp_path / "out")
    _assert_told(code, text, errors.DiskFullError)
    _assert_nothing_made(tmp_path / "out")


def test_output_in_use(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    store = tmp_path / "out" / "store"
    store.mkdir(parents=True)
    with FileLock(store / ".lock"):
        code, text = run("build", checkpoint, "--target", "cpu-x64", "--output", tmp_path / "out")
    _assert_told(code, text, errors.OutputLockedError)


def test_no_variant(run: Run, tmp_path: Path) -> None:
    code, text = run("bench", tmp_path, "--target", "cpu-x64")
    _assert_told(code, text, errors.VariantUnusableError)


def _model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "genai_config.json").write_text("{}", encoding="utf-8")
    return folder


def test_no_drift_evidence(run: Run, tmp_path: Path) -> None:
    code, text = run("tune", _model_folder(tmp_path / "model"), "--target", "cpu-x64", "-o", tmp_path / "out")
    _assert_told(code, text, errors.NoCandidateError)
    assert "no drift evidence" in text
    assert load_tuning(tmp_path / "out" / "tuning.json").choice is None


def test_no_candidate_within_the_budgets(run: Run, tmp_path: Path) -> None:
    folder = _model_folder(tmp_path / "model")
    drift = samples.drift(variant_sha256=hash_listing(hash_files(folder)))
    far = drift.model_copy(update={"perplexity_ratio": 1.5})
    (tmp_path / "drift.json").write_text(dump_evidence(far), encoding="utf-8")
    code, text = run("tune", folder, "-t", "cpu-x64", "-e", tmp_path / "drift.json", "-o", tmp_path / "out")
    _assert_told(code, text, errors.NoCandidateError)
    assert "Perplexity ratio is 1.5, over the maximum of 1.05." in text


def test_no_tuning(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_text("{}", encoding="utf-8")
    for name in ("tuning.json", "absent.json"):
        code, text = run("chat", _model_folder(tmp_path / name[:3]), "--tuning", tmp_path / name)
        _assert_told(code, text, errors.EvidenceInvalidError)


def test_no_package(run: Run, tmp_path: Path) -> None:
    code, text = run("verify", tmp_path)
    _assert_told(code, text, errors.PackageInvalidError)


def test_climbing_manifest(run: Run, tmp_path: Path) -> None:
    manifest = {
        "schema_version": "1.0",
        "package_name": "x",
        "package_version": "1",
        "description": "",
        "components": {"model": "../outside"},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    code, text = run("inspect", tmp_path)
    _assert_told(code, text, errors.UnsafePathError)


def test_no_arguments_is_wrong_usage(run: Run) -> None:
    code, text = run("build")
    assert code == 2
    assert "Traceback" not in text


def test_no_project(run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phiforge import catalog

    monkeypatch.setattr(catalog, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    monkeypatch.chdir(tmp_path)
    code, text = run("targets")
    _assert_told(code, text, errors.ProjectNotFoundError)


def test_changed_evaluation_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "eval"
    shutil.copytree(EVAL_DIR, data)
    tasks = data / "tasks" / "facts.jsonl"
    tasks.write_text(tasks.read_text(encoding="utf-8").replace("1652", "1653"), encoding="utf-8")
    shutil.copytree(CHECKPOINT_DIR, tmp_path / CHECKPOINT_DIR.name)
    monkeypatch.setattr(defaults, "EVAL_DIR", data)
    monkeypatch.setattr(defaults, "CHECKPOINT_DIR", tmp_path / CHECKPOINT_DIR.name)
    with pytest.raises(errors.LeakageError) as caught:
        defaults.default_texts()
    assert "tasks/facts.jsonl" in caught.value.why
