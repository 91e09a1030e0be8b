"""Open the model and the data of an audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from auditor.data.dataset import Images, Source, sample
from auditor.data.labels import match_labels
from auditor.data.location import Uri, called, shown
from auditor.data.looks import Looks
from auditor.errors import BadInput
from auditor.findings.record import Json
from auditor.model.artefact import Artefact
from auditor.model.deployed import DeployedModel
from auditor.model.device import make_repeatable, pick_device, unused_gpu
from auditor.model.loading import Sidecar, build, is_tabular, read_sidecar, resizing, wanted_output
from auditor.model.maite import open_object
from auditor.model.tabular import of_table
from auditor.plugin import registry, suite
from auditor.plugin.registry import Registry
from auditor.run import effect
from auditor.run.kept_looks import find_looks
from auditor.run.request import Request
from auditor.run.sandbox import load_in_sandbox

_NAMED = 3
"""Images or names that a warning lists."""

Overrides = Mapping[str, Mapping[str, Json]]
"""Properties of the model from the command line, in the tables and keys of the sidecar."""


def open_audit(
    plugins: Registry, request: Request, suite: suite.Suite, device: str, looks: Looks | None = None
) -> tuple[DeployedModel, Images]:
    """Open the classifier and its images, and match labels to classes.

    ``looks`` are those of an earlier opening, by default what the run folder has. Raises BadInput for unusable files.
    """
    artefact = _open_request(plugins, request, device)
    artefact = _check_device(request.model, artefact, request.device, device)
    sidecar = _sidecar(request.model, artefact, request.overrides)
    source = _find_source(plugins, request, sidecar)
    sidecar = _with_classes(sidecar, artefact, source)
    samples = request.samples or suite.samples
    if source.columns is not None:
        return _open_rows(request, artefact, sidecar, source, device=device, samples=samples)
    effect.refuse_table_keys(sidecar, source)
    source = _complete(_with_unit(source, sidecar.unit))
    # packaged photographs say nothing about the input size of the model
    first = [] if source.note else sample(source.ids, samples, request.seed)[:1]
    data_size = _size_of(source, first[0]) if first else None
    if is_tabular(artefact, sidecar, data_size):
        raise BadInput(_images_for_rows(request.model, artefact, source))
    classifier = build(request.model, artefact, sidecar, device=device, data_size=data_size)
    effect.refuse_unused_order(sidecar, classifier)
    effect.check_batch_size(classifier, request.batch_size)
    images = Images(
        source,
        shape=classifier.shape,
        resizing=resizing(sidecar, classifier.shape),
        samples=samples,
        seed=request.seed,
        looks=looks or (None if request.fresh else find_looks(out_folder(request, classifier), "images")),
        pixel_cache=request.pixel_cache,
    )
    classifier.warnings += images.warnings + effect.resizing_warnings(sidecar, images)
    _state_benchmark(classifier, images, request, sidecar)
    images.augmentations = request.objects.augmentations
    _match(classifier, images)
    return classifier, images


def out_folder(request: Request, classifier: DeployedModel) -> Path:
    """Return the run folder of a request."""
    return request.out or Path("audits") / f"{request.model.stem}-{classifier.sha256[:8]}"


def _open_rows(
    request: Request, artefact: Artefact, sidecar: Sidecar, source: Source, *, device: str, samples: int | None
) -> tuple[DeployedModel, Images]:
    """Open a classifier of tabular data and its table."""
    declared = artefact.input_shape
    columns = source.columns or ()
    if len(declared) not in {0, 2}:
        raise BadInput(
            f"{source.path}: has the columns {', '.join(columns)}, but the model takes images; expected a"
            " column image (paths relative to the table), and optional label and group columns"
        )
    effect.refuse_image_keys(sidecar, source)
    rows, preprocessing = of_table(
        source,
        declared[1] if declared else None,
        artefact.input_dtype,
        label=sidecar.label,
        unit=sidecar.unit,
        groups=sidecar.groups,
        features=sidecar.features,
    )
    classifier = build(request.model, artefact, sidecar, device=device, rows=preprocessing)
    effect.check_batch_size(classifier, request.batch_size)
    images = Images(_complete(rows), shape=classifier.shape, samples=samples, seed=request.seed)
    classifier.warnings += images.warnings
    _state_benchmark(classifier, images, request, sidecar)
    _match(classifier, images)
    return classifier, images


def data_location(request: Request, artefact: Artefact) -> Path | Uri | None:
    """Return where the data is, from command line or sidecar; None for the packaged photographs."""
    return request.data or _sidecar(request.model, artefact, request.overrides).data


def open_unknown(
    plugins: Registry, request: Request, suite: suite.Suite, classifier: DeployedModel, images: Images
) -> Images:
    """Open the images of ``--unknown``, which belong to no class, at the size of the audited ones.

    Raises BadInput for unusable files, and for images that are part of the audited data.
    """
    assert request.unknown is not None
    option = f"--unknown {request.unknown}"
    if classifier.input_kind == "rows":
        raise BadInput(f"{option}: requires a model of images; this one takes {classifier.shape[0]} tabular features")
    source = _open_source(plugins, request.unknown, option)
    if source.columns is not None:
        raise BadInput(f"{option}: holds tabular data; expected images")
    unknown = Images(
        _complete(source),
        shape=classifier.shape,
        resizing=images.resizing,
        samples=request.samples or suite.samples,
        seed=request.seed,
        looks=None if request.fresh else find_looks(out_folder(request, classifier), "unknown"),
        pixel_cache=request.pixel_cache,
    )
    known = set(images.digests)
    both = [name for name, digest in zip(unknown.ids, unknown.digests, strict=True) if digest in known]
    if both:
        raise BadInput(
            f"{option}: {len(both)} of {len(unknown)} images are also part of {images.path}, the first is {both[0]};"
            " expected images that belong to no class"
        )
    classifier.warnings += unknown.warnings
    if unknown.unreadable:
        named = "; ".join(unknown.unreadable[:_NAMED]) + ("; ..." if len(unknown.unreadable) > _NAMED else "")
        classifier.warnings.append(
            f"{len(unknown.unreadable)} images of {option} could not be read and are left out: {named}"
        )
    shared = sorted(set(unknown.label_names or ()) & set(classifier.named_classes or ()))
    if shared:
        classifier.warnings.append(
            f"{option} has folders or labels with names of classes of the model ({', '.join(shared[:_NAMED])}); its"
            " images are taken for images of no class."
        )
    return unknown


def _with_unit(source: Source, unit: str | None) -> Source:
    """Take the units from the column that sidecar or command line name. Raises BadInput if it does not exist."""
    if unit is None or (unit == source.unit_name and source.units is not None):
        return source
    groups = dict(source.groups) | ({} if source.units is None else {source.unit_name: source.units})
    if unit not in groups:
        columns = f"it has {', '.join(groups)}" if groups else "it has no columns next to image and label"
        raise BadInput(f"{source.path}: has no column {unit!r} for the units ([data] unit, --unit); {columns}")
    return replace(source, units=groups.pop(unit), unit_name=unit, groups=groups)


def _complete(source: Source) -> Source:
    """Raise BadInput if an image has no unit."""
    missing = [i for i, unit in enumerate(source.units or ()) if not unit.strip()]
    if missing:
        raise BadInput(
            f"{source.path}: {len(missing)} of {len(source.ids)} rows have no {source.unit_name}, the first is"
            f" {source.ids[missing[0]]}; give every row a unit or drop the column"
        )
    return source


def _images_for_rows(model: Path, artefact: Artefact, source: Source) -> str:
    """Say that a tabular model cannot be audited on images."""
    features = artefact.input_shape[1] or "any number of"
    return (
        f"{model}: the model's input has 2 dimensions, so it takes {features} tabular features, and {source.path} holds"
        " images; expected a .csv or .parquet table with a column for each feature, or, if the features are the pixels"
        " of an image, height and width with --input-size"
    )


def _state_benchmark(classifier: DeployedModel, images: Images, request: Request, sidecar: Sidecar) -> None:
    """Note which benchmark the data of the sidecar is; other data is none."""
    if sidecar.benchmark is None:
        return
    if request.data is not None:
        classifier.warnings.append("[data] benchmark of the sidecar has no effect, because --data names the data.")
        return
    images.benchmark = {"id": sidecar.benchmark, "task_id": sidecar.task or "default"}


def _match(classifier: DeployedModel, images: Images) -> None:
    """Match the labels of the data to the classes of the model."""
    if images.label_names is None:
        return
    try:
        matched = match_labels(
            images.label_names, classifier.named_classes, classifier.n_classes, known=images.known_labels
        )
    except BadInput as error:
        raise BadInput(f"{images.path}: {error}") from None
    images.labels = np.asarray(matched.indices, dtype=np.int64)
    classifier.named_classes = matched.classes
    if matched.source:
        classifier.classes_source = matched.source
        classifier.warnings.append(matched.warning)


def open_model(
    path: Path,
    device_name: str,
    overrides: Overrides | None = None,
    *,
    trust: bool = False,
    may_fall_back: bool = False,
) -> DeployedModel:
    """Open the classifier without data, on a device ("auto" for the best one).

    Raises BadInput for an unusable file, and for a deployed model that cannot run on the device, unless the device is
    "auto" or the model ``may_fall_back`` to the CPU.
    """
    sandbox = load_in_sandbox(path, overrides, trust=trust)
    plugins = registry.load()
    device = pick_device(device_name)
    sandbox.finish()
    artefact = _open_artefact(plugins, path, device, overrides or {}, trust=trust)
    artefact = _check_device(path, artefact, "auto" if may_fall_back else device_name, device)
    return build(path, artefact, _sidecar(path, artefact, overrides or {}), device=device)


def _check_device(path: Path, artefact: Artefact, wanted: str, device: str) -> Artefact:
    """Warn if "auto" did not get the GPU, for the copy or for the deployed model.

    Raises BadInput if the deployed model cannot run on a device that was asked for by name.
    """
    if artefact.not_on_device and wanted != "auto":
        raise BadInput(
            f"--device {wanted}: {path} cannot run on it: {artefact.not_on_device}; install what is missing (see"
            " `auditor doctor`), or use --device auto or --device cpu"
        )
    warnings = []
    if artefact.not_on_device:
        warnings.append(
            f"The deployed model runs on the CPU and not on {device}: {artefact.not_on_device} (see `auditor doctor`)."
        )
    elif wanted == "auto" and device == "cpu" and (reason := unused_gpu()):
        warnings.append(f"The audit runs on the CPU although this machine has an NVIDIA GPU: {reason}.")
    return replace(artefact, warnings=[*artefact.warnings, *warnings]) if warnings else artefact


def _sidecar(path: Path, artefact: Artefact, overrides: Overrides) -> Sidecar:
    return read_sidecar(path, artefact.metadata, options=_tables(overrides), properties=artefact.properties)


def _tables(overrides: Overrides) -> dict[str, dict[str, Json]]:
    return {table: dict(keys) for table, keys in overrides.items()}


def _with_classes(sidecar: Sidecar, artefact: Artefact, source: Source) -> Sidecar:
    """Take the class names of the data, in the order that the data states, for a model without names."""
    if source.classes is None or artefact.classes or sidecar.classes is not None:
        return sidecar
    origins = {**sidecar.origins, "classes": f"{source.path} (index2label)"}
    return replace(sidecar, classes=tuple(source.classes), origins=origins)


def _open_request(plugins: Registry, request: Request, device: str) -> Artefact:
    """Open the model of a request: a file or a Python object."""
    given = request.objects
    if given.model is None:
        return _open_artefact(plugins, request.model, device, request.overrides, trust=request.trust_model)
    make_repeatable()
    return open_object(given.model, None if given.data is None else given.data.kind, device)


def _open_artefact(plugins: Registry, path: Path, device: str, overrides: Overrides, *, trust: bool) -> Artefact:
    make_repeatable()
    if not path.exists():
        raise BadInput(f"{path}: no such file")
    if path.is_dir():
        raise BadInput(f"{path}: is a folder; expected a model file, .onnx, TorchScript .pt or torch.export .pt2")
    if not path.is_file():
        raise BadInput(f"{path}: is a FIFO, a socket or a device; expected a model file")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: an empty file; expected a model, .onnx, TorchScript .pt or torch.export .pt2")
    output = wanted_output(path, _tables(overrides))
    artefact: Artefact | None = plugins.first(
        "auditor_open_model", path=path, device=device, trust=trust, output=output
    )
    if artefact is None:
        for plugin in plugins.broken:
            if "auditor_open_model raised" in (plugin.error or ""):
                raise BadInput(f"{path}: plugin {plugin.title} could not open it: {plugin.error}")
        raise BadInput(
            f"{path}: no plugin can load {path.suffix or 'files without a suffix'}; expected an ONNX file (.onnx) or a"
            " TorchScript (.pt) or torch.export (.pt2) archive"
        )
    return artefact


def _find_source(plugins: Registry, request: Request, sidecar: Sidecar) -> Source:
    """Return the data: --data, else sidecar or metadata of the artefact, else the packaged photographs."""
    if request.objects.data is not None:
        return request.objects.data.source.printable()
    path = request.data or sidecar.data
    if path is None:
        from auditor.data.sample_photos import source

        return source()
    option = "--data" if request.data else f"{sidecar.where('data')}: [data] path"
    return _open_source(plugins, path, f"{option} {shown(path)}")


def _open_source(plugins: Registry, path: Path | Uri, option: str) -> Source:
    """Open the images at a path or URI; ``option`` says where it comes from."""
    if isinstance(path, Uri):
        return _open_uri(plugins, path, option).printable()
    if not path.exists():
        raise BadInput(f"{option}: no such file or folder")
    if not path.is_file() and not path.is_dir():
        raise BadInput(f"{option}: is a FIFO, a socket or a device; expected a file or a folder")
    found: Source | None = plugins.first("auditor_open_images", path=path)
    if found is None:
        raise BadInput(
            f"{option}: expected a folder of images (one per class, or flat), a .csv or .parquet manifest, an .npz"
            " archive, a Hugging Face data set (.parquet, metadata.jsonl), a WebDataset archive (.tar), or IDX files"
        )
    return found.printable()


def _open_uri(plugins: Registry, uri: Uri, option: str) -> Source:
    """Open the images at a URI."""
    found: Source | Path | None = plugins.first("auditor_open_uri", uri=uri)
    if found is None:
        raise BadInput(f"{option}: no plugin opens such an address; expected s3://, gs://, az:// or https://")
    if isinstance(found, Source):
        return replace(found, path=uri.shown)
    with called(uri, found):
        return replace(_open_source(plugins, found, option), path=uri.shown)


def _size_of(source: Source, index: int) -> tuple[int, int] | None:
    try:
        picture = source.read(index)[1]
    except Exception:
        # unreadable images are reported when all are read
        return None
    if isinstance(picture, np.ndarray):
        first = picture.ndim == 3 and picture.shape[-1] not in {1, 3} and picture.shape[0] in {1, 3}
        height, width = picture.shape[1:] if first else picture.shape[:2]
        return int(height), int(width)
    return picture.height, picture.width
