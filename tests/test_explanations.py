"""Explanations: known results, agreement with the libraries, and failing grades."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auditor.algorithms.layers import last_convolution, last_layer
from auditor.data.dataset import Batch
from auditor.errors import NotApplicable
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.plugins.explanations._lime_coefficients import superpixel_coefficients
from auditor.plugins.explanations._shap_values import (
    _interpreted,
    _library,
    _masker,
    gradient_values,
    image_values,
    lower_credit,
)
from auditor.plugins.explanations._superpixels import superpixels
from auditor.plugins.explanations.grad_cam import GradCam
from auditor.plugins.explanations.gradient_shap import GradientShap
from auditor.plugins.explanations.integrated_gradients import IntegratedGradients
from auditor.plugins.explanations.occlusion import OcclusionMap
from auditor.probes.base import Randomness, RunContext
from auditor.probes.cells import covered_probability, map_cells
from auditor.probes.grading import grade, infidelity, rank_correlation
from auditor.probes.shuffled_weights import shuffled
from auditor.run.opening import open_audit
from auditor.run.request import Request
from auditor.run.session import run

RNG = Randomness(0, "test")


@pytest.fixture(scope="module")
def subject(digits: Path) -> tuple[Any, Batch]:
    """Return the reference model and four digits."""
    loaded = registry.load()
    request = Request(model=digits / "digits-cnn.onnx", samples=4)
    classifier, images = open_audit(loaded, request, find_suite("full", loaded), "cpu")
    pixels = images.pixels(images.ids)
    assert images.labels is not None
    batch = Batch(ids=images.ids, pixels=pixels, labels=images.labels, probabilities=classifier.predict(pixels))
    return classifier, batch


def test_shap_sums_to_the_probability_and_equals_the_library(subject: tuple[Any, Batch]) -> None:
    shap = _library()
    classifier, batch = subject
    values, base = image_values(classifier, batch, 0, fill="mean", evaluations=120, batch_size=10)
    answer = int(batch.predictions[0])
    assert base + values.sum() == pytest.approx(float(batch.probabilities[0, answer]), abs=1e-5)

    # plain use of the library: its default batches, all classes at once
    with _interpreted():
        image = batch.pixels[0].transpose(1, 2, 0)
        masker = shap.maskers.Image(np.full(image.shape, image.mean(), dtype=np.float32), image.shape)
        # by default the compiled identity, which shap compares with the interpreted one
        link = shap.links.identity
        plain = shap.PartitionExplainer(
            lambda x: classifier.predict(x.transpose(0, 3, 1, 2).astype(np.float32)), masker, link=link
        )
        theirs = plain(image[None], max_evals=120, batch_size=10, silent=True).values[0, ..., answer]
        # the library refines regions by all outputs together, so only the total is equal
        assert theirs.sum() == pytest.approx(values.sum(), abs=1e-5)
        one = shap.PartitionExplainer(
            lambda x: classifier.predict(x.transpose(0, 3, 1, 2).astype(np.float32))[:, answer : answer + 1],
            masker,
            link=link,
        )
        np.testing.assert_allclose(
            one(image[None], max_evals=120, batch_size=10, silent=True).values[0, ..., 0], values, atol=1e-6
        )


ONE_IMAGE = """
import json, types
import numpy as np
import shap
from auditor.plugins.explanations._shap_values import image_values
pixels = np.random.default_rng(0).random((1, 1, 5, 4), dtype=np.float32)
weights = np.linspace(-1, 1, 20)
def predict(x):
    p = 1 / (1 + np.exp(-np.asarray(x).reshape(len(x), -1) @ weights))
    return np.stack([p, 1 - p], axis=1)
batch = types.SimpleNamespace(pixels=pixels, predictions=predict(pixels).argmax(1))
image_values(types.SimpleNamespace(predict=predict), batch, 0, fill="mean", evaluations=40, batch_size=8)
loop = shap.explainers._partition.lower_credit
compiled = [bool(each.signatures) for each in (shap.maskers._image._jit_build_partition_tree, loop)]
# three features: the first two are joined, then the third
tree = np.array([[0.0, 1.0, 1.0, 2.0], [3.0, 2.0, 2.0, 3.0]])
shares = []
for function in (loop.py_func, loop):
    shares.append(np.array([0.5, 0.25, 1.0, 0.125, 0.0]))
    function(4, 3.0, 3, shares[-1], tree)
