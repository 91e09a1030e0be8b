"""Images in NumPy files: images.npy, (n, h, w[, 3]) uint8, with labels in images.labels.txt, one a line."""

from pathlib import Path

from auditor import BadInput, Source, hookimpl

AUDITOR_API = "1.0"


@hookimpl
def auditor_open_images(path: Path):
    if path.suffix != ".npy":
        return None
    import numpy as np

    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path}: not readable as a NumPy array: {error}; expected the file that np.save writes"
        ) from None
    names = path.with_suffix(".labels.txt")
    labels = names.read_text(encoding="utf-8").splitlines() if names.is_file() else None
    if labels is not None and len(labels) != len(images):
        raise BadInput(f"{names}: has {len(labels)} lines; expected {len(images)}, one for each image in {path.name}")
    return Source(
        path=str(path),
        ids=[f"{i:06d}" for i in range(len(images))],
        # the bytes to hash, and the picture: a PIL image, or uint8 or [0, 1] float, (h, w) or (h, w, 3)
        read=lambda index: (images[index].tobytes(), images[index]),
        labels=labels,
    )


@hookimpl
def auditor_example_files(folder: Path):
    import numpy as np

    path = folder / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8))
    path.with_suffix(".labels.txt").write_text("cat\ndog\n" * 3, encoding="utf-8")
    return [path]
