"""Preprocessing: sources and their precedence, resizing, presets, and the check against common alternatives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch.overrides import TorchFunctionMode

from auditor import statistics
from auditor.data.resizing import Resizing, fit
from auditor.errors import BadInput
from auditor.model import presets
from auditor.model.loading import Sidecar, read_sidecar, resizing
from auditor.model.loading.metadata import hugging_face, timm
from auditor.model.preprocessing import Preprocessing
from auditor.model.tabular import Feature, TabularPreprocessing
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.probes.base import Randomness, Records
from auditor.run.opening import open_audit
from auditor.run.request import Request

Cli = Callable[..., Result]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def linear(path: Path, weights: Any, shape: tuple[int, int, int]) -> Path:
    """Write a model with logits = weights (k, c*h*w) @ pixels."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1)],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(weights)])],
        [numpy_helper.from_array(np.asarray(weights, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def model_at(path: Path) -> Path:
    """Write a model that predicts the brightest of three channels."""
    return linear(path, np.kron(np.eye(3), np.full(16, 1 / 16)), (3, 4, 4))


def test_precedence_of_preprocessing_sources(tmp_path: Path) -> None:
    """Command line, sidecar, metadata in the file, JSON file next to it, default; removed one after the other."""
    path = model_at(tmp_path / "m.onnx")
    inside = "[input]\nmean = [0.3]\nlayout = 'nchw'"
    properties = {"Image.NominalPixelRange": "Normalized_1_1"}
    (tmp_path / "config.json").write_text(
        json.dumps({"pretrained_cfg": {"input_size": [3, 4, 4], "mean": [0.5], "std": [0.25], "crop_pct": 1.0}})
    )
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": True, "image_mean": [0.4], "image_std": [0.5]})
    )
    sidecar = path.with_name("m.onnx.audit.toml")
    sidecar.write_text("[input]\nmean = [0.2]\norder = 'bgr'")

    def overrides(**given: Any) -> Sidecar:
        return read_sidecar(path, given.pop("embedded", inside), properties=properties, **given)

    first = overrides(options={"input": {"mean": [0.1]}})
    assert (first.mean, first.where("mean"), first.order, first.layout) == ((0.1,), "command line", "bgr", "nchw")
    assert first.std is None, "mean and standard deviation must have the same source"
    assert (overrides().mean, overrides().where("mean")) == ((0.2,), str(sidecar))
    sidecar.unlink()
    assert (overrides().mean, overrides().where("mean")) == ((0.3,), f"{path} (its own metadata)")
    assert overrides(embedded="").range == (-1, 1)
    properties.clear()
    assert overrides(embedded="").mean == (0.4,)
    (tmp_path / "preprocessor_config.json").unlink()
    assert overrides(embedded="").mean == (0.5,)
    (tmp_path / "config.json").unlink()
    assert overrides(embedded="") == Sidecar()


def test_explicit_values_override_the_preset(tmp_path: Path) -> None:
    path = model_at(tmp_path / "m.onnx")
    overrides = read_sidecar(path, options={"input": {"preset": "caffe", "order": "rgb"}})
    assert (overrides.range, overrides.mean, overrides.order) == ((0, 255), (103.939, 116.779, 123.68), "rgb")
    with pytest.raises(BadInput, match=r"command line \[input\]: preset is 'vgg'; expected one of imagenet,"):
        read_sidecar(path, options={"input": {"preset": "vgg"}})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (  # ViT
            {
                "image_processor_type": "ViTImageProcessor",
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
                "resample": 2,
                "rescale_factor": 0.00392156862745098,
                "size": {"height": 224, "width": 224},
            },
            {
                "range": [0, 1],
                "mean": [0.5] * 3,
                "std": [0.5] * 3,
                "size": [224, 224],
                "resize": "stretch",
                "interpolation": "bilinear",
            },
        ),
        (  # CLIP
            {
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
                "do_normalize": True,
                "resample": 3,
                "image_mean": [0.48],
                "image_std": [0.27],
                "size": {"shortest_edge": 256},
            },
            {
                "range": [0, 1],
                "mean": [0.48],
                "std": [0.27],
                "size": [224, 224],
                "resize": "crop",
                "crop": 256,
                "interpolation": "bicubic",
            },
        ),
        (  # ConvNeXT
            {
                "do_normalize": True,
                "image_mean": [0.5],
                "image_std": [0.5],
                "crop_pct": 0.875,
                "size": {"shortest_edge": 224},
            },
            {"range": [0, 1], "mean": [0.5], "std": [0.5], "size": [224, 224], "resize": "crop", "crop": 0.875},
        ),
        (  # EfficientNet's offset, MobileViT's order
            {
                "do_rescale": True,
                "rescale_factor": 1 / 127.5,
                "rescale_offset": True,
                "do_normalize": False,
                "do_flip_channel_order": True,
                "do_resize": False,
            },
            {"range": [-1, 1], "order": "bgr"},
        ),
        (
            {"do_rescale": False, "do_normalize": False, "size": 32},
            {"range": [0, 255], "size": [32, 32], "resize": "stretch"},
        ),
        ({"tokenizer": "words"}, None),
    ],
)
def test_hugging_face(content: dict[str, Any], expected: dict[str, Any] | None) -> None:
    assert hugging_face(content) == ({} if expected is None else {"input": expected})


