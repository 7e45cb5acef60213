"""Step times against the table of measured steps, profile by profile."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from statistics import median, quantiles

import pytest

from alto.engines.profiles import profile, profiles
from alto.errors import ConfigError

GRID = Path(__file__).parent.parent / "data" / "engine_step_grid.csv.gz"


def relative_errors(name: str) -> list[float]:
    costs = profile(name).step_costs()
    errors = []
    with gzip.open(GRID, "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["profile"] != name:
                continue
            prompts, length = int(row["n_prompts"]), int(row["prompt_len"])
            decoding, context = int(row["decode_seqs"]), int(row["ctx_per_decode"])
            seconds = costs.step(
                prompts * length,
                decoding,
                decoding * context,
                pairs=prompts * length**2 / 2,
                prompts=prompts,
            )
            errors.append(abs(seconds * 1e3 / float(row["gpu_ms"]) - 1))
    return errors


@pytest.mark.parametrize("name", sorted(profiles()))
def test_step_times_are_near_the_measured_ones(name: str) -> None:
    errors = relative_errors(name)
    assert len(errors) > 600
    assert median(errors) <= 0.04
    assert quantiles(errors, n=10)[-1] <= 0.18


def test_a_step_is_the_two_slope_formula() -> None:
    costs = profile("llama-3-8b_h100_tp1").step_costs()
    # 100 + 400 tokens pass t0 = 370: 6.716 + 0.00682 * 370 + 0.02132 * 130 + 0.001533 * 100
    #     + 4.372e-5 * 51200 + 6.795e-7 * 80000 = 14.4572 ms
    assert costs.step(400, 100, 51_200, pairs=80_000, prompts=1) == pytest.approx(14.4571e-3, 1e-5)


def test_host_time_grows_with_the_sequences_of_a_step() -> None:
    chosen = profile("llama-3-8b_h100_tp1")
    lean, heavy = chosen.step_costs(), chosen.step_costs(host_overhead=True)
    extra = heavy.step(512, 9, 900, prompts=1) - lean.step(512, 9, 900, prompts=1)
    assert extra == pytest.approx((0.7668 + 0.04438 * 10) * 1e-3)


def test_twice_the_speed_is_half_the_time() -> None:
    chosen = profile("llama-3-8b_h100_tp1")
    once, twice = chosen.step_costs(), chosen.step_costs(speed=2.0)
    assert twice.step(512, 9, 900) == pytest.approx(once.step(512, 9, 900) / 2)
    assert twice.per_kv_token == pytest.approx(once.per_kv_token / 2)


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="llama-3-8b_h100_tp1"):
        profile("llama3-8b-h100")
