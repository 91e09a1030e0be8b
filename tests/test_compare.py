"""Comparing runs: tests and intervals against closed forms, a run against itself, planted regressions, bad input."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from auditor import BadInput, statistics
from auditor.compare import comparison
from auditor.compare.differences import compare_values, correct_p_values
from auditor.findings import formatting
from auditor.findings.metric import Better
from auditor.findings.record import IntervalRecord, MetricRecord, MetricSpecRecord, unknown_spec
from auditor.report.comparison import page
from auditor.run.request import Request
from auditor.run.session import run
from auditor.schemas import validator

Cli = Callable[..., Result]
N, MISSED = 60, 9
ONE_PROBE = 'probes = ["performance.accuracy"]\n'
SUITE = """
probes = ["performance.*", "attacks.fgsm", "attacks.noise", "attacks.occlusion", "metrics.adversarial-distance",
          "bias.groups", "sanity.parity", "corruptions.imagenet-c"]
[settings."attacks.fgsm"]
epsilons = ["2/255", "8/255", "32/255"]
l2_epsilons = [0.5]
[settings."attacks.noise"]
epsilons = ["8/255"]
sigmas = ["32/255"]
snrs = [10.0, 20.0]
[settings."attacks.occlusion"]
fills = ["black"]
[settings."corruptions.imagenet-c"]
corruptions = ["fog", "contrast"]
severities = [2, 4]
"""


# statistics


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (3, 3), (1, 9), (12, 2), (40, 70)])
def test_mcnemar_is_the_two_sided_binomial_test(b: int, c: int) -> None:
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert statistics.mcnemar_two_sided(b, c) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert statistics.mcnemar_two_sided(b, c) == statistics.mcnemar_two_sided(c, b)


def test_interval_of_paired_proportions_by_hand() -> None:
    # Bonett and Price 2012: counts plus one, n plus two; here 5/102 and 14/102
    centre = 9 / 102
    half = 1.959964 * math.sqrt((19 / 102 - centre**2) / 102)
    assert statistics.paired_proportions(4, 13, 100) == pytest.approx((0.09, centre - half, centre + half), abs=1e-6)
    assert statistics.paired_proportions(0, 0, 0) == statistics.NOTHING
    # no disagreement at all is still no proof
    value, low, high = statistics.paired_proportions(0, 0, 100)
    assert value == 0
    assert low == -high
    assert 0 < (high or 0) < 0.05


def test_paired_means_agree_with_the_t_statistic_of_the_differences() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=400)
    second = first + 0.1 + 0.5 * rng.normal(size=400)
    difference = second - first
    (value, low, high), p = statistics.paired_means(first, second)
    error = difference.std(ddof=1) / 20
    assert value == pytest.approx(difference.mean())
    assert (low, high) == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.006)
    z = abs(value) / error
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.5)


def test_tiny_p_values_follow_the_normal_distribution() -> None:
    from scipy.stats import norm

    first = np.random.default_rng(0).normal(size=2000)
    second = first + np.random.default_rng(1).normal(0.5, 1.5, size=2000)
    (value, low, high), p = statistics.paired_means(first, second)
    assert None not in (value, low, high, p)
    z = value / ((high - low) / 2 / 1.96)
    assert np.log10(p) == pytest.approx(np.log10(2 * norm.sf(z)), rel=0.1)
    _, p = statistics.from_intervals(statistics.Interval(0.0, -0.05, 0.05), statistics.Interval(1.0, 0.95, 1.05))
    assert p == pytest.approx(2 * norm.sf(1 / np.hypot(0.05, 0.05) * 1.959964), rel=1e-4)
    assert 0 < p < 1e-100


def test_paired_means_of_the_same_numbers_few_numbers_and_none() -> None:
    same = np.array([0.1, np.nan, 0.7])
    assert statistics.paired_means(same, same) == (statistics.Interval(0.0, 0.0, 0.0), 1.0)
    # three images that all rose by the same: certain for the bootstrap, 1 in 4 for a sign-flip test
    assert statistics.paired_means(np.zeros(3), np.ones(3))[1] == 0.25
    assert statistics.paired_means(np.zeros(1), np.ones(1)) == (statistics.Interval(1.0, None, None), 1.0)
    assert statistics.paired_means(np.full(3, np.nan), np.ones(3)) == (statistics.NOTHING, None)
    # an image that does not count in one run leaves the others' mean alone
    assert statistics.paired_means(np.array([0.0, np.nan]), np.array([1.0, 3.0]))[0].value == 2.0


def test_from_intervals_adds_squares_and_requires_intervals() -> None:
    (value, low, high), p = statistics.from_intervals(
        statistics.Interval(0.5, 0.4, 0.6), statistics.Interval(0.9, 0.6, 1.0)
    )
    assert (value, low, high) == pytest.approx((0.4, 0.4 - math.hypot(0.3, 0.1), 0.4 + math.hypot(0.1, 0.1)))
    assert p == pytest.approx(math.erfc(0.4 / math.hypot(0.3, 0.1) * 1.959964 / math.sqrt(2)), rel=1e-5)
    assert (
        statistics.from_intervals(statistics.Interval(0.5, None, None), statistics.Interval(0.7, 0.6, 0.8))[1] is None
    )
    assert statistics.from_intervals(statistics.NOTHING, statistics.Interval(0.7, 0.6, 0.8)) == (
        statistics.NOTHING,
        None,
    )


@pytest.mark.parametrize(("better", "outcome"), [("higher", "worse"), ("lower", "better"), ("neither", "different")])
def test_outcome_depends_on_the_declared_direction(better: Better, outcome: str) -> None:
    spec: MetricSpecRecord = {**unknown_spec("any_name"), "better": better}
    pair = compare_values((0, 1), [measured(0.9), measured(0.5)], [None, None])
    metric: Any = {"name": "any_name", "at": {}, "unit": "fraction", "headline": True, "values": [], "pairs": [pair]}
    probe: Any = {"metrics": [metric], "metric_specs": [spec]}
    assert correct_p_values([probe]) == {"headline": 1, "other": 0}
    assert pair["outcome"] == outcome


def measured(value: float) -> MetricRecord:
    return {
        "name": "any_name",
        "value": value,
        "low": value - 0.01,
        "high": value + 0.01,
        "n": 100,
        "unit": "fraction",
        "at": {},
    }


def test_differences_and_p_values_as_text() -> None:
    assert formatting.difference("fraction", interval(-0.045, -0.076, 0.013)) == "−4.5 points [−7.6, +1.3]"
    assert formatting.difference("fraction", interval(0.0)) == "0.0 points"
    assert formatting.difference("fraction", interval(None)) == "–"
    assert [formatting.probability(p) for p in (None, 1e-9, 0.03123, 1.0)] == ["–", "< 0.001", "0.031", "1"]


def interval(value: float | None, low: float | None = None, high: float | None = None) -> IntervalRecord:
    return {"value": value, "low": low, "high": high}


# known answers: a threshold on one pixel, moved


@pytest.fixture(scope="module")
def thresholds(tmp_path_factory: pytest.TempPathFactory, write_linear: Callable[..., Path]) -> Path:
    """Models that compare the first pixel with 0.5, or with 0.6, which MISSED of N images lie below; and their runs."""
    folder = tmp_path_factory.mktemp("thresholds")
    first = np.concatenate([np.full(MISSED, 0.55), np.full(N // 2 - MISSED, 0.9), np.full(N // 2, 0.1)])
    images = np.full((N, 2, 2, 1), 0.5, dtype=np.float32)
    images[:, 0, 0, 0] = first
    np.savez(folder / "data.npz", images=images, labels=(first > 0.5).astype(int))
    np.savez(folder / "other.npz", images=images * 0.99, labels=(first > 0.5).astype(int))
    np.savez(folder / "turned.npz", images=images, labels=(first < 0.5).astype(int))
    np.savez(folder / "unlabelled.npz", images=images)
    (folder / "one.toml").write_text(ONE_PROBE)
    for name, limit in (("right", 0.5), ("wrong", 0.6)):
        weights = np.array([[0, 0, 0, 0], [20, 0, 0, 0]], dtype=np.float32)
        write_linear(folder / f"{name}.onnx", weights, np.array([0, -20 * limit]), (1, 2, 2))
        audit(folder, name, "data", name)
    return folder


def audit(folder: Path, model: str, data: str, out: str, samples: int | None = None, **options: Any) -> Path:
    request = Request(
        model=folder / f"{model}.onnx",
        data=folder / f"{data}.npz",
        suite=str(folder / "one.toml"),
        samples=samples,
        out=folder / out,
        formats=(),
        device="cpu",
        **options,
    )
    return run(request).out


def only(comparison: dict[str, Any], name: str = "accuracy") -> dict[str, Any]:
    (pair,) = next(m for m in comparison["probes"][0]["metrics"] if m["name"] == name)["pairs"]
    return dict(pair)


def test_planted_regression_has_the_exact_p_value(thresholds: Path) -> None:
    compared = comparison.compare([thresholds / "right", thresholds / "wrong"])
    pair = only(compared)
    assert pair["test"] == "mcnemar"
    assert pair["only"] == [MISSED, 0]
    assert pair["difference"]["value"] == pytest.approx(-MISSED / N)
    assert pair["p"] == pytest.approx(2 * 0.5**MISSED)
    # one headline number, which has half of the five per cent
    assert compared["tests"]["headline"] == 1
    assert pair["p_adjusted"] == pytest.approx(4 * 0.5**MISSED)
    assert pair["outcome"] == "worse"
    assert compared["verdict"] == "worse"
    assert f"(n = {N} images in common)" in compared["verdict_reason"]
    assert only(compared, "log_loss")["test"] == "bootstrap"
    assert only(compared, "f1")["test"] == "intervals"
    assert comparison.regressed(compared)
    assert not list(validator("compare").iter_errors(compared))


def test_swapped_runs_are_better(thresholds: Path) -> None:
    compared = comparison.compare([thresholds / "wrong", thresholds / "right"])
    assert only(compared)["outcome"] == compared["verdict"] == "better"
    assert only(compared)["only"] == [0, MISSED]
    assert not comparison.regressed(compared)


def test_run_compared_with_itself_has_no_difference(thresholds: Path) -> None:
    compared = comparison.compare([thresholds / "right", thresholds / "right"])
    assert compared["verdict"] == "no-difference"
    assert "does not prove that there is none" in compared["verdict_reason"]
    assert {p["difference"]["value"] for m in compared["probes"][0]["metrics"] for p in m["pairs"]} == {0.0}
    assert [item["what"] for item in compared["differences"]] == ["model"]


def test_three_runs_have_a_leaderboard(thresholds: Path) -> None:
    folders = [thresholds / name for name in ("wrong", "right", "right")]
    compared = comparison.compare(folders)
    assert compared["verdict"] == "ranked"
    assert [(row["rank"], row["run"]) for row in compared["leaderboard"]] == [(1, 1), (1, 2), (3, 0)]
    assert compared["leaderboard"][2] == {
        "rank": 3,
        "points": -2,
        "run": 0,
        "better": 0,
        "worse": 2,
        "no_difference": 0,
    }
    assert not list(validator("compare").iter_errors(compared))
    assert "Leaderboard" in page(compared, paper=False)


def test_metrics_are_computed_again_from_the_common_images(thresholds: Path) -> None:
    audit(thresholds, "wrong", "data", "some", samples=40)
    compared = comparison.compare([thresholds / "wrong", thresholds / "some"])
    assert compared["images"] == {"common": 40, "of": [N, 40], "other_bytes": 0, "other_label": 0}
    assert next(item for item in compared["differences"] if item["what"] == "data")["effect"].startswith("only the 40")
    metric = compared["probes"][0]["metrics"][0]
    assert metric["values"][0] == metric["values"][1]
    assert metric["values"][0]["n"] == 40
    assert compared["verdict"] == "no-difference"


@pytest.mark.parametrize(
    ("data", "message"), [("other", "60 of them with other bytes"), ("turned", "60 with another label")]
)
def test_different_images_with_the_same_id_are_not_paired(thresholds: Path, data: str, message: str) -> None:
    audit(thresholds, "right", data, data)
    with pytest.raises(BadInput, match=message):
        comparison.compare([thresholds / "right", thresholds / data])


def test_run_without_labels_is_not_compared_with_a_labelled_one(thresholds: Path) -> None:
    shutil.copytree(thresholds / "right", thresholds / "bare", dirs_exist_ok=True)
    compared = json.loads((thresholds / "bare" / "audit.json").read_text())
    compared["data"]["labelled"] = False
    (thresholds / "bare" / "audit.json").write_text(json.dumps(compared))
    with pytest.raises(BadInput, match="bare: was audited without labels"):
        comparison.compare([thresholds / "right", thresholds / "bare"])


def test_older_run_without_image_list_requires_the_same_data(thresholds: Path) -> None:
    old = Path(shutil.copytree(thresholds / "right", thresholds / "old"))
    (old / "records" / "images.parquet").unlink()
    (old / "manifest.json").unlink()
    assert only(comparison.compare([old, thresholds / "wrong"]))["only"] == [MISSED, 0]
    audit(thresholds, "wrong", "data", "fewer", samples=30)
    with pytest.raises(BadInput, match="old: the runs' data differ"):
        comparison.compare([old, thresholds / "fewer"])


def test_per_image_values_are_checked_against_the_metric(thresholds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auditor.plugin import registry

    kind = registry.load().probes["performance.accuracy"]
    original = kind.per_image
    monkeypatch.setattr(
        kind,
        "per_image",
        lambda self, records: [
            type(each)(name=each.name, values=~each.values, at=each.at) for each in original(self, records)[:1]
        ],
    )
    pair = only(comparison.compare([thresholds / "right", thresholds / "wrong"]))
    assert pair["test"] == "intervals"
    assert pair["only"] is None


@pytest.mark.parametrize("folders", [["right"], ["right", "nowhere"], ["nowhere", "right"]])
def test_unusable_runs_are_refused_in_one_sentence(thresholds: Path, folders: list[str], auditor_cli: Cli) -> None:
    result = auditor_cli("compare", *(thresholds / name for name in folders))
    assert result.exit_code == 2
    assert result.stderr.startswith("auditor: ")
    assert len(result.stderr.splitlines()) == 1


# a real model, with every kind of probe


@pytest.fixture(scope="module")
def runs(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model as it is, with noise on its weights, and with another epsilon: three runs on eighty images."""
    import onnx
    from onnx import numpy_helper

    folder = tmp_path_factory.mktemp("compared")
    (folder / "suite.toml").write_text(SUITE)
    (folder / "other.toml").write_text(SUITE.replace("[0.5]", "[0.5, 1.0]"))
    worse = onnx.load(str(digits / "digits-cnn.onnx"))
    rng = np.random.default_rng(0)
    for tensor in worse.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim >= 2:
            noisy = weights + 0.7 * weights.std() * rng.standard_normal(weights.shape)
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(weights.dtype), tensor.name))
    onnx.save(worse, str(folder / "worse.onnx"))
    shutil.copy(digits / "digits-cnn.onnx.audit.toml", folder / "worse.onnx.audit.toml")
    shutil.copy(digits / "digits-test.npz", folder)
    for out, model, suite in (
        ("before", digits / "digits-cnn.onnx", "suite"),
        ("after", folder / "worse.onnx", "suite"),
        ("other", digits / "digits-cnn.onnx", "other"),
    ):
        only = ("attacks.fgsm", "metrics.adversarial-distance", "sanity.parity") if out == "other" else ()
        run(
            Request(
                probes=only,
                model=model,
                suite=str(folder / f"{suite}.toml"),
                samples=80,
                out=folder / out,
                formats=(),
                device="cpu",
                batch_size=80,
            )
        )
    return folder


