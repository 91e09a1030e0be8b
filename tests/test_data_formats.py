"""Data as people have it: arrays of any usual name, IDX, WebDataset and the formats of the Hugging Face Hub."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from auditor.data.dataset import Images, Source
from auditor.errors import BadInput
from auditor.plugin import registry

PLUGINS = registry.load()
SHADES = np.array([0, 51, 102, 255], dtype=np.uint8)
PIXELS = np.broadcast_to(SHADES[:, None, None], (4, 8, 8)).copy()
"""Four grey images, which are recognised by their shade in any order."""
LABELS = ["3", "0", "2", "3"]


def opened(path: Path) -> Source:
    source = PLUGINS.first("auditor_open_images", path=path)
    assert isinstance(source, Source), PLUGINS.broken
    return source


def by_shade(source: Source) -> dict[int, str | None]:
    """Return the label of each image by its grey value, as the engine reads it."""
    images = Images(source, shape=(1, 8, 8))
    assert images.unreadable == []
    shades = (255 * images.pixels(images.ids).mean(axis=(1, 2, 3))).round().astype(int).tolist()
    return dict(zip(shades, images.label_names or [None] * len(shades), strict=True))


EXPECTED = dict(zip(SHADES.tolist(), LABELS, strict=True))


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8), int(shade)).save(stream, "png")
    return stream.getvalue()


# NumPy


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("x", "y"),
        ("X", "y"),
        ("data", "labels"),
        ("x_test", "y_test"),
        ("X_val", "Y_val"),
        ("test_images", "test_labels"),
        ("images_test", "labels_test"),
    ],
)
def test_archives_with_any_usual_names(tmp_path: Path, images: str, labels: str) -> None:
    path = npz(tmp_path / "d.npz", **{images: PIXELS, labels: np.array(LABELS, dtype=int)})
    assert by_shade(opened(path)) == EXPECTED
    assert by_shade(opened(npz(path, **{images: PIXELS}))) == dict.fromkeys(EXPECTED)


def test_test_part_of_an_archive_is_read_and_stated(tmp_path: Path) -> None:
    arrays = {
        "x_train": PIXELS[:2],
        "y_train": [0, 1],
        "x_test": PIXELS,
        "y_test": np.array(LABELS, dtype=int)[:, None],
    }
    source = opened(npz(tmp_path / "mnist.npz", **arrays))
    assert by_shade(source) == EXPECTED
    (warning,) = source.warnings
    assert "x_test was audited, not x_train, y_train" in warning


def test_one_hot_labels_are_read(tmp_path: Path) -> None:
    one_hot = np.eye(4)[np.array(LABELS, dtype=int)]
    assert by_shade(opened(npz(tmp_path / "d.npz", x=PIXELS, y=one_hot))) == EXPECTED


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (["images", "x"], ["images, x", "x_test and y_test"]),
        (["x", "x_test"], ["x, x_test"]),
        (["x", "X"], ["x and X"]),
        (["x_test", "test_images"], ["test_images, x_test"]),
        (["x_train", "y_train"], ["only training images", "x_train, y_train"]),
        (["x_test", "y"], ["contains y, which nothing reads"]),
        (["pixels"], ["contains pixels", "expected images and labels, x and y"]),
    ],
)
def test_ambiguous_archives_are_refused_with_what_they_hold(
    tmp_path: Path, arrays: Sequence[str], words: Sequence[str]
) -> None:
    content = {name: PIXELS if name[-1] in "xXs" or "x" in name else np.zeros(4, dtype=int) for name in arrays}
    with pytest.raises(BadInput) as error:
        opened(npz(tmp_path / "d.npz", **content))
    assert [word for word in words if word not in str(error.value)] == []


def test_multi_label_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"not one-hot.*multi-label"):
        opened(npz(tmp_path / "d.npz", x=PIXELS, y=[[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]))


# IDX


def idx(path: Path, array: np.ndarray) -> Path:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    raw = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz"),
        ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
        ("emnist-digits-test-images-idx3-ubyte.gz", "emnist-digits-test-labels-idx1-ubyte.gz"),
    ],
)
def test_idx_files_and_their_folder(tmp_path: Path, images: str, labels: str) -> None:
    file = idx(tmp_path / images, PIXELS)
    idx(tmp_path / labels, np.array(LABELS, dtype=int))
    idx(tmp_path / "train-images-idx3-ubyte", PIXELS[:1])
    assert by_shade(opened(file)) == EXPECTED
    assert by_shade(opened(tmp_path)) == EXPECTED
    with pytest.raises(BadInput, match="holds labels; expected the file of the images"):
        opened(tmp_path / labels)


def test_idx_without_labels_says_so(tmp_path: Path) -> None:
    source = opened(idx(tmp_path / "t10k-images-idx3-ubyte", PIXELS))
    assert source.labels is None
    assert "there is no file t10k-labels-idx1-ubyte" in source.warnings[0]


def test_unusable_idx_files_are_refused(tmp_path: Path) -> None:
    file = idx(tmp_path / "train-images-idx3-ubyte", PIXELS)
    with pytest.raises(BadInput, match="expected one file of test images"):
        opened(tmp_path)
    idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(3))
    with pytest.raises(BadInput, match="holds 3 labels; expected 4"):
        opened(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadInput, match="holds 255 values; its header states 4 x 8 x 8"):
        opened(file)
    file.write_bytes(b"\x89PNG")
    with pytest.raises(BadInput, match="begins with 89 50 4e 47; expected 00 00 08 03"):
        opened(file)


# WebDataset


def tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_webdataset_archives(tmp_path: Path, kind: str) -> None:
    files: dict[str, bytes] = {}
    for i, label in enumerate(LABELS):
        files[f"part/{i:03d}.png"] = png(SHADES[i])
        files[f"part/{i:03d}.{kind}"] = (
            f"{label}\n".encode() if kind == "cls" else json.dumps({"label": int(label), "side": "left"}).encode()
        )
        files[f"part/{i:03d}.txt"] = b"a caption"
    source = opened(tar(tmp_path / "d.tar", files))
    assert by_shade(source) == EXPECTED
    assert source.ids[0] == "part/000"
    assert len(source.skipped["neither image, .cls nor .json"]) == 4
    assert source.groups == ({} if kind == "cls" else {"side": ["left"] * 4})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.png": png(0), "0.jpg": png(0)}, "sample 0 has two images, 0.png and 0.jpg"),
        ({"0.png": png(0), "1.png": png(9), "1.cls": b"2"}, "1 of 2 samples have no label, the first is 0"),
        ({"0.png": png(0), "0.cls": b"1", "0.json": b'{"label": 2}'}, "states the label '2', another file"),
        ({"0.png": png(0), "0.json": b'{"label": [1, 2]}'}, "list of labels.*multi-label"),
        ({"0.png": png(0), "0.json": b"[1]"}, "0.json holds a list"),
        ({"0.png": png(0), "0.json": b"{"}, "0.json: not readable as JSON"),
        ({"0.png": png(0), "0.json": b"[" * 100_000}, "0.json: not readable as JSON: maximum recursion depth"),
        ({"0.cls": b"1"}, "found no images"),
    ],
)
def test_unusable_webdataset_archives_are_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        opened(tar(tmp_path / "d.tar", files))


def test_other_archives_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.tar").write_bytes(b"no archive")
    with pytest.raises(BadInput, match="not readable as a tar archive"):
        opened(tmp_path / "d.tar")
    (tmp_path / "d.tar.gz").write_bytes(b"")
    with pytest.raises(BadInput, match=r"decompress it to \.tar"):
        opened(tmp_path / "d.tar.gz")


# Hugging Face


def parquet(path: Path, *, names: Sequence[str] | None = None, **columns: Any) -> Path:
    """Write a table as the library ``datasets`` does: images as structures, class names in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


