"""Transfer, universal, spatial and patch attacks against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import records

from auditor import NotApplicable
from auditor.data.dataset import Batch
from auditor.errors import BadInput
from auditor.plugins.attacks._patch_training import paste
from auditor.plugins.attacks._spatial_transform import Move, moved
from auditor.plugins.attacks.patch import Patch
from auditor.plugins.attacks.spatial import Spatial
from auditor.plugins.attacks.universal import Universal
from auditor.probes.base import Randomness, RunContext
from auditor.probes.splits import in_training_half, training_images
from auditor.run.request import Request
from auditor.run.session import run

SHAPE = (1, 4, 4)
RNG = np.random.default_rng(5)
WEIGHTS = RNG.normal(size=(2, 16)).astype(np.float32)
PIXELS = RNG.uniform(0.2, 0.8, (60, 4, 4)).astype(np.float32)
# centred on the boundary, so that both classes occur
BIAS = np.array([0, float((PIXELS.reshape(60, -1) @ (WEIGHTS[0] - WEIGHTS[1])).mean())], dtype=np.float32)
MARGINS = PIXELS.reshape(60, -1) @ (WEIGHTS[0] - WEIGHTS[1]) + BIAS[0] - BIAS[1]


@pytest.fixture(scope="module")
def models(linear_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a linear model of two classes with its images, and surrogates: scaled, negated, of three classes."""
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
            model=models / "model.onnx",
            data=models / "data.npz",
            probes=[probe_id],
            out=tmp_path / "run",
            formats=(),
            **options,
        )
        (record,) = run(request).audit["probes"]
        return record

    return call


def robust(record: dict[str, Any]) -> dict[float, float]:
    return {round(m["at"]["epsilon"] * 255): m["value"] for m in record["metrics"] if m["name"] == "robust_accuracy"}


def test_transfer_from_an_identical_model_equals_white_box(audited: Any, models: Path) -> None:
    """On a linear model of two classes the sign of the gradient is optimal: margin against epsilon |w|_1."""
    record = audited("attacks.transfer", surrogates=[models / "same.onnx"])
    reach = float(np.abs(WEIGHTS[0] - WEIGHTS[1]).sum())
    for n, value in robust(record).items():
        # no pixel is clipped to [0, 1]
        assert value == pytest.approx(float((np.abs(MARGINS) > n / 255 * reach).mean())), n
    assert 0.1 < robust(record)[8] < 0.9


@pytest.mark.parametrize("probe_id", ["attacks.fgsm", "attacks.transfer"])
def test_step_by_snr_has_the_requested_ratio(probe_id: str, audited: Any, models: Path, tmp_path: Path) -> None:
    suite = tmp_path / "by-snr.toml"
    suite.write_text(f'title = "SNR"\nprobes = ["{probe_id}"]\n[settings."{probe_id}"]\nsnrs = [20, 50, 30]\n')
    surrogates = [models / "same.onnx"] if probe_id == "attacks.transfer" else []
    record = audited(probe_id, suite=str(suite), surrogates=surrogates)
    found = {m["at"]["snr"]: m["value"] for m in record["metrics"] if "snr" in m["at"]}
    assert list(found) == [50, 30, 20]
    # one step of the L-inf ball has the same size at all 16 pixels
    pace = np.linalg.norm(PIXELS.reshape(60, -1), axis=1) / 4 * np.abs(WEIGHTS[0] - WEIGHTS[1]).sum()
    for snr, value in found.items():
        assert value == pytest.approx(float((np.abs(MARGINS) > 10 ** (-snr / 20) * pace).mean()), abs=1e-6), snr
    assert found[50] > found[20]
    assert record["findings"][-1]["evidence"][0]["x"]["unit"] == "dB"
    # the sweep over epsilon and its key metric are unchanged
    assert record["findings"][0]["metric"]["at"]["norm"] == "linf"
    assert len(robust({"metrics": [m for m in record["metrics"] if "epsilon" in m["at"]]})) >= 4


def test_matrix_has_the_success_rate_of_every_pair_of_models(audited: Any, models: Path) -> None:
    record = audited("attacks.transfer", surrogates=[models / "opposite.onnx", models / "same.onnx"])
    evidence = record["findings"][0]["evidence"]
    heat = next(item for item in evidence if item["kind"] == "heat-map")
    assert heat["row_labels"] == ["audited model", "opposite", "same"]
    own, opposite, same = np.array(heat["values"], dtype=float)
    # the opposite model misclassifies every clean image, so its column is empty; its loss falls where ours rises
    assert np.isnan([own[1], opposite[1], same[1]]).all()
    assert own[0] == same[0] == own[2] == same[2] > 0.1
    assert opposite[0] == opposite[2] == 0
    table = next(item for item in evidence if item["title"] == "Success on the audited model, by surrogate")
    assert [row[1]["value"] for row in table["rows"]] == pytest.approx([0, own[0]])


