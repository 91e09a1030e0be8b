"""Check ONNX weights in separate files: only regular files next to the model are accepted.

ONNX and ONNX Runtime follow links, so a model could otherwise read any file as its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import TensorProto

from auditor.errors import BadInput


def check_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Raise BadInput unless every separate file of the model at ``path`` is a regular file in its folder."""
    for location in sorted(set(_locations(model))):
        parts = PurePosixPath(location).parts
        if not location or PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or ".." in parts:
            raise _refusal(path, location, "lies outside the folder of the model")
        place = path.parent
        for part in parts:
            place = place / part
            if place.is_symlink():
                raise _refusal(path, location, "is a symbolic link")
        if not place.is_file():
            raise BadInput(f"{path}: its weights {location!r} are not next to it; copy that file into the same folder")
        if place.stat().st_nlink > 1:
            raise _refusal(path, location, "is a hard link to a file that may belong to someone else")


def external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Return the separate files of the model at ``path``, sorted."""
    return [path.parent / location for location in sorted(set(_locations(model)))]


def separate_files(path: Path) -> list[Path]:
    """Return the separate files of the ONNX model at ``path``, sorted; none for other formats and unreadable files."""
    import onnx
    from google.protobuf.message import DecodeError

    if path.suffix.lower() != ".onnx":
        return []
    try:
        return external_files(onnx.load_model(path, load_external_data=False), path)
    except DecodeError:
        return []


def _refusal(path: Path, location: str, why: str) -> BadInput:
    return BadInput(
        f"{path}: its weights are in {location[:100]!r}, which {why}; copy the file itself next to the model"
    )


def _locations(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the files of all tensors of a model, its functions and its subgraphs."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            nodes.extend(graph.node)
            for tensor in graph.initializer:
                yield from _external(tensor)
            for sparse in graph.sparse_initializer:
                yield from _external(sparse.values)
                yield from _external(sparse.indices)
            continue
        for attribute in nodes.pop().attribute:
            graphs.extend([attribute.g] if attribute.HasField("g") else [])
            graphs.extend(attribute.graphs)
            for tensor in [attribute.t, *attribute.tensors]:
                yield from _external(tensor)
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                yield from _external(sparse.values)
                yield from _external(sparse.indices)


def _external(tensor: TensorProto) -> Iterator[str]:
    if tensor.data_location == TensorProto.EXTERNAL:
        yield next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