CELLS = [{"bytes": png(shade), "path": f"{i}.png"} for i, shade in enumerate(SHADES)]
NUMBERS = [int(label) for label in LABELS]


def test_parquet_with_image_bytes_and_class_names(tmp_path: Path) -> None:
    names = ["cat", "dog", "eel", "fox"]
    file = parquet(tmp_path / "d.parquet", names=names, image=CELLS, label=NUMBERS, side=list("lrlr"), box=[[1, 2]] * 4)
    source = opened(file)
    assert by_shade(source) == {shade: names[int(label)] for shade, label in EXPECTED.items()}
    assert source.groups == {"side": list("lrlr")}
    assert source.ids == ["0.png", "1.png", "2.png", "3.png"]
    assert source.warnings == ["Columns that hold neither texts nor numbers were not read: box."]


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_parquet_with_unreadable_metadata_is_refused(tmp_path: Path, content: str) -> None:
    table = pa.table({"image": CELLS, "label": NUMBERS}).replace_schema_metadata({"huggingface": content})
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(BadInput, match=r"d\.parquet: its metadata huggingface: not readable as JSON"):
        opened(tmp_path / "d.parquet")


@pytest.mark.parametrize("content", ["[]", '{"info": {"features": []}}', '{"other": 1}'])
def test_metadata_of_other_tools_state_no_classes(tmp_path: Path, content: str) -> None:
    table = pa.table({"image": CELLS, "label": NUMBERS}).replace_schema_metadata({"huggingface": content})
    pq.write_table(table, tmp_path / "d.parquet")
    assert by_shade(opened(tmp_path / "d.parquet")) == EXPECTED