print(json.dumps([compiled, bool(loop.signatures), *(each.tolist() for each in shares)]))
"""


def test_shap_is_interpreted_and_left_as_it_was() -> None:
    """Its functions still compile for others, and give the same values."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA")} | {"NUMBA_OPT": "0"}
    command = [sys.executable, "-W", "ignore", "-c", ONE_IMAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    compiled_by_us, compiles, interpreted, compiled = json.loads(done.stdout.splitlines()[-1])
    assert compiled_by_us == [False, False]
    assert compiles
    # the group of two gets two thirds of 3, added to its own 0.125, and halves it
    assert compiled == interpreted == [0.5 + 1.0625, 0.25 + 1.0625, 2.0, 2.125, 3.0]


@pytest.mark.parametrize("outputs", [(), (1,), (2,)])
def test_credit_is_lowered_as_by_the_library(outputs: tuple[int, ...]) -> None:
    with _interpreted():
        theirs = sys.modules[_library().PartitionExplainer.__module__].lower_credit
        tree = _masker((5, 7, 3)).clustering
        leaves = len(tree) + 1
        values = np.random.default_rng(0).normal(size=(2 * leaves - 1, *outputs))
        expected = values.copy()
        theirs(2 * leaves - 2, 0, leaves, expected, tree)
    lower_credit(2 * leaves - 2, 0, leaves, values, tree)
    assert np.array_equal(values, expected)


def test_lime_equals_the_package_for_the_same_seed(subject: tuple[Any, Batch]) -> None:
    from lime.lime_image import LimeImageExplainer

    classifier, batch = subject
    segments = superpixels(batch.pixels[0], 50)
    answer = int(batch.predictions[0])
    ours = superpixel_coefficients(classifier, batch, 0, 7, segments, evaluations=80, kernel_width=0.25)

    # the package requires three channels; the classifier has one
    image = np.repeat(batch.pixels[0].transpose(1, 2, 0), 3, axis=2)
    explanation = LimeImageExplainer(random_state=7, feature_selection="none").explain_instance(
        image,
        lambda x: classifier.predict(x[..., :1].transpose(0, 3, 1, 2)),
        labels=(answer,),
        top_labels=None,
        num_samples=80,
        segmentation_fn=lambda _: segments,
        random_seed=0,
    )
    theirs = np.zeros(segments.max() + 1)
    for segment, coefficient in explanation.local_exp[answer]:
        theirs[segment] = coefficient
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_superpixel_indices_have_no_gaps() -> None:
    pixels = np.random.default_rng(0).random((3, 48, 40), dtype=np.float32)
    found = superpixels(pixels, 12)
    assert found.shape == (48, 40)
    assert np.unique(found).tolist() == list(range(found.max() + 1))


def test_integrated_gradients_sum_to_the_logit(subject: tuple[Any, Batch]) -> None:
    classifier, batch = subject
    maps = IntegratedGradients(iterations=64).attribute(classifier, batch, RNG)
    with torch.no_grad():
        pixels = torch.from_numpy(batch.pixels)
        grey = pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
        rise = (classifier.logits(pixels) - classifier.logits(grey)).numpy()[np.arange(4), batch.predictions]
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), rise, rtol=0.03, atol=0.1)


def test_grad_cam_equals_captum(subject: tuple[Any, Batch]) -> None:
    from captum.attr import LayerAttribution, LayerGradCam

    torch.manual_seed(0)
    last = torch.nn.Conv2d(4, 6, 3, 2, 1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, 1, 1),
        torch.nn.ReLU(),
        last,
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Conv2d(6, 10, 1),
        torch.nn.Flatten(),
    ).eval()
    _, batch = subject

    class Stub:
        fixed_batch = None
        tensor = staticmethod(torch.from_numpy)
        logits = staticmethod(net)

    ours = GradCam().attribute(Stub(), batch, RNG)  # type: ignore[arg-type]
    theirs = LayerGradCam(net, last).attribute(
        torch.from_numpy(batch.pixels), target=torch.from_numpy(batch.predictions), relu_attributions=True
    )
    theirs = LayerAttribution.interpolate(theirs, (8, 8), "bilinear")
    np.testing.assert_allclose(ours, theirs.detach().numpy()[:, 0], atol=1e-6)


