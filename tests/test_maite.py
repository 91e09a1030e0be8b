"""Models, datasets, augmentations and metrics of MAITE: the documented example, known answers, violations."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import auditor
from auditor import BadInput
from auditor.data.augmentations import open_augmentations
from auditor.data.maite import ImageKind, open_dataset
from auditor.model.maite import open_object
from auditor.probes.augmentation_effects import effects_of
from auditor.run.verification import Given, verify

DOCS = Path(__file__).parents[1] / "docs" / "how-to" / "maite.md"
WEIGHTS = np.linspace(-1, 1, 48).reshape(3, 4, 4)


class Data:
    """Twelve images (3, 4, 4) of two classes, with the groups ``side``."""

    def __init__(self, **changes: Any) -> None:
        self.metadata: Any = {"id": "small", "index2label": {0: "dark", 1: "bright"}}
        self.changes = changes

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        image = np.random.default_rng(index).integers(0, 256, (3, 4, 4)).astype(np.uint8)
        about = {"id": index, "side": "left" if index % 2 else "right", "light": 0.5}
        datum = {"image": image, "target": np.eye(2)[index % 2], "metadata": about} | self.changes
        return datum["image"], datum["target"], datum["metadata"]


class Black:
    """A MAITE model in NumPy."""

    metadata: ClassVar = {"id": "black"}

    def __call__(self, batch: Sequence[Any]) -> Sequence[np.ndarray]:
        score = [float((WEIGHTS * np.asarray(image) / 255).sum()) for image in batch]
        return [np.array([-s, s]) for s in score]


class White(torch.nn.Module):
    """The same model as a torch module that follows MAITE; ``detached`` loses its gradients."""

    metadata: ClassVar = {"id": "white"}

    def __init__(self, *, detached: bool = False) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.from_numpy(WEIGHTS).float())
        self.detached = detached

    def forward(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        score = (torch.stack(list(batch)).float() / 255 * self.weights).sum((1, 2, 3))
        scores = torch.stack([-score, score], dim=1)
        return scores.detach() if self.detached else scores


class Darker:
    """An augmentation that halves the values."""

    metadata: ClassVar = {"id": "darker"}

    def __call__(self, batch: Any) -> Any:
        images, targets, metadata = batch
        return [(np.asarray(image) * 0.5).astype(np.asarray(image).dtype) for image in images], targets, metadata


class Noise(Darker):
    """An augmentation with a separate random generator."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, batch: Any) -> Any:
        images, targets, metadata = batch
        return [self.rng.integers(0, 256, np.shape(image)).astype(np.uint8) for image in images], targets, metadata


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the example of the documentation unchanged; return its names."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    folder = tmp_path_factory.mktemp("maite")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(block, "docs/how-to/maite.md", "exec"), names)
        names["run"] = auditor.load(folder / "run")
    return names


def test_documented_example_audits_a_white_box_with_nrtk(example: dict[str, Any]) -> None:
    run = example["run"]
    assert run.record["model"]["access"] == "white-box"
    assert run.record["model"]["classes"][3] == "digit 3"
    assert set(run.record["data"]["groups"]) == {"half"}
    probes = {probe["id"]: probe for probe in run.record["probes"]}
    assert set(probes) == {"performance.accuracy", "attacks.fgsm", "corruptions.maite-augmentations"}
    assert not [probe for probe in probes.values() if probe["status"] in {"error", "not-applicable"}]
    assert not [text for text in run.record["warnings"] if "assumed" in text]


def test_augmentation_result_is_that_of_nrtk(example: dict[str, Any]) -> None:
    run, data = example["run"], example["data"]
    rows = run.rows("corruptions.maite-augmentations")
    rows = rows[rows["severity"] == 2]
    batch = tuple(zip(*(data[int(image_id)] for image_id in rows["image_id"]), strict=True))
    images = example["bright"][1](batch)[0]
    with torch.no_grad():
        predicted = example["Classifier"](example["network"])(images).argmax(1)
    assert rows["perturbed_prediction"].tolist() == predicted.tolist()
    assert (predicted.numpy() != rows["prediction"].to_numpy()).any()


