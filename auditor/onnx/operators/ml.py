"""Differentiable operators of ai.onnx.ml: linear models, and the operators before and after them.

Trees, votes and nearest neighbours have no gradient: such classifiers are audited black-box.
"""
# ruff: noqa: N802, N803 - functions and parameters are named as in the ONNX standard

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from auditor.onnx.operators.registry import operator

_ml = functools.partial(operator, domain="ai.onnx.ml")

PostTransform = Literal["NONE", "SOFTMAX", "LOGISTIC"]


@_ml()
def LinearClassifier(
    X: Tensor,
    *,
    coefficients: list[float],
    intercepts: list[float] | None = None,
    classlabels_ints: list[int] | None = None,
    classlabels_strings: list[str] | None = None,
    multi_class: int = 0,
    post_transform: PostTransform = "NONE",
) -> tuple[Tensor, Tensor]:
    """Return labels [n] (class indices if the labels are strings) and scores [n, classes] of X [n, features]."""
    count = len(classlabels_ints or classlabels_strings or [])
    weights = X.new_tensor(coefficients, dtype=torch.float32).reshape(-1, X.shape[-1])
    if len(weights) != count:
        # one score row for two classes: runtimes and exporters interpret it differently
        raise NotImplementedError(f"LinearClassifier: {len(weights)} rows of coefficients for {count} classes")
    scores = X.to(torch.float32) @ weights.T
    if intercepts:
        scores = scores + scores.new_tensor(intercepts)
    indices = scores.argmax(1)
    labels = indices if classlabels_ints is None else indices.new_tensor(classlabels_ints)[indices]
    return labels, _transformed(scores, post_transform)


def _transformed(scores: Tensor, post_transform: str) -> Tensor:
    if post_transform == "SOFTMAX":
        return torch.softmax(scores, -1)
    return torch.sigmoid(scores) if post_transform == "LOGISTIC" else scores


@_ml()
def LinearRegressor(
    X: Tensor,
    *,
    coefficients: list[float],
    intercepts: list[float] | None = None,
    targets: int = 1,
    post_transform: PostTransform = "NONE",
) -> Tensor:
    """Map X [n, features] to [n, targets]."""
    result = X.to(torch.float32) @ X.new_tensor(coefficients, dtype=torch.float32).reshape(targets, -1).T
    return _transformed(result if not intercepts else result + result.new_tensor(intercepts), post_transform)


@_ml()
def Scaler(X: Tensor, *, offset: list[float], scale: list[float]) -> Tensor:
    """Compute (X - offset) times scale, per feature or for all features."""
    x = X.to(torch.float32) if not X.is_floating_point() else X
    return (x - x.new_tensor(offset)) * x.new_tensor(scale)


@_ml()
def Normalizer(X: Tensor, *, norm: Literal["MAX", "L1", "L2"] = "MAX") -> Tensor:
    """Divide rows by their norm if it is not 0 (MAX: by their largest value)."""
    x = X.to(torch.float32) if not X.is_floating_point() else X
    if norm == "MAX":
        size = x.amax(-1, keepdim=True)
    else:
        size = x.abs().sum(-1, keepdim=True) if norm == "L1" else x.square().sum(-1, keepdim=True).sqrt()
    return x / torch.where(size == 0, torch.ones_like(size), size)


@_ml()
def Imputer(
    X: Tensor,
    *,
    imputed_value_floats: list[float] | None = None,
    replaced_value_float: float = 0.0,
    imputed_value_int64s: list[int] | None = None,
    replaced_value_int64: int = 0,
) -> Tensor:
    """Replace missing values (one number, or NaN) by a value per feature or for all features."""
    values = X.new_tensor(imputed_value_floats or imputed_value_int64s or [])
    marker = replaced_value_float if X.is_floating_point() else replaced_value_int64
    missing = torch.isnan(X) if math.isnan(marker) else torch.eq(X, marker)
    return torch.where(missing, values, X)


@_ml()
def Binarizer(X: Tensor, *, threshold: float = 0.0) -> Tensor:
    """Return 1 above the threshold, else 0."""
    return (threshold < X).to(X.dtype)


@_ml()
def ArrayFeatureExtractor(X: Tensor, Y: Tensor) -> Tensor:
    """Select the columns Y of the last dimension."""
    columns = X.index_select(-1, Y.reshape(-1).to(torch.int64))
    return columns.unsqueeze(0) if columns.dim() == 1 else columns


@_ml()
def FeatureVectorizer(*X: Tensor, inputdimensions: list[int] | None = None) -> Tensor:
    """Concatenate columns."""
    return torch.cat([x.to(torch.float32) for x in X], -1)


@_ml()
def ZipMap(
    X: Tensor, *, classlabels_int64s: list[int] | None = None, classlabels_strings: list[str] | None = None
) -> Tensor:
    """Return the scores without class names: an array, where the deployed model returns a list of maps."""
    return X