def test_gradient_shap_equals_the_library_for_the_same_seed(subject: tuple[Any, Batch]) -> None:
    shap = _library()
    classifier, batch = subject
    plain = GradientShap(evaluations=120, others=3)
    once = RunContext(
        classifier=classifier, probes=[plain], ids=batch.ids, batch=lambda ids: batch.take([0, 1, 2]), rng=RNG
    )
    probe: Any = plain.prepare(once)
    state = np.random.get_state()[1].tolist()
    ours = gradient_values(classifier, batch, 3, 5, baselines=probe.drawn, evaluations=120)
    assert np.random.get_state()[1].tolist() == state
    answer = int(batch.predictions[3])

    class Whole(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return classifier.logits(x)

    explainer = shap.GradientExplainer(Whole(), torch.from_numpy(batch.pixels[:3]))
    theirs = explainer.shap_values(torch.from_numpy(batch.pixels[3:4]), nsamples=120, rseed=5)
    np.testing.assert_allclose(ours, theirs[0, ..., answer], atol=1e-5)
    # the sum is the logit minus the mean of the baselines, up to the error of 120 samples
    with torch.no_grad():
        logits = classifier.logits(torch.from_numpy(batch.pixels))[:, answer]
    rise = float(logits[3] - logits[:3].mean())
    assert ours.sum() == pytest.approx(rise, abs=0.35 * abs(rise))
    with pytest.raises(NotApplicable, match="not prepared"):
        plain.attribute(classifier, batch, RNG)


@pytest.mark.parametrize("kind", ["traced", "scripted", "frozen"])
def test_layers_of_torchscript_equal_those_of_the_module(kind: str, subject: tuple[Any, Batch]) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, 1, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 6, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 10),
    ).eval()
    _, batch = subject
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script: Any = torch.jit.trace(net, torch.zeros(1, 1, 8, 8)) if kind == "traced" else torch.jit.script(net)
        script = torch.jit.freeze(script) if kind == "frozen" else script

    def stub(module: Any) -> Any:
        members = {"tensor": staticmethod(torch.from_numpy), "logits": staticmethod(module.__call__)}
        return type("Stub", (), {"fixed_batch": None, **members})

    # three times, because TorchScript optimises a module after its first runs
    for _ in range(3):
        found, expected = (last_convolution(stub(m), batch.pixels, batch.predictions) for m in (script, net))
        assert found is not None
        assert expected is not None
        assert found.slope is not None
        np.testing.assert_allclose(found.output, expected.output, atol=1e-6)
        np.testing.assert_allclose(found.slope, expected.slope, atol=1e-6)
        features = last_layer(stub(script), batch.pixels)
        assert features is not None
        with torch.no_grad():
            np.testing.assert_allclose(features, net[:6](torch.from_numpy(batch.pixels)).numpy(), atol=1e-6)


def masked(folder: Path, n: int = 24) -> Path:
    """Write noise with a bright square that defines the class, and a mask of it; the last image has no mask."""
    from PIL import Image

    rng = np.random.default_rng(0)
    lines = ["image,label,mask,side"]
    for i in range(n):
        pixels = rng.integers(0, 60, (8, 8), dtype=np.uint8)
        mask = np.zeros((8, 8), dtype=np.uint8)
        left = 2 * (i % 2) * 2
        mask[2:4, left : left + 2] = 255
        pixels[2:4, left : left + 2] = 250
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        Image.fromarray(mask).save(folder / f"{i:02d}-mask.png")
        lines.append(f"{i:02d}.png,{i % 2},{f'{i:02d}-mask.png' if i < n - 1 else ''},{'lr'[i % 2]}")
    (folder / "data.csv").write_text("\n".join(lines))
    return folder / "data.csv"


def test_attribution_inside_mask(tmp_path: Path, write_linear: Any) -> None:
    """The model uses only the masked pixels, so the positive attribution lies there."""
    weights = np.zeros((2, 1, 8, 8), dtype=np.float32)
    weights[0, 0, 2:4, 0:2], weights[1, 0, 2:4, 4:6] = 1, 1
    model = write_linear(tmp_path / "m.onnx", weights.reshape(2, -1), np.zeros(2, dtype=np.float32), (1, 8, 8))
    data = masked(tmp_path)
    suite = tmp_path / "s.toml"
    suite.write_text('probes = ["explanations.occlusion"]\n[settings."explanations.occlusion"]\nsamples = 24')
    outcome = run(Request(model=model, data=data, suite=str(suite), out=tmp_path / "run", formats=()))
    (probe,) = outcome.audit["probes"]
    metrics = {m["name"]: m for m in probe["metrics"]}
    share, gain = metrics["mask_attribution"], metrics["mask_attribution_gain"]
    assert share["n"] == 23
    assert share["value"] > 0.8
    assert gain["value"] == pytest.approx(share["value"] - 4 / 64, abs=1e-6)
    assert gain["low"] > 0
    where = probe["findings"][1]
    assert "lies in the masked object, which is 6 % of the image" in where["statement"]
    assert "significantly more than its area" in where["statement"]
    table = next(e for e in where["evidence"] if e["title"] == "Share of the attribution by region")
    assert [row[1] for row in table["rows"] if row[0] == "side"] == ["l", "r"]
    assert any(e["title"] == "Least attribution inside the mask" for e in where["evidence"])
    assert "mask" not in outcome.audit["data"]["groups"]


