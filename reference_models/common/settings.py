"""Settings of a recipe: one flat frozen dataclass each, presets with changed values, and single values from the command
line."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from auditor.errors import BadInput
from auditor.toml import typed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of every training; a recipe's own ``Settings`` lists all of them in one block."""

    seed: int = 0
    """Seed of the split, the initial weights and every random draw."""
    size: int = 32
    """Side of the square input in pixels."""
    samples: int = 0
    """Largest number of training images, the same share of every class; 0 uses all."""
    validation_share: float = 0.1
    """Share of the training images that chooses the checkpoint and stops early. The test images do neither."""
    test_share: float = 0.2
    """Share of all images, if the data has no split."""
    epochs: int = 30
    batch: int = 64
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    """Momentum of SGD, with Nesterov's correction."""
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    step_epochs: int = 10
    """For "step": number of epochs after which the learning rate is multiplied by ``step_factor``."""
    step_factor: float = 0.1
    patience: int = 0
    """Number of epochs without a better validation accuracy before training stops; 0 never stops early."""

    def __post_init__(self) -> None:
        for name in ("size", "epochs", "batch", "step_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 0.6:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share between 0 and 0.6")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line, except for the data."""

    preset: str = "full"
    weights: str = "pretrained"
    """"pretrained" (torchvision's, downloaded), "none", or a file with a state_dict."""
    device: str = "auto"
    fresh: bool = False
    """Discard an interrupted training."""
    backbone: str | None = None
    """Pretrained network to adapt instead of training the recipe's own; a name in ``transfer.BACKBONES``."""
    overrides: Sequence[str] = field(default=())
    """``name=value`` each; override the preset."""


S = TypeVar("S", bound=Settings)


def settle(settings_type: type[S], presets: Mapping[str, Mapping[str, Any]], options: Options) -> S:
    """Return the settings of one training: defaults of the recipe, changed by the preset, then by the command line.

    Raises BadInput for an unknown preset or name, or an invalid value.
    """
    if options.preset not in presets:
        raise BadInput(f"--preset {options.preset}: no such preset; expected one of {', '.join(presets)}")
    hints = typing.get_type_hints(settings_type)
    values = dict(presets[options.preset])
    for entry in options.overrides:
        name, equals, text = entry.partition("=")
        if not equals or name not in hints:
            raise BadInput(f"--set {entry}: expected NAME=VALUE with one of {', '.join(sorted(hints))}")
        values[name] = typed(_value(text), hints[name], f"--set {name}")
    try:
        return settings_type(**values)
    except ValueError as error:
        raise BadInput(f"settings: {error}") from None


def recorded(settings: Settings) -> dict[str, Any]:
    """Return the settings as they are written to the training record."""
    return dataclasses.asdict(settings)


def _value(text: str) -> Any:
    """Parse a number, list or boolean as TOML; return any other text unchanged."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