def test_timm_and_class_names() -> None:
    mean, std = map(list, IMAGENET)
    known = {
        "input_size": [3, 288, 288],
        "mean": mean,
        "std": std,
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "crop_mode": "center",
    }
    expected = {
        "size": [288, 288],
        "channels": 3,
        "range": [0, 1],
        "mean": mean,
        "std": std,
        "resize": "crop",
        "crop": 0.95,
        "interpolation": "bicubic",
    }
    named = {"input": expected, "output": {"classes": ["a", "b"]}}
    assert timm({"pretrained_cfg": known, "label_names": ["a", "b"]}) == named
    assert timm(known)["input"] == expected, "the older form"
    assert timm({"pretrained_cfg": known | {"crop_mode": "squash"}})["input"]["resize"] == "stretch"
    assert timm({"id2label": {"1": "k", "0": "j"}}) == {"output": {"classes": ["j", "k"]}}
    assert timm({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "hidden_size": 768}) == {}


def test_unusable_json_files_next_to_the_model(tmp_path: Path) -> None:
    path = model_at(tmp_path / "m.onnx")
    (tmp_path / "config.json").write_text("[1, 2")
    assert read_sidecar(path) == Sidecar(), "a config.json of another program is ignored"
    (tmp_path / "preprocessor_config.json").write_text("[1, 2")
    with pytest.raises(BadInput, match=r"preprocessor_config\.json: not readable as Hugging Face preprocessing"):
        read_sidecar(path)


def test_resizing_scales_the_shorter_side_and_crops_the_centre() -> None:
    """Shorter side to 256, longer side rounded down, central crop of 224; also with the crop as 224 / 256."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (301, 407, 3), dtype=np.uint8))
    whole = np.asarray(picture.resize((346, 256), Image.Resampling.BILINEAR))
    for crop in (256, 0.875):
        ours = fit(picture, (3, 224, 224), Resizing(crop=crop))
        np.testing.assert_array_equal(ours, whole[16:240, 61:285].transpose(2, 0, 1))
    bicubic = np.asarray(picture.resize((32, 64), Image.Resampling.BICUBIC))
    stretched = fit(picture, (3, 64, 32), Resizing(resize="stretch", interpolation="bicubic"))
    np.testing.assert_array_equal(stretched, bicubic.transpose(2, 0, 1))


def test_image_of_the_input_size_is_unchanged() -> None:
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    np.testing.assert_array_equal(fit(picture, (3, 4, 4), Resizing(crop=0.5)), np.asarray(picture).transpose(2, 0, 1))


def test_crop_larger_than_the_image_is_rejected() -> None:
    with pytest.raises(BadInput, match=r"here: crop is 200, .* 224 x 224; expected at least 224"):
        resizing(Sidecar(origin="here", crop=200), (3, 224, 224))


def test_presets_are_recognised() -> None:
    used = Preprocessing(shape=(3, 4, 4), mean=IMAGENET[0], std=IMAGENET[1])
    assert presets.name_of(used) == "imagenet"
    mean, std = (tuple(255 * value for value in values) for values in IMAGENET)
    scaled = Preprocessing(shape=(3, 4, 4), range=(0, 255), mean=mean, std=std)
    assert presets.name_of(scaled) == "imagenet", "equal values in other units"
    others = presets.others(scaled)
    assert set(others) == set(presets.PRESETS) - {"imagenet", "mnist"} | {"as used, but bgr"}
    grey = Preprocessing(shape=(1, 4, 4))
    assert (presets.name_of(grey), set(presets.others(grey))) == ("unit", {"inception", "mnist", "raw"})
    whole = presets.others(Preprocessing(shape=(3, 4, 4), dtype="uint8", range=(0, 255)))
    assert set(whole) == {"as used, but bgr"}, "an integer input holds whole numbers only"


def test_interval_and_test_of_matched_pairs() -> None:
    """Reference values: binomial tails, and the formula of Agresti and Min."""
    assert statistics.mcnemar(0, 0) == 1
    assert statistics.mcnemar(5, 0) == pytest.approx(1 / 32)
    assert statistics.mcnemar(3, 1) == pytest.approx(5 / 16)
    value, low, high = statistics.matched(30, 10, 100)
    half = 1.959964 * np.sqrt(41 - 400 / 102) / 102
    assert (value, low, high) == pytest.approx((0.2, 20 / 102 - half, 20 / 102 + half))
    assert statistics.matched(0, 0, 0) == statistics.NOTHING


def records_of(probe: Any, model: Path, data: Path, **overrides: Any) -> Records:
    plugins = registry.load()
    request = Request(model=model, data=data, overrides={"input": overrides} if overrides else {})
    classifier, images = open_audit(plugins, request, find_suite("full", plugins), "cpu")
    from auditor.run.measuring import Measurer

    table = Measurer(classifier, images, 0).measure(probe, images.ids).table
    return Records(frame=table.to_pandas(), examples=pd.DataFrame(), classes=classifier.classes, labelled=True)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Return images whose class depends on the channel order."""
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    images = rng.integers(0, 100, (60, 4, 4, 3), dtype=np.uint8)
    images[np.arange(60), :, :, labels] += 100
    np.savez(tmp_path / "d.npz", images=images, labels=labels)
    return tmp_path / "d.npz"


