"""Open every classification family of torchvision, exported in three formats: docs/reference/models.md.

    uv run python benchmarks/torchvision_models.py [NETWORK ...]

One network of each family, with random weights and batch-norm statistics of random images, so that outputs depend on
the image. Each is written by torch's default exporter and by the TorchScript exporter at opset 13 and 17, with a
dynamic batch, and opened as `auditor run` opens it. White-box means that copy and deployed model agree within an
audit's tolerance; the largest difference of scores is relative to the largest score. The gradient of the copy's margin
is compared with that of the torch module in float64: Euclidean norm of the difference over that of the gradient. Rows
of the named networks are replaced in the document, and the operators of all files are added to its list.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import logging
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import document
import numpy as np
import onnx
import torch
import torchvision.models
from torch import nn

from auditor.model.classifier import Classifier
from auditor.model.loading import build, read_sidecar
from auditor.plugin import registry

N_CLASSES = 10
EXPORTS = ("default", "script-13", "script-17")
HEADER = ("network", "input", "default exporter", "TorchScript exporter, opset 13", "TorchScript exporter, opset 17")


@dataclass(frozen=True)
class Network:
    """A network of torchvision at the smallest convenient input of its family."""

    side: int = 64
    options: dict[str, Any] = field(default_factory=dict)


NETWORKS = {
    # the exporters cannot write the adaptive pooling of AlexNet and VGG at other sizes
    "alexnet": Network(side=224),
    "convnext_tiny": Network(),
    "densenet121": Network(),
    "efficientnet_b0": Network(),
    "efficientnet_v2_s": Network(),
    "googlenet": Network(options={"init_weights": False, "aux_logits": False}),
    "inception_v3": Network(side=96, options={"init_weights": False, "aux_logits": False}),
    # 7 x 7 partitions of a grid that the stem and four stages divide by 32
    "maxvit_t": Network(side=224),
    "mnasnet0_5": Network(),
    "mobilenet_v2": Network(),
    "mobilenet_v3_small": Network(),
    "regnet_x_400mf": Network(),
    "regnet_y_400mf": Network(),
    "resnet18": Network(),
    "resnext50_32x4d": Network(),
    "shufflenet_v2_x0_5": Network(),
    "squeezenet1_1": Network(),
    "swin_t": Network(),
    "swin_v2_t": Network(),
    "vgg11_bn": Network(side=224),
    "vit_b_16": Network(options={"image_size": 64}),
    "wide_resnet50_2": Network(),
}


def make(name: str) -> nn.Module:
    """Create the network, frozen, with outputs that depend on the input."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None, num_classes=N_CLASSES, **network.options)
    with torch.no_grad():
        for part_name, parameter in module.named_parameters():
            # weights initialised to zero, and layer scales near zero, would hide the layers behind them
            if "layer_scale" in part_name:
                parameter.fill_(0.3)
            elif parameter.dim() > 1 and not parameter.any():
                parameter.normal_(0, 0.05)
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
        if not norms:
            scale_layers(module, pictures(name, 8, 0))
        for part in norms:
            part.momentum = None  # the mean over all batches
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        if norms:
            module.train()
            for seed in range(2):
                module(pictures(name, 16 if network.side < 100 else 4, seed))
    return module.eval().requires_grad_(False)


def scale_layers(module: nn.Module, x: torch.Tensor) -> None:
    """Scale every layer to outputs with mean 0 and variance 1: a large common part would hide differences of images."""

    def scale(part: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        del inputs
        factor = (output - output.mean(0)).std() + 1e-6
        axes = [i for i in range(output.dim()) if i != (1 if isinstance(part, nn.Conv2d) else output.dim() - 1)]
        if part.bias is not None:
            part.bias -= output.mean(axes)
            output = output - output.mean(axes, keepdim=True)
        for parameter in part.parameters():
            parameter.div_(factor)
        return output / factor

    hooks = [part.register_forward_hook(scale) for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    module.eval()(x)
    for hook in hooks:
        hook.remove()


def pictures(name: str, n: int, seed: int) -> torch.Tensor:
    """Return images in [0, 1] with coarse and fine structure."""
    generator = torch.Generator().manual_seed(seed)
    side = NETWORKS[name].side
    coarse = torch.rand((n, 3, 4, 4), generator=generator)
    fine = torch.rand((n, 3, side, side), generator=generator)
    return 0.7 * nn.functional.interpolate(coarse, (side, side), mode="bilinear") + 0.3 * fine


def export(module: nn.Module, x: torch.Tensor, exporter: str, path: Path) -> None:
    """Write the ONNX file, with a dynamic batch."""
    logging.disable(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if exporter == "default":
            program = torch.onnx.export(
                module, (x,), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},)
            )
            assert program is not None
            program.save(path)
        else:
            buffer = io.BytesIO()
            torch.onnx.export(
                module,
                (x,),
                buffer,
                dynamo=False,
                opset_version=int(exporter.removeprefix("script-")),
                input_names=["x"],
                output_names=["y"],
                dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
            )
            path.write_bytes(buffer.getvalue())
    logging.disable(logging.NOTSET)


def open_file(path: Path) -> Classifier:
    """Open the classifier as an audit does, with pixels from 0 to 1 unchanged."""
    artefact = registry.load().first("auditor_open_model", path=path, device="cpu", trust=False, output="")
    return build(
        path,
        artefact,
        read_sidecar(
            path,
            artefact.metadata,
            options={"input": {"size": [224, 224]}} if None in artefact.input_shape[2:] else None,
        ),
    )


def gradient_error(classifier: Classifier, module: nn.Module, x: torch.Tensor) -> float:
    """Return the relative error of the margin's gradient, in float64."""
    gradients = []
    assert classifier.copy is not None
    for network in (copy.deepcopy(classifier.copy), copy.deepcopy(module)):
        v = x.double().requires_grad_()
        result = network.double()(v)
        top = (result[0] if isinstance(result, tuple) else result).topk(2, dim=1).values
        gradients.append(torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), v)[0])
    assert gradients[1].norm() > 0
    return float((gradients[0] - gradients[1]).norm() / gradients[1].norm())