@pytest.fixture(scope="module")
def compared(runs: Path) -> dict[str, Any]:
    return comparison.compare([runs / "before", runs / "after"])


def test_every_mean_over_images_is_tested_image_by_image(compared: dict[str, Any]) -> None:
    # needs images of no class
    assert [probe["id"] for probe in compared["probes"] if probe["reason"]] == ["performance.unknown-inputs"]
    means = {
        "accuracy",
        "robust_accuracy",
        "attack_success_rate",
        "corruption_accuracy",
        "mean_corruption_accuracy",
        "mce",
        "confidence_drop",
        "log_loss",
        "brier",
        "label_agreement",
    }
    tests = [
        (metric["name"], pair["test"])
        for probe in compared["probes"]
        for metric in probe["metrics"]
        for pair in metric["pairs"]
        # the size that stands for L2 is the median of each model's own distances
        if metric["name"] in means and (probe["id"], metric["at"].get("norm")) != ("metrics.adversarial-distance", "l2")
    ]
    assert {name for name, _ in tests} == means
    assert {test for _, test in tests} == {"mcnemar", "bootstrap"}
    assert compared["verdict"] in {"worse", "mixed"}
    assert "attacks.fgsm" in compared["verdict_reason"]


def test_curves_of_all_runs_share_a_figure(compared: dict[str, Any]) -> None:
    fgsm = next(probe for probe in compared["probes"] if probe["id"] == "attacks.fgsm")
    assert fgsm["curves"]
    assert all([line["name"] for line in curve["series"]] == ["A", "B"] for curve in fgsm["curves"])
    html = page(compared, paper=False)
    assert html.count('<svg class="chart"') == sum(len(probe["curves"]) for probe in compared["probes"])


