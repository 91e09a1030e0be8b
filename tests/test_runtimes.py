"""OpenVINO IR and LiteRT as black boxes, with the answers of ONNX Runtime and closed forms; Keras is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from auditor.errors import BadInput
from auditor.plugins.formats.litert import quantised, real
from auditor.run.opening import open_model

Linear = Callable[..., Path]
SHAPE = (1, 4, 4)
WEIGHTS = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
PIXELS = np.random.default_rng(1).random((5, *SHAPE)).astype(np.float32)
LOGITS = PIXELS.reshape(5, 16) @ WEIGHTS.T


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def openvino_ir(path: Path, onnx_file: Path) -> Path:
    import openvino

    openvino.save_model(openvino.convert_model(onnx_file), path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize("with_softmax", [False, True])
def test_openvino_gives_the_answers_of_onnx_runtime(tmp_path: Path, linear_model: Linear, with_softmax: bool) -> None:
    onnx_file = linear_model(tmp_path / "m.onnx", WEIGHTS, np.zeros(3), SHAPE, softmax=with_softmax)
    classifier = open_model(openvino_ir(tmp_path / "m.xml", onnx_file), "cpu")
    assert classifier.access == "black-box"
    assert classifier.outputs == ("probabilities" if with_softmax else "logits")
    np.testing.assert_allclose(classifier.predict(PIXELS), open_model(onnx_file, "cpu").predict(PIXELS), atol=1e-6)
    np.testing.assert_allclose(classifier.predict(PIXELS), softmax(LOGITS), atol=1e-5)


def test_openvino_weights_are_part_of_the_model(tmp_path: Path, linear_model: Linear) -> None:
    path = openvino_ir(tmp_path / "m.xml", linear_model(tmp_path / "m.onnx", WEIGHTS, np.zeros(3), SHAPE))
    before = open_model(path, "cpu").sha256
    openvino_ir(path, linear_model(tmp_path / "m.onnx", 2 * WEIGHTS, np.zeros(3), SHAPE))
    assert open_model(path, "cpu").sha256 != before
    path.with_suffix(".bin").unlink()
    with pytest.raises(BadInput, match=r"its weights m\.bin are missing"):
        open_model(path, "cpu")
    path.with_suffix(".bin").write_bytes(b"")
    path.write_text("<note/>")
    with pytest.raises(BadInput, match="OpenVINO cannot load it"):
        open_model(path, "cpu")


def tflite(path: Path, weights: np.ndarray, *, batch: int = -1, scale: float = 0.0) -> Path:
    """Write reshape and fully connected as a LiteRT model of images (batch, 4, 4, 1); uint8 input with a ``scale``."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, shape: list[int], kind: int, buffer: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name.encode(), [abs(side) for side in shape], kind, buffer
        if shape[0] < 0:
            made.shapeSignature = shape
        return made

    def operator(code: int, inputs: list[int], output: int) -> Any:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, inputs, [output]
        return made

    def buffer(array: np.ndarray | None = None) -> Any:
        made = schema.BufferT()
        made.data = None if array is None else np.frombuffer(array.tobytes(), dtype=np.uint8)
        return made

    float32, kinds = schema.TensorType.FLOAT32, schema.BuiltinOperator
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("image", [batch, 4, 4, 1], schema.TensorType.UINT8 if scale else float32, 0),
        tensor("shape", [2], schema.TensorType.INT32, 1),
        tensor("flat", [batch, 16], float32, 0),
        tensor("weights", list(weights.shape), float32, 2),
        tensor("scores", [batch, len(weights)], float32, 0),
        tensor("real", [batch, 4, 4, 1], float32, 0),
    ]
    if scale:
        graph.tensors[0].quantization = quantisation = schema.QuantizationParametersT()
        quantisation.scale, quantisation.zeroPoint = [scale], [0]
    first = 5 if scale else 0
    graph.inputs, graph.outputs = [0], [4]
    graph.operators = [operator(0, [first, 1], 2), operator(1, [2, 3, -1], 4)]
    graph.operators[1].builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    graph.operators[1].builtinOptions = schema.FullyConnectedOptionsT()
    codes = [kinds.RESHAPE, kinds.FULLY_CONNECTED]
    if scale:
        graph.operators.insert(0, operator(2, [0], 5))
        codes.append(kinds.DEQUANTIZE)
    model = schema.ModelT()
    model.version, model.subgraphs = 3, [graph]
    model.operatorCodes = [schema.OperatorCodeT() for _ in codes]
    for made, code in zip(model.operatorCodes, codes, strict=True):
        made.builtinCode = made.deprecatedBuiltinCode = code
        made.version = 1
    model.buffers = [buffer(), buffer(np.array([-1, 16], dtype=np.int32)), buffer(weights.astype(np.float32))]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


