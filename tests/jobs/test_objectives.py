"""Masked language modelling by the same jobs: it trains, goes on where it was left, and is evaluated."""

from pathlib import Path

from reformer_dist import load_config
from reformer_dist.scoring.evaluation import evaluate
from tests.jobs.running import points, run_job

MASKED = {
    "objective__name": "masked",
    "model__causal": "false",
    "model__vocab_size": 257,
    "train__dtype": "float64",
    "train__validate_every": 4,
    "train__checkpoint_every": 4,
    "data__validation_fraction": 0.2,
}


def test_masked_trains_goes_on_and_is_evaluated(place: Path) -> None:
    whole = run_job(place, train__run_name="masked", train__steps=8, **MASKED)
    assert (whole.status, whole.errors) == (0, "")
    assert "bits/masked byte" in whole.output
    expected = points(place, whole)
    assert [step for step, _ in expected["validation/accuracy"]] == [4, 8]
    assert [step for step, _ in expected["baseline/bits_per_token"]] == [0]
    assert {"baseline/loss", "baseline/accuracy"} < expected.keys()

    half = str(place / "runs/masked/1/step_00000004")
    rest = run_job(place, train__run_name="masked_rest", train__resume=half, train__steps=8, **MASKED)
    assert "continuing from step 4" in rest.output
    found = points(place, rest)
    for metric in ("train/loss", "train/grad_norm", "validation/loss", "validation/accuracy"):
        assert found[metric] == [(step, value) for step, value in expected[metric] if step > 4], metric
    assert len(found["baseline/bits_per_token"]) == 1, "once in a run"

    fields = {"train.storage": str(place / "runs"), "train.run_name": "masked", "evaluation.max_sequences": 4}
    result = evaluate(load_config(None, fields))
    assert result.unit == "masked byte"
    for name, value in result.metrics.items():
        assert abs(value / expected[f"validation/{name}"][-1][1] - 1) < 1e-12, name
    assert result.baseline["bits_per_token"] == expected["baseline/bits_per_token"][0][1]
