"""Outputs of a frozen network, computed once for each set of images and kept in a folder.

The name of a file has two SHA-256: of everything that its content depends on (weights and layers of the network, pixels
and their size, normalisation) and of its content. Other images or weights do not find it, and damage is noticed.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from auditor.files import digest, write_whole
from auditor.reference_models.common.images import Part
from auditor.reference_models.common.training import Forecast, InPixels, Say, pixels

_BATCH = 8
"""Small, so that the activations stay in the caches of the processor."""
_DIGITS = 32
"""Hexadecimal digits of each SHA-256 in a file name."""


def cached(frozen: InPixels, part: Part, folder: Path, say: Say, *, device: str = "cpu") -> Part:
    """Return ``part`` with the outputs of ``frozen`` as its pixels, float32; read from ``folder`` or written to it.

    A damaged file is removed with a message, and computed again.
    """
    key = _key(frozen, part.pixels)
    values = _read(folder, key, say)
    if values is None:
        say(f"computing the features of {len(part)} images once; they are kept in {folder}, which may be deleted")
        values = _compute(frozen, part, say, device)
        content = io.BytesIO()
        np.save(content, values, allow_pickle=False)
        body = content.getvalue()
        write_whole(folder / f"{key}-{_short(body)}.npy", body)
    return replace(part, pixels=values)


def _key(frozen: nn.Module, images: NDArray[Any]) -> str:
    """Return the digest of all that the outputs depend on."""
    tensors = {name: _short(value.cpu().numpy().tobytes()) for name, value in frozen.state_dict().items()}
    pictures = [list(images.shape), str(images.dtype), _short(np.ascontiguousarray(images).tobytes())]
    # the layers are described by their names and settings, since their code has no digest
    return digest([tensors, repr(frozen), pictures])[:_DIGITS]


def _read(folder: Path, key: str, say: Say) -> NDArray[np.float32] | None:
    for path in folder.glob(f"{key}-*.npy"):
        body = path.read_bytes()
        if path.stem == f"{key}-{_short(body)}":
            values: NDArray[np.float32] = np.load(io.BytesIO(body), allow_pickle=False)
            return values
        say(f"{path}: damaged, its content differs from its name; computed again")
        path.unlink()
    return None


def _compute(frozen: InPixels, part: Part, say: Say, device: str) -> NDArray[np.float32]:
    """Return the outputs (n, ...) of all images, with batch normalisation folded into the convolutions."""
    batches: Sequence[NDArray[Any]] = np.array_split(np.arange(len(part)), -(-len(part) // _BATCH))
    outputs = []
    frozen = frozen.eval().to(device)
    with torch.inference_mode(), warnings.catch_warnings():
        # torch deprecates TorchScript, whose folding makes the network twice as fast on a CPU
        warnings.simplefilter("ignore")
        folded = torch.jit.freeze(torch.jit.trace(frozen, pixels(part, batches[0], device)))
        forecast = Forecast(len(part), say)
        # without further optimisations, which take seconds for the first images
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            for rows in batches:
                outputs.append(folded(pixels(part, rows, device)).float().cpu().numpy())
                forecast.trained(len(rows))
    frozen.cpu()
    return np.concatenate(outputs)


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
