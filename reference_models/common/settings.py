"""The settings of a recipe: one flat frozen dataclass each, presets as what they change, and single values from the
command line."""

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
    """What every training has; a recipe's own ``Settings`` states all of it in one block."""

    seed: int = 0
    """Of the split, the first weights and every random draw."""
    size: int = 32
    """Side of the square input in pixels."""
    samples: int = 0
    """At most so many training images, the same share of every class; 0 takes all."""
    validation_share: float = 0.1
    """Of the training images: chooses the checkpoint and stops early. The test images do neither."""
    test_share: float = 0.2
    """Of all images, where the data does not come split."""
    epochs: int = 30
    batch: int = 64
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    """Of SGD, with Nesterov's correction."""
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    step_epochs: int = 10
    """For "step": the learning rate is multiplied by ``step_factor`` after every so many epochs."""
    step_factor: float = 0.1
    patience: int = 0
    """Stop after so many epochs without a better validation accuracy; 0 never stops early."""

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
    """What the command line says beside the data."""

    preset: str = "full"
    weights: str = "pretrained"
    """"pretrained" (torchvision's, downloaded), "none", or a file with a state_dict."""
    device: str = "auto"
    fresh: bool = False
    """Forget a training that was cut short."""
    overrides: Sequence[str] = field(default=())
    """``name=value`` each, over the preset."""


Kind = TypeVar("Kind", bound=Settings)


def settle(kind: type[Kind], presets: Mapping[str, Mapping[str, Any]], options: Options) -> Kind:
    """The settings of one training: the recipe's own, what the preset changes, what the command line says.

    Raises BadInput for a preset, name or value that is not there.
    """
    if options.preset not in presets:
        raise BadInput(f"--preset {options.preset}: no such preset; expected one of {', '.join(presets)}")
    hints = typing.get_type_hints(kind)
    values = dict(presets[options.preset])
    for entry in options.overrides:
        name, equals, text = entry.partition("=")
        if not equals or name not in hints:
            raise BadInput(f"--set {entry}: expected NAME=VALUE with one of {', '.join(sorted(hints))}")
        values[name] = typed(_value(text), hints[name], f"--set {name}")
    try:
        return kind(**values)
    except ValueError as error:
        raise BadInput(f"settings: {error}") from None


def recorded(settings: Settings) -> dict[str, Any]:
    """The settings as they go into the record of a training."""
    return dataclasses.asdict(settings)


def _value(text: str) -> Any:
    """A number, list or truth value as TOML has it; any other text is itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