@dataclass(frozen=True)
class Outcome:
    """Result for one file."""

    text: str
    white_box: bool = False
    difference: float = float("nan")
    gradient: float = float("nan")
    operators: frozenset[str] = frozenset()


def judge(name: str, module: nn.Module, exporter: str, folder: Path) -> Outcome:
    """Export, open and compare."""
    path = folder / f"{name}-{exporter}.onnx"
    try:
        export(module, pictures(name, 2, 7), exporter, path)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Outcome(f"the exporter refuses: {lines[0][:90]}")
    graph = onnx.load(path, load_external_data=False)
    operators = written_operators(graph)
    opset = next(entry.version for entry in graph.opset_import if entry.domain in {"", "ai.onnx"})
    classifier = open_file(path)
    x = pictures(name, 4 if NETWORKS[name].side < 100 else 2, 8)
    scores = classifier.predict(x.numpy())
    if np.ptp(scores, axis=0).max() < 1e-4:
        raise SystemExit(f"{name}: its outputs do not depend on the image, so the comparison is meaningless")
    raw = module(x)
    classifier.verify(x.numpy())
    if classifier.access == "black-box" or classifier.parity is None or classifier.parity.max_abs_difference is None:
        return Outcome(f"black-box: {classifier.access_reason}", operators=operators)
    difference = classifier.parity.max_abs_difference / float(raw.abs().max())
    gradient = gradient_error(classifier, module, x[:2])
    text = f"white-box, {difference:.0e}, gradient {gradient:.0e}" + (
        f" (opset {opset})" if exporter == "default" else ""
    )
    return Outcome(text, True, difference, gradient, operators)


def written_operators(model: onnx.ModelProto) -> frozenset[str]:
    """Return the operators of all nodes, including functions and subgraphs; with their domain unless it is ONNX's."""
    own = {(function.domain, function.name) for function in model.functions}
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    operators = set()
    while waiting:
        node = waiting.pop()
        if (node.domain, node.op_type) not in own:
            operators.add(f"{node.domain}.{node.op_type}" if node.domain not in {"", "ai.onnx"} else node.op_type)
        for attribute in node.attribute:
            waiting += [*attribute.g.node, *(inner for graph in attribute.graphs for inner in graph.node)]
    return frozenset(operators)


def size(name: str) -> str:
    """Return the size of the input for the table."""
    return f"{NETWORKS[name].side} x {NETWORKS[name].side}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", choices=[[], *NETWORKS], help="all by default")
    names = parser.parse_args().networks or list(NETWORKS)
    warnings.simplefilter("ignore")
    # a fused operator of frozen modules that the TorchScript exporter cannot write
    torch.backends.mha.set_fastpath_enabled(False)
    for name in set(NETWORKS) - set(document.rows("torchvision")):
        document.add_row("torchvision", HEADER, (name, size(name), *["not measured"] * len(EXPORTS)))
    for name in names:
        module = make(name)
        with tempfile.TemporaryDirectory() as folder:
            outcomes = [judge(name, module, kind, Path(folder)) for kind in EXPORTS]
        row = (name, size(name), *(outcome.text for outcome in outcomes))
        print(" | ".join(row), flush=True)
        document.add_row("torchvision", HEADER, row)
        document.add_operators({operator for outcome in outcomes for operator in outcome.operators})


if __name__ == "__main__":
    main()