def test_transfer_without_surrogates_is_not_applicable(audited: Any) -> None:
    record = audited("attacks.transfer")
    assert (record["status"], record["reason"]) == ("not-applicable", "no other model was given (--surrogate MODEL)")


def test_changed_surrogate_file_is_measured_again(audited: Any, models: Path, tmp_path: Path) -> None:
    path = tmp_path / "surrogate.onnx"
    path.write_bytes((models / "opposite.onnx").read_bytes())
    assert robust(audited("attacks.transfer", surrogates=[path]))[8] == 1
    path.write_bytes((models / "same.onnx").read_bytes())
    assert robust(audited("attacks.transfer", surrogates=[path]))[8] < 0.9


def test_invalid_surrogate_is_refused(audited: Any, models: Path) -> None:
    with pytest.raises(BadInput, match="no such file; expected a model for the same classes"):
        audited("attacks.transfer", surrogates=[models / "none.onnx"])
    with pytest.raises(BadInput, match=r"add --probe attacks\.transfer"):
        audited("attacks.noise", surrogates=[models / "same.onnx"])
    record = audited("attacks.transfer", surrogates=[models / "three.onnx"])
    assert record["status"] == "error"
    assert "3 classes; expected" in record["reason"]


def test_quarter_turn_and_shift_equal_numpys() -> None:
    images = RNG.uniform(0, 1, (3, 2, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(moved(images, Move(90, 0, 0)), np.rot90(images, axes=(2, 3)), atol=1e-5)
    np.testing.assert_allclose(moved(images, Move(180, 0, 0)), images[:, :, ::-1, ::-1], atol=1e-5)
    down = np.zeros_like(images)
    down[:, :, 2:, :-1] = images[:, :, :-2, 1:]
    np.testing.assert_allclose(moved(images, Move(0, 2 / 6, -1 / 6)), down, atol=1e-5)
    assert moved(images, Move(0, 0, 0)) is images
    # rotated first, then translated
    both = moved(moved(images, Move(90, 0, 0)), Move(0, 1 / 6, 0))
    np.testing.assert_allclose(moved(images, Move(90, 1 / 6, 0)), both, atol=1e-5)
    # a wide image is rotated by the same angle, without shear
    wide = np.zeros((1, 1, 5, 9), dtype=np.float32)
    wide[0, 0, 2, 4:7] = 1
    upright = np.zeros_like(wide)
    upright[0, 0, 0:3, 4] = 1
    np.testing.assert_allclose(moved(wide, Move(90, 0, 0)), upright, atol=1e-5)


@pytest.mark.parametrize(
    "how", [{"angles": 2}, {"shifts": 4}, {"angles": -1}, {"rotation": 200.0}, {"translation": 1.0}]
)
def test_grid_without_the_unmoved_image_is_refused(how: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        Spatial(**how)


def test_spatial_attack_is_the_worst_position_of_its_grid(audited: Any, models: Path) -> None:
    """Expected: the linear model on each image at each position."""
    record = audited("attacks.spatial")
    images, labels = PIXELS[:, None], MARGINS < 0
    wrong = []
    for move in Spatial().grid():
        margins = moved(images, move).reshape(60, -1) @ (WEIGHTS[0] - WEIGHTS[1]) + BIAS[0] - BIAS[1]
        wrong.append((margins < 0) != labels)
    expected = 1 - np.any(wrong, axis=0).mean()
    robust_, _, chance = record["metrics"][:3]
    assert robust_["value"] == pytest.approx(expected)
    assert chance["value"] == pytest.approx(1 - np.mean(wrong), abs=1e-5)
    assert len({tuple(m["at"].values()) for m in record["metrics"] if m["name"] == "robust_accuracy"}) == 8
    assert record["metrics"][3]["at"] == {"rotation": 0.0, "translation": 0.0}
    assert record["metrics"][3]["value"] == 1


def test_universal_perturbation_of_one_class_is_the_best_step(models: Path, linear_model: Any, tmp_path: Path) -> None:
    """If all images have one class, one step along -w is optimal for each of them."""
    one = MARGINS > 0
    np.savez(tmp_path / "data.npz", images=PIXELS[one], labels=np.zeros(int(one.sum()), dtype=int))
    request = Request(
        model=models / "model.onnx",
        data=tmp_path / "data.npz",
        probes=["attacks.universal"],
        out=tmp_path / "run",
        formats=(),
    )
    (record,) = run(request).audit["probes"]
    reach = float(np.abs(WEIGHTS[0] - WEIGHTS[1]).sum())
    unseen = [i for i in np.flatnonzero(one) if not in_training_half(Randomness(0, "attacks.universal"), f"{i:06d}")]
    table = next(e for e in record["findings"][0]["evidence"] if "held-out" in e["title"])
    halves = {(round(row[0] * 255), row[1]): row[2]["value"] for row in table["rows"]}
    assert record["metrics"][0]["n"] + table["rows"][1][3] == one.sum()
    assert record["metrics"][0]["n"] < one.sum(), "half of the images is held out"
    for n, value in robust(record).items():
        every = float((MARGINS[one] > n / 255 * reach).mean())
        seen, held = halves.get((n, "training half"), 0), halves.get((n, "held out"), 0)
        m = record["metrics"][0]["n"]
        share = (seen * (one.sum() - m) + held * m) / one.sum()
        assert share == pytest.approx(1 - every, abs=1e-6), n
        assert value == pytest.approx(1 - held)
    assert len(unseen) > 0


def test_half_of_an_image_depends_only_on_its_id() -> None:
    rng = Randomness(3, "attacks.patch")
    ids = [f"{i:03d}" for i in range(400)]
    training = [i for i in ids if in_training_half(rng, i)]
    assert 150 < len(training) < 250
    labels = np.arange(400) % 2
    probabilities = np.eye(2, dtype=np.float32)[np.where(np.arange(400) % 5 == 0, 1 - labels, labels)]
    whole = Batch(
        ids=tuple(ids), pixels=np.zeros((400, 1, 2, 2), np.float32), labels=labels, probabilities=probabilities
    )

    def run_on(image_ids: Any) -> RunContext:
        asked: Any = {"classifier": None, "probes": (), "rng": rng}
        return RunContext(ids=image_ids, batch=lambda wanted: whole.take([ids.index(i) for i in wanted]), **asked)

    chosen = training_images(run_on(ids), 50)
    assert set(chosen.ids) <= set(training)
    assert 30 <= len(chosen) <= 50
    assert (chosen.predictions == chosen.labels).all()
    assert training_images(run_on(ids[::-1]), 50).ids == chosen.ids
    with pytest.raises(NotApplicable, match="none of 1 images"):
        training_images(run_on([next(i for i in ids if i not in training)]), 50)


def test_patch_is_pasted_at_the_given_corner() -> None:
    images = np.zeros((2, 1, 4, 4), dtype=np.float32)
    pasted = paste(images, np.full((1, 2, 2), 0.5, dtype=np.float32), [(0, 1), (2, 2)])
    assert pasted.sum() == 4
    assert (pasted[0, 0, :2, 1:3] == 0.5).all()
    assert (pasted[1, 0, 2:, 2:] == 0.5).all()
    assert not images.any()


def test_patch_for_a_brightness_model_is_white(models: Path, linear_model: Any, tmp_path: Path) -> None:
    """Class 1 is bright: on dark images the best patch is white, and its effect has a closed form."""
    images = RNG.uniform(0, 0.4, (80, 4, 4)).astype(np.float32)
    light = images.reshape(80, -1).sum(axis=1)
    limit = float(np.median(light)) + 3.2
    keep = light < limit
    linear_model(tmp_path / "light.onnx", np.stack([np.zeros(16), np.ones(16)]), np.array([limit, 0]), SHAPE)
    np.savez(tmp_path / "data.npz", images=images[keep], labels=np.zeros(int(keep.sum()), dtype=int))
    (tmp_path / "suite.toml").write_text('probes = ["attacks.patch"]\n[settings."attacks.patch"]\nblocks = [0.5]\n')
    request = Request(
        model=tmp_path / "light.onnx",
        data=tmp_path / "data.npz",
        suite=str(tmp_path / "suite.toml"),
        formats=(),
        out=tmp_path / "run",
    )
    (record,) = run(request).audit["probes"]
    found = {m["name"]: m for m in record["metrics"]}
    rng, misclassified = Randomness(0, "attacks.patch"), []
    kept = images[keep]
    for i, image in enumerate(kept):
        image_id = f"{i:06d}"
        if in_training_half(rng, image_id):
            continue
        for place in range(3):
            top, left = rng(image_id, f"place {place}").integers(0, [3, 3])
            covered = image.copy()
            covered[top : top + 2, left : left + 2] = 1
            misclassified.append(covered.sum() > limit)
    assert 0.1 < np.mean(misclassified) < 0.9
    assert found["attack_success_rate"]["value"] == pytest.approx(np.mean(misclassified), abs=1e-5)
    assert found["control_success_rate"]["value"] < found["attack_success_rate"]["value"]


@pytest.mark.parametrize("how", [{"blocks": ()}, {"blocks": (1.5,)}, {"places": 0}, {"iterations": 0}])
def test_invalid_patch_settings_are_refused(how: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        Patch(**how)


def test_no_held_out_image_is_inconclusive() -> None:
    empty = records(pd.DataFrame({"image_id": []}))
    for probe in (Universal(), Patch(), Spatial()):
        assert probe.conclude(empty).inconclusive
