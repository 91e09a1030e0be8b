"""Input types, value ranges and sizes: what is assumed is said, and what cannot be represented is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from auditor.data.dataset import Images, Source
from auditor.data.resizing import Resizing, fit, read_file
from auditor.errors import BadInput
from auditor.model.deployed import DeployedModel
from auditor.model.preprocessing import Preprocessing
from auditor.run.opening import open_model

TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


def grey_model(
    path: Path, shape: list[Any], dtype: int = TensorProto.FLOAT, white: float = 1.0, black: float = 0.0
) -> Path:
    """Write a model whose class 1 is "light": the mean input is above the middle of black and white."""
    middle, scale = (white + black) / 2, 20 / (white - black)
    axes = np.arange(1, len(shape), dtype=np.int64)
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("Gemm", ["column", "weights", "bias"], ["logits"]),
    ]
    constants = {
        "axes": axes,
        "one": np.array([1], dtype=np.int64),
        "weights": np.array([[-scale, scale]], dtype=np.float32),
        "bias": np.array([scale * middle, -scale * middle], dtype=np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "grey",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def light_and_dark(model: DeployedModel) -> list[int]:
    """Predictions for a light and a dark image."""
    shades = np.array([0.8, 0.2], dtype=np.float32)
    return [
        int(i) for i in model.predict(np.broadcast_to(shades[:, None, None, None], (2, *model.shape))).argmax(axis=1)
    ]


Open = Callable[..., DeployedModel]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def call(shape: list[Any], dtype: str = "float32", sidecar: str = "", **how: Any) -> DeployedModel:
        path = grey_model(tmp_path / "m.onnx", shape, TYPES.get(dtype, TensorProto.FLOAT), **how)
        (tmp_path / "m.onnx.audit.toml").write_text(sidecar)
        return open_model(path, "cpu", trust=True)

    return call


@pytest.mark.parametrize(
    ("dtype", "black", "white"),
    [("int8", -128, 127), ("uint8", 0, 255), ("uint16", 0, 65535), ("int32", 0, 255), ("int64", 0, 255)],
)
def test_integer_input_gets_a_range_with_a_warning(dtype: str, black: float, white: float, opened: Open) -> None:
    model = opened(["n", 1, 16, 16], dtype, black=black, white=white)
    assert model.preprocessing.range == (black, white)
    assert light_and_dark(model) == [1, 0]
    assert any(f"The model takes {dtype} and no range is stated" in warning for warning in model.warnings)
    assert model.preprocessing_source == f"a guess from the input type {dtype}"


def test_stated_range_of_an_integer_input_needs_no_warning(opened: Open) -> None:
    model = opened(["n", 1, 16, 16], "int32", "[input]\nrange = [0, 4095]", white=4095)
    assert light_and_dark(model) == [1, 0]
    assert not any("range" in warning for warning in model.warnings)


@pytest.mark.parametrize(
    "stated",
    ['preset = "imagenet"', "range = [0, 1]", "range = [-1, 1]", "mean = [0.5]\nstd = [0.25]", "range = [0, 300]"],
)
def test_normalisation_that_the_integer_type_cannot_represent_is_refused(stated: str, opened: Open) -> None:
    with pytest.raises(
        BadInput, match=r"input is uint8 \(0 to 255\), which holds whole numbers; expected a range such"
    ):
        opened(["n", 3, 16, 16], "uint8", f"[input]\n{stated}")


@pytest.mark.parametrize("dtype", TYPES)
def test_casts_never_wrap_around(dtype: str) -> None:
    limits = np.iinfo(dtype)
    extreme = Preprocessing(shape=(1, 1, 3), dtype=dtype, range=(limits.min - 1000.0, limits.max + 1000.0))
    pixels = np.array([[[[0, 0.5, 1]]]], dtype=np.float32)
    for cast in (extreme.apply(pixels), extreme.on_device(torch.from_numpy(pixels)).numpy()):
        assert cast.dtype == dtype
        low, middle, high = cast[0, 0, 0]
        assert low == limits.min
        assert low < middle < high
        assert high >= limits.max - 2**10 * (dtype == "int64")


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [((0.0,), (1.0,), (0, 255)), ((100.0, 0.0, 55.0), (1.0,), (-100, 255)), ((0.0,), (2.0, 1.0, 5.0), (0, 255))],
)
def test_span_covers_all_channels(mean: Any, std: Any, expected: tuple[float, float]) -> None:
    assert Preprocessing(shape=(3, 1, 1), range=(0.0, 255.0), mean=mean, std=std).span() == expected


@pytest.mark.parametrize(
    ("shape", "stated", "expected"),
    [
        (["n", 256], "size = [16, 16]", (1, 16, 16)),
        (["n", 768], "size = [16, 16]", (3, 16, 16)),
        (["n", 256, 1], "", (1, 16, 16)),
        (["n", 16, 16], "", (1, 16, 16)),
        (["n", 12, 20], "", (1, 12, 20)),
        (["n", 240], "size = [12, 20]", (1, 12, 20)),
    ],
)
def test_flat_input_is_an_image_model(
    shape: list[Any], stated: str, expected: tuple[int, int, int], opened: Open
) -> None:
    model = opened(shape, "float32", f"[input]\n{stated}")
    assert (model.shape, model.input_kind) == (expected, "images")
    assert light_and_dark(model) == [1, 0]
    images = np.random.default_rng(0).random((4, *model.shape), dtype=np.float32)
    model.verify(images)
    assert model.access == "white-box"


@pytest.mark.parametrize(("values", "side", "stated"), [(256, 16, ()), (768, 16, ()), (192, 16, ("--input-size", "8"))])
def test_row_of_pixels_is_audited_on_images(
    values: int, side: int, stated: tuple[str, ...], tmp_path: Path, auditor_cli: Callable[..., Result]
) -> None:
    model = grey_model(tmp_path / "m.onnx", ["n", values], TensorProto.FLOAT)
    shades = np.repeat(np.uint8([250, 10]), 4)
    images = np.broadcast_to(shades[:, None, None, None], (8, side, side, 3))
    np.savez(tmp_path / "data.npz", images=images, labels=np.repeat([1, 0], 4))
    options = ("--data", "data.npz", "--probe", "performance.accuracy", "--format", "json", "--out", "run", *stated)
    result = auditor_cli("run", model, *options)
    assert result.exit_code in {0, 3}, result.output
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert audit["data"]["kind"] == "images"
    assert audit["probes"][0]["metrics"][0]["value"] == 1.0


def test_features_are_not_audited_on_images(tmp_path: Path, auditor_cli: Callable[..., Result]) -> None:
    model = grey_model(tmp_path / "m.onnx", ["n", 30], TensorProto.FLOAT)
    np.savez(tmp_path / "data.npz", images=np.zeros((4, 16, 16), dtype=np.uint8), labels=np.zeros(4, dtype=int))
    result = auditor_cli("run", model, "--data", "data.npz")
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "takes 30 tabular features, and data.npz holds images" in said
    assert "--input-size" in said


def test_flat_input_that_is_no_square_asks_for_the_size(opened: Open) -> None:
    with pytest.raises(BadInput, match=r"240 values per image .* state height and width with --input-size"):
        opened(["n", 240, 1])


def test_model_of_rows_stays_tabular_without_images(opened: Open) -> None:
    assert opened(["n", 256]).input_kind == "rows"


def test_error_lists_the_sizes_tried(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "shape"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights"], ["logits"]),
        ],
        "fixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(np.array([-1, 3 * 7 * 7], dtype=np.int64), "shape"),
            numpy_helper.from_array(np.ones((147, 2), dtype=np.float32), "weights"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(tmp_path / "m.onnx")
    )
    with pytest.raises(BadInput) as caught:
        open_model(tmp_path / "m.onnx", "cpu", trust=True)
    assert "accepted none of the image sizes tried (224x224, 32x32, 28x28, 64x64, 112x112" in str(caught.value)
    assert "--input-size HEIGHTxWIDTH" in str(caught.value)


# images of more than 8 bits


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_white_of_a_deep_image_is_stated(suffix: str, tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"i.{suffix}")
    picture = read_file(tmp_path / f"i.{suffix}")[1]
    dark, right = (fit(picture, (1, 16, 16), Resizing(white=white)) for white in (None, 4095))
    np.testing.assert_allclose(dark[0], values / 65535, atol=1e-6)
    np.testing.assert_allclose(right[0], values / 4095, atol=1e-6)


@pytest.mark.parametrize(
    ("largest", "white", "warned"),
    [(4095, None, "[input] white = 4095"), (1000, None, "[input] white = 1023"), (60000, None, ""), (4095, 4095.0, "")],
)
def test_deep_images_that_use_a_sliver_of_their_range_are_named(largest: int, white: float | None, warned: str) -> None:
    image = np.full((16, 16), largest, dtype=np.uint16)
    source = Source(path="d", ids=["a", "b"], read=lambda _: (b"", image))
    images = Images(source, shape=(1, 16, 16), resizing=Resizing(white=white))
    assert len(images.warnings) == bool(warned)
    if warned:
        assert warned in images.warnings[0]
        assert f"{100 * largest / 65535:.1f} %" in images.warnings[0]