def test_missing_numbers_are_accepted_as_python_writes_them(tmp_path: Path) -> None:
    image_folder(tmp_path / "d")
    lines = [f'{{"file_name": "{i}.png", "label": {i}, "age": {"NaN" if i else 4}}}\n' for i in range(4)]
    (tmp_path / "d" / "metadata.jsonl").write_text("".join(lines))
    assert opened(tmp_path / "d").groups["age"][1:] == [""] * 3
    files = {"0.png": png(0), "0.json": b'{"label": 1, "age": NaN}'}
    assert opened(tar(tmp_path / "d.tar", files)).groups == {"age": ["nan"]}


def test_parquet_with_plain_bytes(tmp_path: Path) -> None:
    source = opened(parquet(tmp_path / "d.parquet", img=[cell["bytes"] for cell in CELLS], label=NUMBERS))
    assert by_shade(source) == EXPECTED


def test_unlabelled_test_set_has_no_labels(tmp_path: Path) -> None:
    source = opened(parquet(tmp_path / "d.parquet", names=["a", "b"], image=CELLS, label=[-1] * 4))
    assert source.labels is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": CELLS, "mask": CELLS}, "image columns image, mask; expected one"),
        ({"image": CELLS, "label": NUMBERS, "labels": NUMBERS}, "label columns label, labels"),
        ({"image": CELLS, "labels": [[1, 2]] * 4}, "multi-label"),
        ({"image": CELLS, "label": [1, None, 2, 0]}, "1 of 4 rows have no label, the first is row 2"),
    ],
)
def test_ambiguous_tables_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        opened(parquet(tmp_path / "d.parquet", **columns))


def test_shards_of_the_test_split_are_read(tmp_path: Path) -> None:
    for number in range(2):
        rows = slice(2 * number, 2 * number + 2)
        parquet(tmp_path / "data" / f"test-0000{number}-of-00002.parquet", image=CELLS[rows], label=NUMBERS[rows])
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", image=CELLS[:1], label=NUMBERS[:1])
    source = opened(tmp_path)
    assert by_shade(source) == EXPECTED
    assert "the part test was audited, not train" in source.warnings[0]


def image_folder(folder: Path, **more: Any) -> pd.DataFrame:
    folder.mkdir(parents=True)
    for i, shade in enumerate(SHADES):
        (folder / f"{i}.png").write_bytes(png(shade))
    return pd.DataFrame({"file_name": [f"{i}.png" for i in range(4)], "label": NUMBERS, **more})


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_image_folder_with_metadata(tmp_path: Path, kind: str) -> None:
    table = image_folder(tmp_path / "test", side=list("lrlr"))
    (tmp_path / "test" / "extra.png").write_bytes(png(7))
    file = tmp_path / "test" / f"metadata.{kind}"
    if kind == "csv":
        table.to_csv(file, index=False)
    else:
        table.assign(box=[[1, 2]] * 4).to_json(file, orient="records", lines=True)
    for path in (file, tmp_path / "test", tmp_path):
        source = opened(path)
        assert by_shade(source) == EXPECTED
        assert source.groups == {"side": list("lrlr")}
        assert source.skipped[f"not named in metadata.{kind}"] == ["extra.png"]
    expected = [] if kind == "csv" else ["Columns of metadata.jsonl that hold lists were not read: box."]
    assert source.warnings == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file": "0.png"}', "has the columns file; expected a column file_name"),
        ('{"file_name": "0.png", "label": [1, 2]}', "label holds lists.*multi-label"),
        ('{"file_name": "0.png"', "line 1: not readable as JSON"),
        ("[" * 100_000, "line 1: not readable as JSON: maximum recursion depth"),
        ('"0.png"', "line 1 is no object"),
    ],
)
def test_unusable_metadata_is_refused(tmp_path: Path, line: str, message: str) -> None:
    image_folder(tmp_path / "d")
    (tmp_path / "d" / "metadata.jsonl").write_text(line + "\n")
    with pytest.raises(BadInput, match=message):
        opened(tmp_path / "d")


def test_other_tables_called_metadata_do_not_hide_a_folder(tmp_path: Path) -> None:
    image_folder(tmp_path / "d")
    (tmp_path / "d" / "metadata.csv").write_text("camera,lens\nA,B\n")
    source = opened(tmp_path / "d")
    assert by_shade(source) == dict.fromkeys(EXPECTED)
    assert source.skipped["not an image"] == ["metadata.csv"]