def test_metric_of_maite_is_that_of_the_run(example: dict[str, Any]) -> None:
    from maite.protocols.image_classification import Metric

    run, metric = example["run"], example["metric"]
    known = run.metric("attacks.fgsm", "robust_accuracy", norm="l2", epsilon=0.5)
    assert isinstance(metric, Metric)
    assert example["numbers"]["not_audited"] == len(example["data"]) - 60
    for key in ("value", "low", "high", "n"):
        assert example["numbers"][key] == pytest.approx(known[key], rel=1e-5)
    metric.reset()
    assert metric.compute() == {"value": None, "low": None, "high": None, "n": 0, "not_audited": 0}
    rows = run.rows("attacks.fgsm").query("norm == 'l2' and epsilon == 0.5 and not success")
    metric.update([], [], [{"id": int(image_id)} for image_id in rows["image_id"]])
    assert (metric.compute()["value"], metric.compute()["n"]) == (1.0, len(rows))
    with pytest.raises(BadInput, match="no mean over images, so it is no metric of MAITE; expected"):
        run.maite_metric("performance.accuracy", "balanced_accuracy")


def test_records_are_verified_without_the_objects(example: dict[str, Any]) -> None:
    checks = {check.claim: check for check in verify(example["run"].folder, Given())}
    assert checks["probe corruptions.maite-augmentations"].outcome == "holds"
    assert checks["model"].outcome == "not checked"
    assert not [check for check in checks.values() if check.outcome == "FAILED"]


def small(model: Any, out: Path, **options: Any) -> auditor.Audit:
    given = {"data": Data(), "probes": ["performance.accuracy", "attacks.fgsm"]} | options
    return auditor.audit(model, out=out, **given)


def test_callable_is_a_black_box_and_module_a_white_box(tmp_path: Path) -> None:
    runs = {name: small(model, tmp_path / name) for name, model in {"black": Black(), "white": White()}.items()}
    answers = [np.asarray(Black()([Data()[i][0]])[0]).argmax() for i in range(12)]
    correct = np.mean([answer == i % 2 for i, answer in enumerate(answers)])
    for name, run in runs.items():
        assert run.record["model"]["access"] == f"{name}-box"
        assert run.metric("performance.accuracy")["value"] == pytest.approx(correct, rel=1e-5)
        assert run.record["model"]["classes"] == ["dark", "bright"]
        assert [text for text in run.record["warnings"] if text.endswith("or whole numbers: light.")]
    statuses = {probe["id"]: probe for probe in runs["black"].record["probes"]}
    assert "holds no torch.nn.Module" in statuses["attacks.fgsm"]["reason"]
    assert runs["white"].record["model"]["sha256"] != runs["black"].record["model"]["sha256"]


def test_same_object_resumes_and_other_weights_do_not(tmp_path: Path) -> None:
    model = White()
    first = small(model, tmp_path / "run", probes=["performance.accuracy"])
    again = small(model, tmp_path / "run", probes=["performance.accuracy"])
    assert again.record["model"]["sha256"] == first.record["model"]["sha256"]
    with torch.no_grad():
        model.weights[0, 0, 0] += 0.5
    other = small(model, tmp_path / "run", probes=["performance.accuracy"])
    assert other.record["model"]["sha256"] != first.record["model"]["sha256"]
    assert model.training
    assert model.weights.requires_grad


def test_module_without_gradients_becomes_a_black_box_with_the_reason(tmp_path: Path) -> None:
    run = small(White(detached=True), tmp_path / "run")
    assert run.record["model"]["access"] == "black-box"
    assert "its answers carry no gradient" in run.record["model"]["access_reason"]


class Holding:
    """A MAITE model that holds a torch module."""

    metadata: ClassVar = {"id": "holding"}

    def __init__(self) -> None:
        self.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)).eval()

    def __call__(self, batch: Sequence[Any]) -> torch.Tensor:
        return self.network(torch.stack([torch.as_tensor(image) for image in batch]).float() / 255)


