"""Models that are Python objects: those of MAITE (image classification, protocols of MAITE 0.10), and torch modules.

A model of MAITE takes a batch, a list of arrays (channels, height, width), and returns one array (classes,) for each.
If it is a ``torch.nn.Module``, or an attribute of it is one, it is audited as a white box, provided that its answers to
tensors carry gradients; any other callable is a black box. A torch module without metadata takes a tensor
(n, channels, height, width) and returns a tensor (n, classes).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditor.data.maite import ImageKind, as_array, class_names, stated_id
from auditor.errors import BadInput, first_line
from auditor.model.artefact import Artefact

if TYPE_CHECKING:
    import torch

_MODEL = (
    "expected a path, a torch.nn.Module, or a MAITE model of image classification: a callable, with metadata that has"
    " an id"
)


def model_name(model: Any) -> str:
    """Return the name of a model that is an object: its id, or the class of a torch module without one.

    Raises BadInput for an object that is no model.
    """
    if not callable(model) or isinstance(model, type):
        raise BadInput(f"model: is a {type(model).__name__}; {_MODEL}")
    if _is_module(model) and not hasattr(model, "metadata"):
        return type(model).__name__
    try:
        return stated_id(model, _MODEL)
    except BadInput as error:
        raise BadInput(f"model: {error}") from None


def open_object(model: Any, kind: ImageKind | None, device: str) -> Artefact:
    """Open a model that is an object, for images of this kind; without one it is given NumPy arrays in [0, 1].

    The object itself is not changed: a torch module is copied to the device and set to evaluation.
    """
    name = model_name(model)
    follows_maite = hasattr(model, "metadata")
    given = kind if kind is not None and follows_maite else ImageKind(dtype="float32")
    classes = class_names(model, f"model {name}") if follows_maite else None
    found = _modules(model)
    network: torch.nn.Module | None = None
    reason = "the model is a callable that holds no torch.nn.Module"
    if found:
        try:
            network = _network(copy.deepcopy(model), takes_list=follows_maite)
            reason = "the model computes with torch: the copy is the object itself"
        except Exception as error:
            reason = f"the model cannot be copied ({type(error).__name__}: {first_line(error)})"
            if not follows_maite:
                raise BadInput(f"model {name}: {reason}; export it with torch.onnx.export") from None
    if network is not None and _is_module(model):
        scores = _module_scores(network, device)
    else:
        scores = _callable_scores(model, given)
    return Artefact(
        format="maite" if follows_maite else "torch-module",
        runtime=f"the Python object {type(model).__module__}.{type(model).__qualname__}",
        input_shape=() if kind is None else (None, kind.shape[0], None, None),
        input_dtype=given.dtype,
        scores=scores,
        copy=network,
        copy_reason=reason,
        metadata=_statements(kind, classes, ranged=follows_maite),
        identity=_identity(model, found),
        warnings=_warnings(name, model, found),
    )


def _is_module(thing: Any) -> bool:
    import torch

    return isinstance(thing, torch.nn.Module)


def _modules(model: Any) -> dict[str, torch.nn.Module]:
    """Return the torch modules of a model by attribute: itself, or what its attributes hold."""
    if _is_module(model):
        return {"": model}
    return {name: value for name, value in getattr(model, "__dict__", {}).items() if _is_module(value)}


def _network(model: Any, *, takes_list: bool) -> torch.nn.Module:
    """Return a module from a tensor (n, c, h, w) to scores (n, k) that calls the model."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # an attribute, so that a copy of this module calls a copy of the model: some probes change its weights
            self.model = model
            # registered, so that the modules move to the device and probes find their layers and weights
            self.parts = torch.nn.ModuleList([] if _is_module(model) else _modules(model).values())
            for parameter in self.parameters():
                parameter.requires_grad_(False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            answer = self.model(list(inputs)) if takes_list else self.model(inputs)
            scores = answer if isinstance(answer, torch.Tensor) else torch.stack(list(answer))
            if inputs.requires_grad and torch.is_grad_enabled() and not scores.requires_grad:
                raise RuntimeError("its answers carry no gradient; compute them with torch, without torch.no_grad()")
            return scores

    return Network().eval()


def _module_scores(network: torch.nn.Module, device: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    import torch

    network.to(device)

    def scores(inputs: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            answer = network(torch.from_numpy(inputs).to(device))
        result: NDArray[Any] = answer.float().cpu().numpy()
        return result

    return scores


def _callable_scores(model: Callable[..., Any], kind: ImageKind) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def scores(inputs: NDArray[Any]) -> NDArray[Any]:
        try:
            answers = [as_array(each) for each in model(kind.batch(inputs))]
        except (AttributeError, LookupError, AssertionError) as error:
            # of the kinds that show that the model does not accept the images
            what = "torch tensors" if kind.tensors else "NumPy arrays"
            raise RuntimeError(f"{type(error).__name__} on a list of {what}: {first_line(error)}") from error
        shapes = sorted({answer.shape for answer in answers})
        if len(answers) != len(inputs) or len(shapes) != 1 or len(shapes[0]) != 1:
            listed = ", ".join(str(shape) for shape in shapes[:3]) or "none"
            raise BadInput(
                f"the model returned {len(answers)} answers of shape {listed} for {len(inputs)} images; expected one"
                " array (classes,) for each"
            )
        return np.stack(answers)

    return scores


def _statements(kind: ImageKind | None, classes: list[str] | None, *, ranged: bool) -> str:
    """Return what data and model state, as a sidecar; ``ranged`` if the model takes the values of the data."""
    lines = [] if kind is None else ["[input]", f"size = {list(kind.shape[1:])}"]
    lines += [f"range = [0, {kind.white}]"] if kind is not None and ranged else []
    lines += [] if classes is None else ["[output]", f"classes = {json.dumps(classes)}"]
    return "\n".join(lines)


def _identity(model: Any, modules: Mapping[str, torch.nn.Module]) -> str:
    """Return a digest of the class, the metadata and the weights of a model."""
    digest = hashlib.sha256(f"{type(model).__module__}.{type(model).__qualname__}".encode())
    digest.update(repr(getattr(model, "metadata", None)).encode())
    for name, module in modules.items():
        digest.update(f"{name} {module}".encode())
        for key, tensor in module.state_dict().items():
            digest.update(key.encode())
            # NumPy has no bfloat16
            digest.update(np.ascontiguousarray(as_array(tensor.float())).tobytes())
    return digest.hexdigest()


def _warnings(name: str, model: Any, modules: Mapping[str, torch.nn.Module]) -> list[str]:
    found = [
        f"The model {name} is a Python object. Its digest covers its class, metadata, torch weights and the answers to"
        " test images; `auditor verify` and `auditor replay` need a file."
    ]
    training = [key for key, module in modules.items() if module.training]
    if training and not _is_module(model):
        found.append(
            f"The module {', '.join(training)} of the model {name} is in training mode, in which dropout and batch"
            " normalisation change its answers; call .eval() on it."
        )
    return found