def test_findings_and_examples_of_the_runs_are_side_by_side(runs: Path, compared: dict[str, Any]) -> None:
    probe = next(probe for probe in compared["probes"] if probe["id"] == "attacks.fgsm")
    audits = [json.loads(Path(run["path"], "audit.json").read_text()) for run in compared["runs"]]
    own = [next(each for each in audit["probes"] if each["id"] == probe["id"])["findings"][0] for audit in audits]
    assert [side["statement"] for side in probe["sides"]] == [finding["statement"] for finding in own]
    text = page(compared, paper=False)  # type: ignore[arg-type]
    article = text[text.index('id="probe-attacks.fgsm"') :].split("</article>")[0]
    assert article.count('class="side"') == len(audits)
    for side, finding in zip(probe["sides"], own, strict=True):
        first = next(each for each in finding["evidence"] if each["kind"] == "image-grid")["rows"][0]
        assert side["examples"]["rows"] == [{**first, "label": ""}]
        assert side["examples"]["title"] == first["label"]
    assert article.count('src="data:image/png;base64,') == sum(
        len(side["examples"]["columns"]) for side in probe["sides"]
    )


def test_probes_with_different_settings_are_not_compared(runs: Path) -> None:
    compared = comparison.compare([runs / "before", runs / "other"])
    reasons = {probe["id"]: probe["reason"] for probe in compared["probes"] if probe["reason"]}
    assert {probe["id"] for probe in compared["probes"] if not probe["reason"]} == {"sanity.parity"}
    assert reasons["performance.accuracy"] == "was not run in B"
    assert reasons["attacks.fgsm"] == "its settings differ (l2_epsilons: A [0.5], B [0.5, 1.0])"
    assert "depends on attacks.fgsm" in reasons["metrics.adversarial-distance"]
    assert compared["verdict"] == "no-difference"
    assert reasons["attacks.fgsm"].split(" (")[0] in page(compared, paper=False)


