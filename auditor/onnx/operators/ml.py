"""Operators of ai.onnx.ml that have a gradient: linear models and what stands before and after them.

Trees, votes and neighbours have none: those classifiers are audited black-box.
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
    """X [n, features]: labels [n] (places among the classes where these are texts), and scores [n, classes]."""
    count = len(classlabels_ints or classlabels_strings or [])
    weights = X.new_tensor(coefficients, dtype=torch.float32).reshape(-1, X.shape[-1])
    if len(weights) != count:
        # one row of scores for two classes: runtimes and exporters do not agree on what becomes of it
        raise NotImplementedError(f"LinearClassifier: {len(weights)} rows of coefficients for {count} classes")
    scores = X.to(torch.float32) @ weights.T
    if intercepts:
        scores = scores + scores.new_tensor(intercepts)
    places = scores.argmax(1)
    labels = places if classlabels_ints is None else places.new_tensor(classlabels_ints)[places]
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
    """X [n, features] to [n, targets]."""
    result = X.to(torch.float32) @ X.new_tensor(coefficients, dtype=torch.float32).reshape(targets, -1).T
    return _transformed(result if not intercepts else result + result.new_tensor(intercepts), post_transform)


@_ml()
def Scaler(X: Tensor, *, offset: list[float], scale: list[float]) -> Tensor:
    """(X - offset) times the scale, of each feature or of all."""
    x = X.to(torch.float32) if not X.is_floating_point() else X
    return (x - x.new_tensor(offset)) * x.new_tensor(scale)


@_ml()
def Normalizer(X: Tensor, *, norm: Literal["MAX", "L1", "L2"] = "MAX") -> Tensor:
    """Rows divided by their norm, where that is not 0 (MAX: by their largest value)."""
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
    """Missing values, which are one number or NaN, replaced by one of each feature or of all."""
    values = X.new_tensor(imputed_value_floats or imputed_value_int64s or [])
    wanted = replaced_value_float if X.is_floating_point() else replaced_value_int64
    missing = torch.isnan(X) if math.isnan(wanted) else torch.eq(X, wanted)
    return torch.where(missing, values, X)


@_ml()
def Binarizer(X: Tensor, *, threshold: float = 0.0) -> Tensor:
    """1 above the threshold, else 0."""
    return (threshold < X).to(X.dtype)


@_ml()
def ArrayFeatureExtractor(X: Tensor, Y: Tensor) -> Tensor:
    """The columns Y of the last dimension."""
    columns = X.index_select(-1, Y.reshape(-1).to(torch.int64))
    return columns.unsqueeze(0) if columns.dim() == 1 else columns


@_ml()
def FeatureVectorizer(*X: Tensor, inputdimensions: list[int] | None = None) -> Tensor:
    """Columns one after another."""
    return torch.cat([x.to(torch.float32) for x in X], -1)


@_ml()
def ZipMap(
    X: Tensor, *, classlabels_int64s: list[int] | None = None, classlabels_strings: list[str] | None = None
) -> Tensor:
    """The scores without their names: the copy's answer is an array where the original's is a list of maps."""
    return X