@pytest.mark.parametrize("model", [Holding(), White()])
def test_copy_with_other_weights_answers_otherwise(model: Any) -> None:
    """explanations.randomisation permutes the weights of a copy of the copy."""
    network = open_object(model, open_dataset(Data()).kind, "cpu").copy
    assert network is not None
    images = torch.from_numpy(np.stack([Data()[i][0] for i in range(3)])).float()
    before, other = network(images), copy.deepcopy(network)
    for weights in other.state_dict().values():
        weights.copy_(weights.flip(0) + 1)
    assert (other(images) - before).abs().max() > 0.1
    torch.testing.assert_close(network(images), before)


def test_module_that_cannot_be_copied_is_refused_or_a_black_box() -> None:
    class Locked(torch.nn.Module):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("holds a lock")

    with pytest.raises(BadInput, match=r"model Locked: the model cannot be copied \(TypeError: holds a lock\)"):
        open_object(Locked(), None, "cpu")
    holding = Holding()
    holding.network.append(Locked())
    artefact = open_object(holding, None, "cpu")
    assert artefact.copy is None
    assert "cannot be copied" in artefact.copy_reason


def test_file_and_object_may_be_mixed(write_linear: Callable[..., Path], tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx", np.stack([-WEIGHTS.ravel(), WEIGHTS.ravel()]), np.zeros(2), (3, 4, 4))
    run = small(str(path), tmp_path / "run", probes=["performance.accuracy"], trust_model=True)
    assert run.record["model"]["format"] == "onnx"
    assert run.record["model"]["classes"] == ["dark", "bright"]
    images = np.stack([Data()[i][0].transpose(1, 2, 0) for i in range(12)])
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(12) % 2)
    options = {"overrides": {"input": {"range": [0, 255]}}, "data": tmp_path / "d.npz"}
    same = small(Black(), tmp_path / "same", probes=["performance.accuracy"], **options)
    values = [each.metric("performance.accuracy")["value"] for each in (run, same)]
    assert values[0] == values[1]


def test_plain_module_takes_pixels_from_0_to_1() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    artefact = open_object(network, ImageKind(shape=(3, 4, 4), dtype="uint8"), "cpu")
    images = np.random.default_rng(0).random((2, 3, 4, 4)).astype(np.float32)
    assert artefact.input_dtype == "float32"
    assert "range" not in artefact.metadata
    np.testing.assert_allclose(artefact.scores(images), network(torch.from_numpy(images)).detach(), rtol=1e-6)