@pytest.mark.parametrize("batch", [-1, 1, 2])
def test_litert_gives_the_scores_of_the_matrix(tmp_path: Path, batch: int) -> None:
    classifier = open_model(tflite(tmp_path / "m.tflite", WEIGHTS, batch=batch), "cpu")
    assert (classifier.shape, classifier.access) == (SHAPE, "black-box")
    assert classifier.fixed_batch == (None if batch < 0 else batch)
    np.testing.assert_allclose(classifier.scores(PIXELS), LOGITS, atol=1e-5)
    np.testing.assert_allclose(classifier.predict(PIXELS[:3]), softmax(LOGITS[:3]), atol=1e-5)


def test_quantised_litert_input_gets_real_values(tmp_path: Path) -> None:
    classifier = open_model(tflite(tmp_path / "m.tflite", WEIGHTS, scale=1 / 255), "cpu")
    whole = np.round(PIXELS * 255) / 255
    np.testing.assert_allclose(classifier.scores(whole.astype(np.float32)), whole.reshape(5, 16) @ WEIGHTS.T, atol=1e-5)
    assert classifier.artefact.precision == "int8"


def test_quantisation_rounds_and_clips() -> None:
    np.testing.assert_array_equal(quantised(np.array([-9.0, 0, 0.26, 9]), np.int8, 0.25, -128), [-128, -128, -127, -92])
    np.testing.assert_array_equal(real(np.array([-128, -127], dtype=np.int8), 0.25, -128), [0, 0.25])


@pytest.mark.parametrize("ending", ["xml", "tflite"])
def test_audit_of_a_black_box(
    tmp_path: Path, linear_model: Linear, auditor_cli: Callable[..., Result], ending: str
) -> None:
    if ending == "xml":
        path = openvino_ir(tmp_path / "m.xml", linear_model(tmp_path / "m.onnx", WEIGHTS, np.zeros(3), SHAPE))
    else:
        path = tflite(tmp_path / "m.tflite", WEIGHTS)
    images = (PIXELS[:, 0] * 255).astype(np.uint8)
    labels = (images.reshape(5, 16) @ WEIGHTS.T).argmax(axis=1)
    np.savez(tmp_path / "d.npz", x=images, y=labels)
    probes = ["--probe", "performance.accuracy", "--probe", "attacks.fgsm", "--probe", "attacks.noise"]
    done = auditor_cli(
        "run", path, "--data", tmp_path / "d.npz", *probes, "--format", "json", "--out", "out", "--trust-model"
    )
    assert done.exit_code == 0, done.output
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["model"]["format"] == {"xml": "openvino", "tflite": "litert"}[ending]
    assert {probe["id"]: probe["status"] for probe in audit["probes"]}["attacks.fgsm"] == "not-applicable"
    assert next(p for p in audit["probes"] if p["id"] == "performance.accuracy")["metrics"][0]["value"] == 1


def test_text_named_tflite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_text("no model")
    with pytest.raises(BadInput, match="LiteRT cannot load it"):
        open_model(tmp_path / "m.tflite", "cpu")


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_keras_is_refused_with_the_export_command(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(BadInput, match=r'load_model\("m\..*"\); .* model\.export\("m\.onnx", format="onnx"\)'):
        open_model(tmp_path / name, "cpu")