def test_compare_command_writes_files_and_sets_the_exit_status(thresholds: Path, auditor_cli: Cli) -> None:
    call = ("compare", thresholds / "right", thresholds / "wrong", "--format", "html,pdf,json")
    result = auditor_cli(*call)
    assert result.exit_code == 0, result.output
    out = Path("comparisons/right-wrong")
    assert max(map(len, result.stdout.splitlines()[2:])) <= 80
    assert "\x1b" not in result.stdout
    assert {path.name for path in out.iterdir()} == {"comparison.json", "comparison.html", "comparison.pdf"}
    assert not list(validator("compare").iter_errors(json.loads((out / "comparison.json").read_text())))
    assert auditor_cli(*call[:3], "--format", "json", "--fail-on-regression").exit_code == 1
    other_way = auditor_cli(
        "compare", thresholds / "wrong", thresholds / "right", "--format", "json", "--fail-on-regression"
    )
    assert other_way.exit_code == 0, other_way.output
    assert auditor_cli(*call[:3], "--format", "sarif").exit_code == 2


def test_baseline_comparison_sets_the_exit_status(runs: Path, tmp_path: Path, auditor_cli: Cli) -> None:
    def again(*more: object) -> Result:
        return auditor_cli(
            "run",
            runs / "worse.onnx",
            "--suite",
            runs / "suite.toml",
            "--samples",
            80,
            "--probe",
            "attacks.fgsm",
            "--device",
            "cpu",
            "--format",
            "json",
            "--out",
            "new",
            *more,
        )

    refused = again("--fail-on-regression")
    assert (refused.exit_code, "--baseline" in refused.stderr) == (2, True)
    assert again("--baseline", tmp_path / "nowhere").exit_code == 2
    assert not (tmp_path / "new").exists()
    result = again("--baseline", runs / "before", "--fail-on-regression")
    assert result.exit_code == 1, result.output
    assert "performance.accuracy is not compared: was not run in B" in result.stdout
    assert json.loads((tmp_path / "new" / "comparison" / "comparison.json").read_text())["verdict"] == "worse"
    assert again("--baseline", runs / "before").exit_code == 0
    assert again("--baseline", "new").exit_code == 2


def test_foreign_names_do_not_become_html(compared: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(compared))
    hostile["runs"][0]["model"]["path"] = "<script>alert(1)</script>.onnx"
    hostile["runs"][1]["data"]["path"] = "\u202egpj.<img src=x>"
    hostile["probes"][0]["metrics"][0]["at"] = {"group": "</td>", "value": "<b>"}
    html = page(hostile, paper=True)
    assert "<script>" not in html
    assert "<img src=x>" not in html
    assert "\u202e" not in html
