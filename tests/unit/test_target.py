from __future__ import annotations

from pathlib import Path

import pytest

from phiforge import errors
from phiforge.target import load_profile, parse_profile

PROFILE = Path(__file__).parents[2] / "targets" / "cpu-x64.toml"


def _broken(tmp_path: Path, old: str, new: str) -> Path:
    text = PROFILE.read_text(encoding="utf-8")
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
