from __future__ import annotations

import re
from pathlib import Path

import pytest

from phiforge import errors
from phiforge.soc import SOC_MODELS
from phiforge.target import load_profile, parse_profile

TARGETS = Path(__file__).parents[2] / "targets"
PROFILE = TARGETS / "cpu-x64.toml"
NPU_PROFILE = TARGETS / "qnn-x-elite.toml"


def _broken(tmp_path: Path, old: str, new: str, profile: Path = PROFILE) -> Path:
    text = profile.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "broken.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = _broken(tmp_path, "kl_mean_nats_max", "kl_mean_bits_max")
    with pytest.raises(errors.ProfileInvalidError, match="did you mean kl_mean_nats_max"):
        load_profile(path)


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    path = _broken(tmp_path, "kl_mean_nats_max = 0.03", 'kl_mean_nats_max = "0.03 nats"\nttft_p50_s_max = 1')
    with pytest.raises(errors.ProfileInvalidError) as caught:
        load_profile(path)
    assert "kl_mean_nats_max" in caught.value.why
    assert "ttft_p50_s_max" in caught.value.why


@pytest.mark.parametrize("value", ["-1.0", "0.0", "nan", "inf"])
def test_budgets_are_positive_and_finite(tmp_path: Path, value: str) -> None:
    with pytest.raises(errors.ProfileInvalidError, match="kl_mean_nats_max"):
        load_profile(_broken(tmp_path, "kl_mean_nats_max = 0.03", f"kl_mean_nats_max = {value}"))


def test_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[identity", encoding="utf-8")
    with pytest.raises(errors.ProfileInvalidError):
        load_profile(path)


def test_family_budgets_override_the_common_ones() -> None:
    profile = load_profile(PROFILE)
    own = profile.budgets_of("phi-4-nano")
    assert own.decode_tokens_per_s_min == 20.0
    assert own.kl_mean_nats_max == profile.budgets.kl_mean_nats_max
    assert profile.budgets_of("unheard-of") == profile.budgets


def test_profile_survives_json(tmp_path: Path) -> None:
    profile = load_profile(PROFILE)
    path = tmp_path / "p.json"
    path.write_text(profile.model_dump_json(), encoding="utf-8")
    assert parse_profile(path) == profile


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            "soc_model = 60",
            "soc_model = 9999",
            r"npu.soc_model: 9999 is none .* 60 \(SC8380XP\), .* falls back to the CPU",
        ),
        ("soc_model = 60", "soc_model = 69", "soc_model 69 is SM8750 with Hexagon v79"),
        ('"v73"', '"v99"', "architecture is 'v99'"),
        ("context_tokens = 4096", "context_tokens = 4000", "no multiple of window_tokens, 64"),
        ("window_tokens = 64", "window_tokens = 32", "npu.window_tokens"),
        ("part_bytes_max = 700_000_000", "part_bytes_max = 0", "npu.part_bytes_max"),
        ('target = "qnn"', 'target = "cpu"', "^(?!: )the table npu goes with build.target qnn, and only with it"),
        ('device = "npu"', 'device = "gpu"', "are 'qnn' and 'gpu'"),
    ],
)
def test_faults_of_an_npu_are_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(errors.ProfileInvalidError) as caught:
        load_profile(_broken(tmp_path, old, new, NPU_PROFILE))
    assert re.search(named, caught.value.why)


def test_an_npu_profile_needs_its_table(tmp_path: Path) -> None:
    with pytest.raises(errors.ProfileInvalidError, match="the table npu goes with"):
        load_profile(_broken(tmp_path, 'target = "cpu"', 'target = "qnn"'))


@pytest.mark.parametrize("path", sorted(TARGETS.glob("qnn-*.toml")), ids=lambda path: path.stem)
def test_npu_profiles_say_where_their_chip_is_from_and_survive_json(path: Path, tmp_path: Path) -> None:
    profile = load_profile(path)
    assert profile.npu is not None
    assert SOC_MODELS[profile.npu.soc_model].architecture == profile.npu.architecture
    assert str(profile.npu.soc_model) in profile.npu.source
    copy = tmp_path / "p.json"
    copy.write_text(profile.model_dump_json(), encoding="utf-8")
    assert parse_profile(copy) == profile


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("0x10DE", "0x110DE", "hardware.gpu_vendor_id"),
        ("0x10DE", '"NVIDIA"', "hardware.gpu_vendor_id"),
        ("float16_relative_error_max = 0.005", "float16_relative_error_max = 0.0", "float16_relative_error_max"),
        ("float16_relative_error_max", "float16_error_max", "did you mean float16_relative_error_max"),
        ('"directml"', '"dml"', "build.target"),
        ('device = "gpu"', 'device = "dgpu"', "runtime.device"),
    ],
)
def test_faults_of_a_gpu_are_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(errors.ProfileInvalidError) as caught:
        load_profile(_broken(tmp_path, old, new, TARGETS / "directml-nvidia-rtx.toml"))
    assert named in caught.value.why