def test_advice_about_an_object_names_no_file(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    np.savez(tmp_path / "d.npz", images=np.zeros((4, 4, 4, 3), dtype=np.uint8), labels=np.array([0, 1, 0, 1]))
    options: dict[str, Any] = {"data": tmp_path / "d.npz", "probes": ("performance.accuracy",)}
    guessed = auditor.audit(network, out=tmp_path / "guessed", **options)
    (advice,) = [text for text in guessed.record["warnings"] if "No preprocessing is stated" in text]
    assert "state it with overrides={'input': {...}};" in advice
    assert ".audit.toml" not in " ".join(guessed.record["warnings"])
    stated = auditor.audit(network, out=tmp_path / "stated", overrides={"input": {"range": [0, 255]}}, **options)
    assert not [text for text in stated.record["warnings"] if "No preprocessing is stated" in text]


def test_model_gets_the_images_of_the_dataset() -> None:
    seen: list[Any] = []

    class Watching(Black):
        def __call__(self, batch: Sequence[Any]) -> Sequence[np.ndarray]:
            seen.extend(batch)
            return super().__call__(batch)

    image = Data()[0][0]
    kind = open_dataset(Data(image=torch.from_numpy(image))).kind
    open_object(Watching(), kind, "cpu").scores(image[None])
    assert isinstance(seen[0], torch.Tensor)
    assert seen[0].dtype == torch.uint8
    assert (seen[0].numpy() == image).all()


def test_augmentation_is_applied_in_the_range_of_the_dataset() -> None:
    pixels = (Data()[3][0] / 255).astype(np.float32)
    target = np.array([1, 0], np.float32)
    halved = open_augmentations({"darker": Darker()}, open_dataset(Data())).apply("darker", 1, pixels, target, "3")
    np.testing.assert_array_equal(halved, (Data()[3][0] // 2).astype(np.float32) / np.float32(255))
    floats = open_dataset(Data(image=pixels))
    halved = open_augmentations({"darker": [Darker()]}, floats).apply("darker", 1, pixels, target, "3")
    np.testing.assert_array_equal(halved, pixels * 0.5)


def test_random_augmentation_is_named_in_a_warning(tmp_path: Path) -> None:
    options = {"augmentations": {"noise": Noise(), "darker": Darker()}, "probes": ["performance.accuracy"]}
    run = small(Black(), tmp_path / "run", **options)
    (warning,) = [text for text in run.record["warnings"] if "that the audit does not seed" in text]
    assert warning.startswith("The augmentations noise draw")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (7, "the int has no __len__ and __getitem__; expected a path, or a MAITE dataset"),
        ([1, 2], "the list has no metadata; expected a path, or a MAITE dataset"),
        (Data(image=np.zeros((4, 4))), r"datum 0: its image has the shape \(4, 4\); expected \(channels"),
        (Data(image=np.zeros((3, 4, 4), np.int64)), "its image is int64; expected uint8, or floats"),
        (Data(image=np.full((3, 4, 4), 2.5)), "values from 2.5 to 2.5; expected uint8, or floats from 0 to 1"),
        (Data(target=1), r"its target has the shape \(\); expected a one-hot array"),
        (Data(target=np.array([0.4, 0.6])), r"its target is \[0.4, 0.6\]; expected one 1 and zeros"),
        (Data(target=np.eye(3)[0]), "its target has 3 classes, but index2label names 2"),
        (Data(metadata={"name": "a"}), "has metadata {'name': 'a'}; expected a mapping with an id"),
        (Data(metadata={"id": 1}), "datum 1: its id '1' is that of another datum"),
    ],
)
def test_dataset_that_violates_the_protocol_is_refused(data: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        open_dataset(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: 3, "model: is a int; expected a path, a torch.nn.Module, or a MAITE model"),
        (lambda: len, "the builtin_function_or_method has no metadata; expected a path"),
        (lambda: _answers([np.zeros(2)] * 2), r"returned 2 answers of shape \(2,\) for 3 images; expected one array"),
        (lambda: _answers([np.float64(1)] * 3), r"3 answers of shape \(\) for 3 images; expected one array"),
        (lambda: _answers(None), "'NoneType' object is not iterable"),
    ],
)
def test_model_that_violates_the_protocol_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        small(change(), tmp_path / "run")


def _answers(answers: Any) -> Any:
    class Odd(Black):
        def __call__(self, batch: Sequence[Any]) -> Any:
            return answers

    return Odd()


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (3, "shaky is a int; expected an augmentation of MAITE"),
        (len, "shaky: the builtin_function_or_method has no metadata"),
        ([], "shaky is empty; expected at least one"),
        (lambda: _augmented(lambda batch: batch[0]), r"returned list; expected \(images, targets, metadata\)"),
        (lambda: _augmented(lambda batch: ([np.zeros((3, 2, 2))], *batch[1:])), r"shape \(3, 2, 2\); expected"),
        (lambda: _augmented(lambda batch: 1 / 0), r"does not work on a uint8 image of shape \(3, 32, 32\): Zero"),
    ],
)
def test_augmentation_that_violates_the_protocol_is_refused(augmentation: Any, message: str) -> None:
    given = augmentation() if getattr(augmentation, "__name__", "") == "<lambda>" else augmentation
    with pytest.raises(BadInput, match=message):
        effects_of(open_augmentations({"shaky": given}, None))


def _augmented(function: Any) -> Any:
    class Odd(Darker):
        def __call__(self, batch: Any) -> Any:
            return function(batch)

    return Odd()


def test_objects_are_audited_by_one_process(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Python objects are audited by one process; leave engine and workers out"):
        small(Black(), tmp_path, workers=2)
