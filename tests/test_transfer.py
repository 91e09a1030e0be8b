"""Attacks that know less than the gradient at the image: made on other models, for all images at once, or by place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.engine import Request, run
from auditor.errors import BadInput

SHAPE = (1, 4, 4)
RNG = np.random.default_rng(5)
WEIGHTS = RNG.normal(size=(2, 16)).astype(np.float32)
PIXELS = RNG.uniform(0.2, 0.8, (60, 4, 4)).astype(np.float32)
# the middle of the images lies on the border, so that both classes occur
BIAS = np.array([0, float((PIXELS.reshape(60, -1) @ (WEIGHTS[0] - WEIGHTS[1])).mean())], dtype=np.float32)
MARGINS = PIXELS.reshape(60, -1) @ (WEIGHTS[0] - WEIGHTS[1]) + BIAS[0] - BIAS[1]


@pytest.fixture(scope="module")
def models(linear_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear model of two classes with its images, and surrogates: the same, one that looks at nothing of it."""
    folder = tmp_path_factory.mktemp("models")
    np.savez(folder / "data.npz", images=PIXELS, labels=(MARGINS < 0).astype(int))
    linear_model(folder / "model.onnx", WEIGHTS, BIAS, SHAPE)
    linear_model(folder / "same.onnx", 3 * WEIGHTS, 3 * BIAS, SHAPE)
    linear_model(folder / "opposite.onnx", -WEIGHTS, -BIAS, SHAPE)
    linear_model(folder / "three.onnx", np.ones((3, 16)), np.zeros(3), SHAPE)
    return folder


@pytest.fixture
def audited(models: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(probe_id: str, **options: Any) -> dict[str, Any]:
        request = Request(
            model=models / "model.onnx", data=models / "data.npz", probes=[probe_id], out=tmp_path / "run", formats=(),
            **options,
        )  # fmt: skip
        (record,) = run(request).audit["probes"]
        return record

    return call


def robust(record: dict[str, Any]) -> dict[float, float]:
    return {round(m["at"]["epsilon"] * 255): m["value"] for m in record["metrics"] if m["name"] == "robust_accuracy"}


def test_from_its_own_twin_everything_transfers(audited: Any, models: Path) -> None:
    """On a linear model of two classes the sign of the gradient is the best there is: margin against epsilon |w|_1."""
    record = audited("attacks.transfer", surrogates=[models / "same.onnx"])
    reach = float(np.abs(WEIGHTS[0] - WEIGHTS[1]).sum())
    for n, value in robust(record).items():
        # clipping to [0, 1] binds nowhere
        assert value == pytest.approx(float((np.abs(MARGINS) > n / 255 * reach).mean())), n
    assert 0.1 < robust(record)[8] < 0.9


def test_the_matrix_says_whose_images_fool_whom(audited: Any, models: Path) -> None:
    record = audited("attacks.transfer", surrogates=[models / "opposite.onnx", models / "same.onnx"])
    evidence = record["findings"][0]["evidence"]
    heat = next(item for item in evidence if item["kind"] == "heat-map")
    assert heat["row_labels"] == ["audited model", "opposite", "same"]
    own, opposite, same = np.array(heat["values"], dtype=float)
    # the opposite model gets every clean image wrong, so there is nothing to fool it on; its loss
    # falls where ours rises
    assert np.isnan([own[1], opposite[1], same[1]]).all()
    assert own[0] == same[0] == own[2] == same[2] > 0.1
    assert opposite[0] == opposite[2] == 0
    table = next(item for item in evidence if item["title"] == "On the audited model, by surrogate")
    assert [row[1]["value"] for row in table["rows"]] == pytest.approx([0, own[0]])


def test_without_surrogates_transfer_does_not_apply(audited: Any) -> None:
    record = audited("attacks.transfer")
    assert (record["status"], record["reason"]) == ("not-applicable", "no other model was given (--surrogate MODEL)")


def test_another_surrogate_file_is_measured_afresh(audited: Any, models: Path, tmp_path: Path) -> None:
    path = tmp_path / "surrogate.onnx"
    path.write_bytes((models / "opposite.onnx").read_bytes())
    assert robust(audited("attacks.transfer", surrogates=[path]))[8] == 1
    path.write_bytes((models / "same.onnx").read_bytes())
    assert robust(audited("attacks.transfer", surrogates=[path]))[8] < 0.9


def test_what_cannot_be_a_surrogate_is_refused(audited: Any, models: Path) -> None:
    with pytest.raises(BadInput, match="no such file; expected a model for the same classes"):
        audited("attacks.transfer", surrogates=[models / "none.onnx"])
    with pytest.raises(BadInput, match=r"add --probe attacks\.transfer"):
        audited("attacks.noise", surrogates=[models / "same.onnx"])
    record = audited("attacks.transfer", surrogates=[models / "three.onnx"])
    assert record["status"] == "error"
    assert "has 3 classes; expected" in record["reason"]
