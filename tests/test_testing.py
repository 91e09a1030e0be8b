"""`auditor.testing`: the closed forms of its classifiers hold, and its pytest plugin names mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from auditor.plugin import registry
from auditor.probes.base import Randomness
from auditor.testing import biased, conclude, constant, linear, masked, measure, randomised

PROBES = registry.load().probes


def accuracy(known) -> float:  # type: ignore[no-untyped-def]
    batch = known.batch
    return float((known.classifier.predict(batch.pixels).argmax(axis=1) == batch.labels).mean())


@pytest.mark.parametrize("make", [linear, masked, constant, biased])
def test_stated_accuracy_is_that_of_the_answers(make) -> None:  # type: ignore[no-untyped-def]
    known = make()
    assert accuracy(known) == known.accuracy
    assert conclude(PROBES["performance.accuracy"](), known).metrics[0].value == pytest.approx(known.accuracy)


def test_randomised_answers_are_wrong_with_the_stated_probability() -> None:
    known = randomised(noise=3.0)
    repeats = 400
    wrong = np.mean(
        [known.classifier.predict(known.batch.pixels).argmax(1) != known.batch.labels for _ in range(repeats)], axis=0
    )
    expected = known.error_probability()
    # five standard errors
    assert (np.abs(wrong - expected) <= 5 * np.sqrt(expected * (1 - expected) / repeats) + 1e-9).all()
    assert known.accuracy == pytest.approx(1 - expected.mean())
    assert 0.6 < known.accuracy < 0.95


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_minimum_norm_search_finds_the_distances_of_the_linear_model(norm: str) -> None:
    known = linear()
    search = PROBES["attacks.deepfool"](norms=(norm,))  # type: ignore[call-arg]
    images, _, found = search.nearest(known.classifier, known.batch, Randomness(0, "x"), norm)  # type: ignore[attr-defined]
    order = {"linf": np.inf, "l2": 2}[norm]
    lengths = np.linalg.norm((images - known.batch.pixels).reshape(24, -1), ord=order, axis=1)
    assert found.all()
    np.testing.assert_allclose(lengths, known.distance(norm), rtol=2e-3)


@pytest.mark.parametrize("make", [linear, masked])
def test_robust_accuracy_is_that_of_the_best_perturbation(make) -> None:  # type: ignore[no-untyped-def]
    known = make()
    towards = np.where(known.batch.labels == 0, -1, 1)[:, None] * known.weights
    for epsilon in (0.5 / 255, 2 / 255, 7.9 / 255, 9 / 255, 20 / 255):
        # every pixel at the end of its interval, against the label: nothing in the L-infinity ball is worse
        worst = known.batch.pixels + np.float32(epsilon) * towards.reshape(known.batch.pixels.shape)
        right = known.classifier.predict(worst.astype(np.float32)).argmax(axis=1) == known.batch.labels
        assert right.mean() == known.robust_accuracy("linf", epsilon)


def test_masked_model_has_no_gradient_and_no_closed_form_in_l2() -> None:
    known = masked()
    assert float(known.classifier.gradient(known.batch.pixels).abs().max()) == 0.0
    with pytest.raises(ValueError, match="expected linf"):
        known.robust_accuracy("l2", 0.5)


def test_accuracy_of_the_biased_model_differs_between_the_groups() -> None:
    frame = measure(PROBES["bias.groups"](), biased()).frame
    assert frame.groupby("group:side")["correct"].mean().to_dict() == {"left": 1.0, "right": 0.5}


def run_pytest(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    # another name each time: the module remains imported
    module = folder / f"{folder.name}.py"
    module.write_text("import pytest\n" + text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    options = ["--import-mode=importlib", "-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider", "-p", "no:xdist"]
    status = pytest.main([*options, str(module)])
    return int(status), capsys.readouterr().out


def test_test_without_a_package_is_refused_with_the_marker_to_add(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output = run_pytest(tmp_path, "def test_it(plugin_check):\n    pass\n", capsys)
    assert status != 0
    assert "@pytest.mark.auditor_plugin(" in output


def test_unknown_package_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        '@pytest.mark.auditor_plugin("no-such")\n'
        'def test_it(plugin_check):\n    assert plugin_check.outcome == "ok", plugin_check.message\n'
    )
    status, output = run_pytest(tmp_path, text, capsys)
    assert status == 1
    assert "no such folder and no installed package of this name" in output
