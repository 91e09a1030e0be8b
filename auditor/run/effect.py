"""Refuse what has no effect: a key or an option that changes nothing is a misunderstanding, and often a wrong audit.

Only what was written for this audit is checked, the command line and the sidecar. Configuration files of other tools
may state anything. What cannot be known before the images are read, or is harmless in scripts that audit several
models, is a warning.
"""

from __future__ import annotations

from auditor.data.dataset import Images, Source
from auditor.errors import BadInput
from auditor.model.deployed import DeployedModel
from auditor.model.loading import Sidecar

COMMAND_LINE = "command line"

_OPTIONS = {"order": "--channels", "resize": "--crop none", "name": "--output"}
"""Options with another name than their key."""

_IMAGE_KEYS = (
    "size",
    "channels",
    "layout",
    "range",
    "mean",
    "std",
    "order",
    "resize",
    "crop",
    "interpolation",
    "white",
)
_TABLE_KEYS = ("label", "groups", "features")


def refuse_image_keys(sidecar: Sidecar, source: Source) -> None:
    """Raise BadInput for keys about images if the data are rows of features."""
    for key in _IMAGE_KEYS:
        if _written(sidecar, key):
            raise BadInput(
                f"{_name(sidecar, key, 'input')}: describes images, but {source.path} holds rows of features, which"
                " the model receives in their own units; leave it out"
            )


def refuse_table_keys(sidecar: Sidecar, source: Source) -> None:
    """Raise BadInput for keys about the columns of a table if the data are images."""
    for key in _TABLE_KEYS:
        if _written(sidecar, key):
            raise BadInput(
                f"{_name(sidecar, key, 'data')}: names columns of tabular data, but {source.path} holds images; leave"
                " it out (labels and groups of images are the columns of a manifest)"
            )


def refuse_unused_order(sidecar: Sidecar, classifier: DeployedModel) -> None:
    """Raise BadInput for a channel order or a crop that the other keys make meaningless."""
    if sidecar.order == "bgr" and classifier.shape[0] == 1 and _written(sidecar, "order"):
        raise BadInput(
            f"{_name(sidecar, 'order', 'input')}: orders three channels, but {classifier.path} takes one; leave it out"
        )
    if sidecar.resize == "stretch" and sidecar.crop is not None and _written(sidecar, "crop"):
        raise BadInput(
            f'{_name(sidecar, "crop", "input")}: has no effect with resize = "stretch", which crops nothing; state one'
            " of both"
        )


def resizing_warnings(sidecar: Sidecar, images: Images) -> list[str]:
    """Return warnings about stated keys that changed no image."""
    warnings = []
    if sidecar.white is not None and not images.n_deep and _written(sidecar, "white"):
        warnings.append(f"{_name(sidecar, 'white', 'input')} has no effect: no image has more than 8 bits.")
    stated = [key for key in ("crop", "resize", "interpolation") if getattr(sidecar, key) is not None]
    # a sidecar describes the model for all data; the command line is about these images
    if stated and not images.n_resized and sidecar.where(stated[0]) == COMMAND_LINE:
        warnings.append(
            f"{_name(sidecar, stated[0], 'input')} has no effect: every image already has the input size of the model,"
            " and is not scaled or cropped."
        )
    return warnings


def check_batch_size(classifier: DeployedModel, wanted: int | None) -> None:
    """Raise BadInput for a batch size that the model file does not accept."""
    if wanted and classifier.fixed_batch and wanted != classifier.fixed_batch:
        raise BadInput(
            f"--batch-size {wanted}: {classifier.path} accepts only batches of {classifier.fixed_batch}; leave the"
            " option out"
        )


def _written(sidecar: Sidecar, key: str) -> bool:
    """Whether a key is stated on the command line or in the sidecar file."""
    where = sidecar.where(key)
    return getattr(sidecar, key) is not None and (where == COMMAND_LINE or where.endswith(".audit.toml"))


def _name(sidecar: Sidecar, key: str, table: str) -> str:
    """Return how the user wrote a key."""
    where = sidecar.where(key)
    return _OPTIONS.get(key, f"--{key}") if where == COMMAND_LINE else f"{where}: [{table}] {key}"