def test_mask_of_wrong_size_is_reported(tmp_path: Path, write_linear: Any) -> None:
    from PIL import Image

    data = masked(tmp_path, 6)
    Image.fromarray(np.zeros((4, 8), dtype=np.uint8)).save(tmp_path / "00-mask.png")
    (tmp_path / "01-mask.png").unlink()
    model = write_linear(tmp_path / "m.onnx", np.ones((2, 64)), np.zeros(2), (1, 8, 8))
    loaded = registry.load()
    _, images = open_audit(loaded, Request(model=model, data=data), find_suite("full", loaded), "cpu")
    assert images.unreadable == [
        "00.png: its mask has 8x4 pixels, the image 8x8",
        "01.png: its mask 01-mask.png: No such file or directory",
    ]
    found = images.masks(images.ids)
    assert found is not None
    assert np.isnan(found[-1]).all()
    assert found[0].sum() == 4


def test_infidelity_equals_captum_at_the_best_scale_and_is_zero_for_a_linear_model() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(3, 20))
    np.testing.assert_allclose(infidelity(predicted, 5 * predicted), 0, atol=1e-12)
    unrelated = infidelity(rng.normal(size=(1, 4000)), rng.normal(size=(1, 4000)))
    assert unrelated == pytest.approx(1, abs=0.01)
    assert np.isnan(infidelity(predicted, np.zeros_like(predicted))).all()

    from captum.metrics import infidelity as captum

    weights = torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    x = torch.tensor([[0.3, 0.8, 0.1, 0.9]])
    steps = torch.from_numpy(rng.uniform(0, 0.2, (50, 4))).float()
    given = iter([steps])

    def noise(inputs: torch.Tensor, baselines: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        step = next(given)
        return step, inputs - step

    def squared(inputs: torch.Tensor) -> torch.Tensor:
        return (inputs @ weights.T)[:, 0] ** 2

    theirs = captum(squared, noise, x, weights, n_perturb_samples=50, max_examples_per_batch=50)
    expected = ((steps @ weights[0]) - (squared(x) - squared(x - steps))) ** 2
    assert theirs.item() == pytest.approx(expected.mean().item(), rel=1e-4)
    # ours is captum's mean of squares at its minimum over the scale, divided by the mean square of the drop
    drop = (squared(x) - squared(x - steps)).numpy()[None].astype(np.float64)
    guess = (steps @ weights[0]).numpy()[None].astype(np.float64)
    least = min(((s * guess - drop) ** 2).mean() / (drop**2).mean() for s in np.linspace(0, 8, 8001))
    assert infidelity(guess, drop)[0] == pytest.approx(least, abs=1e-6)
    assert least * (drop**2).mean() <= theirs.item()


def test_rank_correlation_equals_spearman() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 5, (6, 12)), rng.normal(size=(6, 12))
    expected = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(rank_correlation(one, other), expected)
    assert np.isnan(rank_correlation(np.ones((1, 4)), other[:1, :4])).all()


def test_covered_probability_is_that_of_the_covered_image(subject: tuple[Any, Batch]) -> None:
    classifier, batch = subject
    grid = map_cells(classifier, 4)
    hidden = np.zeros((4, 2, len(grid)), dtype=bool)
    hidden[:, 1, 3] = True
    found = covered_probability(classifier, batch, grid, hidden, "black")
    rows = np.arange(4)
    np.testing.assert_allclose(found[:, 0], batch.probabilities[rows, batch.predictions], atol=1e-6)
    changed = batch.pixels.copy()
    changed[:, :, *grid[3]] = 0
    np.testing.assert_allclose(found[:, 1], classifier.predict(changed)[rows, batch.predictions], atol=1e-6)


def test_shuffled_model_differs_and_the_model_is_unchanged(subject: tuple[Any, Batch]) -> None:
    classifier, batch = subject
    before = classifier.logits(classifier.tensor(batch.pixels)).detach().numpy()
    other = shuffled(classifier, RNG)
    assert other is not None
    assert np.abs(other.predict(batch.pixels) - batch.probabilities).max() > 0.1
    again = shuffled(classifier, RNG)
    assert again is not None
    np.testing.assert_array_equal(other.predict(batch.pixels), again.predict(batch.pixels))
    np.testing.assert_array_equal(classifier.logits(classifier.tensor(batch.pixels)).detach().numpy(), before)