def test_preprocessing_detects_wrong_channel_order(colours: Path) -> None:
    probe = registry.load().configure("sanity.preprocessing", {}, where="test")
    model = model_at(colours.with_name("m.onnx"))
    good = probe.conclude(records_of(probe, model, colours, preset="unit"))
    bad = probe.conclude(records_of(probe, model, colours, order="bgr"))
    assert good.metrics[0].value == 0, "raw and inception are equal on a linear model"
    assert "No common preprocessing is significantly better" in good.findings[0].statement
    gain = bad.metrics[0]
    # red and blue are swapped: a third is correct as used, all with the other order
    assert gain.value == pytest.approx(2 / 3)
    assert gain.low is not None
    assert gain.low > 0.4
    assert "probably not the one used in training" in bad.findings[0].statement


def test_model_calls_of_alternative_preprocessing_are_counted(colours: Path) -> None:
    plugins = registry.load()
    request = Request(model=model_at(colours.with_name("m.onnx")), data=colours)
    classifier, images = open_audit(plugins, request, find_suite("full", plugins), "cpu")
    before = classifier.calls.forward
    probe = plugins.configure("sanity.preprocessing", {}, where="test")
    pixels = images.pixels(images.ids)
    from auditor.data.dataset import Batch

    batch = Batch(
        ids=images.ids,
        pixels=pixels,
        labels=np.zeros(60, dtype=np.int64),
        probabilities=np.full((60, 3), 1 / 3, dtype=np.float32),
    )
    probe.measure(classifier, batch, Randomness(0, "x"))
    assert classifier.calls.forward - before == 60 * len(presets.others(classifier.preprocessing))
    assert presets.name_of(classifier.preprocessing) == "unit", "the classifier is unchanged"


def test_nan_under_another_preprocessing_counts_as_wrong(tmp_path: Path) -> None:
    """The score of a white image overflows under "raw" only."""
    model = linear(tmp_path / "m.onnx", [[3e35] * 16, [0.0] * 16], (1, 4, 4))
    plugins = registry.load()
    np.savez(tmp_path / "d.npz", images=np.stack([np.zeros((4, 4)), np.full((4, 4), 255)]).astype(np.uint8))
    classifier, images = open_audit(
        plugins, Request(model=model, data=tmp_path / "d.npz"), find_suite("full", plugins), "cpu"
    )
    raw = classifier.with_preprocessing(presets.apply("raw", classifier.preprocessing))
    assert presets.answers(raw, images.pixels(images.ids)).tolist() == [0, -1]


def test_inspect_reports_the_best_preprocessing(colours: Path, auditor_cli: Cli) -> None:
    model = model_at(colours.with_name("m.onnx"))
    result = auditor_cli("inspect", model, "--channels", "bgr", "--data", colours)
    assert result.exit_code == 0, result.output
    assert "channel order from command line" in result.output
    assert "as used, but rgb         100.0 % [94.0, 100.0]" in result.output
    assert "as used (no preset)       33.3 %" in result.output
    assert "Fits best: as used, but rgb." in result.output