def test_shuffled_model_does_not_use_the_device_path_of_the_model(subject: tuple[Any, Batch]) -> None:
    classifier, batch = subject
    on_gpu = copy.copy(classifier)
    on_gpu.artefact = replace(
        classifier.artefact, device_scores=lambda inputs: classifier.artefact.scores(inputs.numpy())
    )
    other, expected = shuffled(on_gpu, RNG), shuffled(classifier, RNG)
    assert other is not None
    assert expected is not None
    np.testing.assert_array_equal(other.predict(batch.pixels), expected.predict(batch.pixels))


def measured(probe: Any, subject: tuple[Any, Batch]) -> Any:
    import pandas as pd

    classifier, batch = subject
    columns = {name: list(values) for name, values in probe.measure(classifier, batch, RNG).items()}
    return pd.DataFrame(columns).assign(image_id=batch.ids, label=batch.labels, prediction=batch.predictions)


def test_good_maps_pass_and_random_or_model_independent_maps_fail(subject: tuple[Any, Batch]) -> None:
    """A map of noise is no better than chance, and an edge detector does not depend on the model."""

    class Noise(OcclusionMap):
        randomness = True

        def attribute(self, classifier: Any, batch: Batch, rng: Randomness) -> Any:
            return np.stack([rng(i, "noise").normal(size=(8, 8)) for i in batch.ids])

    class Edges(OcclusionMap):
        by_gradient = True

        def attribute(self, classifier: Any, batch: Batch, rng: Randomness) -> Any:
            return np.abs(np.gradient(batch.pixels[:, 0], axis=(1, 2))).sum(axis=0)

    good = grade(measured(OcclusionMap(), subject))
    assert good.metrics[0].low is not None
    assert good.metrics[0].low > 0
    noise = grade(measured(Noise(), subject))
    assert not noise.passed
    assert {c.name: c.result for c in noise.checks}["rank correlation under another random seed"] == "fails"
    edges = grade(measured(Edges(), subject))
    assert not edges.passed
    results = {c.name: c.result for c in edges.checks}
    assert results["rank correlation with the maps of shuffled weights"] == "fails"


def test_confident_errors_and_least_robust_images_are_explained(digits: Path, tmp_path: Path) -> None:
    suite = tmp_path / "few.toml"
    suite.write_text(
        'probes = ["performance.accuracy", "attacks.fgsm", "explanations.occlusion",'
        ' "explanations.faithfulness"]\n'
        '[settings."explanations.occlusion"]\nsamples = 6\nexamples_shown = 8\ngrid = 4\n'
        '[settings."attacks.fgsm"]\nepsilons = [0.03, 0.1]\nl2_epsilons = [0.5]\n'
    )
    outcome = run(Request(model=digits / "digits-cnn.onnx", suite=str(suite), out=tmp_path / "run", formats=()))
    by_id = {probe["id"]: probe for probe in outcome.audit["probes"]}
    accuracy, occlusion = by_id["performance.accuracy"], by_id["explanations.occlusion"]
    import pandas as pd

    def frame(probe_id: str) -> Any:
        return pd.concat(pd.read_parquet(f) for f in (tmp_path / "run/records" / probe_id).glob("[!e]*.parquet"))

    assert accuracy["n"] > 500
    errors = frame("performance.accuracy").query("label != prediction").sort_values("confidence", ascending=False)
    explained = set(frame("explanations.occlusion")["image_id"])
    assert set(errors["image_id"].head(2)) <= explained
    assert 6 < len(explained) <= 10
    # a derived probe counts the images of the explanations only
    assert by_id["explanations.faithfulness"]["n"] == len(explained)
    # images selected for their errors are excluded from means
    assert occlusion["metrics"][0]["n"] <= 6


def test_grad_cam_requires_a_convolution(tmp_path: Path) -> None:
    from auditor.reference_models.common.export import export

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    model = export(net, torch.zeros(2, 1, 8, 8), tmp_path / "flat", {"input": {"size": [8, 8], "channels": 1}})
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    outcome = run(
        Request(
            model=model,
            suite="full",
            data=tmp_path / "images.npz",
            probes=["explanations.grad-cam"],
            out=tmp_path / "run",
            formats=(),
        )
    )
    (probe,) = outcome.audit["probes"]
    assert probe["status"] == "not-applicable"
    assert "convolution" in probe["reason"]