def test_inspect_names_a_common_class_order_before_a_preset_that_fits_as_well(tmp_path: Path, auditor_cli: Cli) -> None:
    """With two classes, reversed channels may give the same answers as reversed names."""
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    images = rng.integers(0, 100, (60, 4, 4, 3), dtype=np.uint8)
    images[np.arange(60), :, :, 2 * labels] += 100
    np.savez(tmp_path / "d.npz", images=images, labels=labels)
    weights = np.array([[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]])
    model = linear(tmp_path / "m.onnx", np.repeat(weights, 16, axis=1), (3, 4, 4))
    result = auditor_cli("inspect", model, "--data", tmp_path / "d.npz")
    assert result.exit_code == 0, result.output
    assert "Another order of the classes fits better, the reverse order: accuracy 100.0 %" in result.output


def test_options_are_recorded_and_used_for_replay(colours: Path, auditor_cli: Cli, tmp_path: Path) -> None:
    """Preprocessing options are recorded, are part of the identity of records, and apply to replay."""
    model = model_at(colours.with_name("m.onnx"))
    weak = ["--probe", "attacks.noise", "--samples", 5, "--data", colours, "--format", "json", "--out", "out"]
    options = ["--mean", "0.1,0.2,0.3", "--std", "0.5", "--range", "0-255", "--channels", "bgr", "--crop", "0.9"]
    first = auditor_cli("run", model, *weak, *options)
    assert first.exit_code == 0, first.output
    described = json.loads((tmp_path / "out" / "audit.json").read_text())["model"]["input"]
    assert described == {
        "shape": [None, 3, 4, 4],
        "layout": "nchw",
        "dtype": "float32",
        "range": [0, 255],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5],
        "order": "bgr",
        "source": "command line",
    }
    assert auditor_cli("replay", "out").exit_code == 0
    records = {path.name for path in (tmp_path / "out" / "records").rglob("*.parquet")}
    assert auditor_cli("run", model, *weak, "--preset", "unit").exit_code == 0
    again = {path.name for path in (tmp_path / "out" / "records").rglob("*.parquet")}
    assert records & again == {"images.parquet"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mean", "a"], "'--mean': 'a'; expected a number, or three"),
        (["--mean", "0.1,0.2"], "command line: mean has 2 values for 3 channels"),
        (["--std", "0"], "command line [input]: std is [0.0]; expected"),
        (["--range", "7"], "expected the values of black and white"),
        (["--range", "7-7"], "range is [7.0, 7.0]; expected a list of 2 different numbers"),
        (["--input-size", "big"], "expected a side in pixels"),
        (["--input-size", "5"], "command line: size is [5, 5], but m.onnx takes [4, 4]"),
        (["--crop", "much"], "expected a share such as 0.875"),
        (["--crop", "-1"], "command line [input]: crop is -1.0; expected the fraction"),
        (["--crop", "2"], "crop is 2.0, so the shorter side is scaled to 2 pixels, but the model takes 4 x 4"),
        (["--preset", "vgg"], "'vgg' is not one of 'imagenet'"),
    ],
)
def test_invalid_options_are_rejected(options: list[str], message: str, colours: Path, auditor_cli: Cli) -> None:
    result = auditor_cli("run", model_at(colours.with_name("m.onnx")), "--data", colours, *options)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")


def test_metadata_of_the_onnx_specification(tmp_path: Path, auditor_cli: Cli) -> None:
    path = model_at(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    helper.set_model_props(model, {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"})
    onnx.save(model, str(path))
    result = auditor_cli("inspect", path)
    assert "pixels to [0, 255], mean [0.0], std [1.0], bgr; from" in result.output
    assert "(its own metadata)" in result.output


@pytest.mark.parametrize("kind", ["images", "rows"])
def test_constants_of_the_preprocessing_are_uploaded_once(kind: str) -> None:
    class Uploads(TorchFunctionMode):
        n = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.n += func in (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor)
            return func(*args, **(kwargs or {}))

    transform: Any = Preprocessing(shape=(3, 2, 2), mean=(0.41, 0.42, 0.43), std=(0.21, 0.22, 0.23))
    pixels = torch.rand(5, 3, 2, 2)
    if kind == "rows":
        features = tuple(Feature(f"f{i}", i / 7, i + 1.5, 1.0, whole=False) for i in range(3))
        transform, pixels = TabularPreprocessing(features=features), torch.rand(5, 3)
    expected = transform.apply(pixels.numpy())
    # a cached constant must serve under autograd, even if the first pass had no gradient
    with torch.inference_mode():
        np.testing.assert_allclose(transform.differentiable(pixels).numpy(), expected, rtol=1e-5)
    with Uploads() as uploads:
        for _ in range(3):
            x = pixels.clone().requires_grad_()
            transform.differentiable(x).sum().backward()
    assert uploads.n == 0
