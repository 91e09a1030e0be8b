"""Folders of images: nothing is dropped silently, and the parts of a data set are not mistaken for classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from auditor.data.dataset import Images, Source
from auditor.errors import BadInput
from auditor.plugins.formats.folder import auditor_open_images


def put(root: Path, *names: str, format: str = "PNG") -> None:
    """Write a small image under each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 100).save(root / name, format)


def opened(root: Path) -> Source:
    source = auditor_open_images(root)
    assert isinstance(source, Source)
    return source.printable()


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.jfif", "JPEG"), ("a", "PNG"), ("a.txt", "PNG"), ("a.png", "JPEG"), ("a.JPE", "JPEG"), ("a.dat", "WEBP")],
)
def test_images_are_recognised_by_content(tmp_path: Path, name: str, format: str) -> None:
    put(tmp_path, f"cat/{name}", format=format)
    put(tmp_path, "dog/b.png")
    source = opened(tmp_path)
    assert list(source.ids) == [f"cat/{name}", "dog/b.png"]
    assert list(source.labels or ()) == ["cat", "dog"]
    assert len(Images(source, shape=(1, 4, 4))) == 2


def test_everything_that_is_not_read_is_counted_and_named(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "cat/.hidden.png", ".git/2.png", "dog/3.png", "elsewhere/4.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "labels.csv").write_text("image,label")
    (tmp_path / "owl").mkdir()
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "missing")
    (tmp_path / "dog" / "loop").symlink_to(tmp_path)
    source = opened(tmp_path)
    assert source.skipped == {
        "hidden": [".git", "cat/.hidden.png"],
        "not an image": ["cat/notes.txt", "labels.csv"],
        "broken symbolic link": ["dog/gone.png"],
        "symbolic link to a folder": ["dog/loop"],
        "folder without images": ["owl"],
    }
    (warning,) = Images(source, shape=(1, 4, 4)).warnings
    assert warning.startswith(f"Skipped in {tmp_path}: hidden (2): .git, cat/.hidden.png;")
    assert "folder without images (1): owl" in warning


def test_a_warning_names_three_of_many_and_the_source_all(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text("")
    source = opened(tmp_path)
    assert source.labels is None
    assert len(source.skipped["not an image"]) == 5
    (warning,) = Images(source, shape=(1, 4, 4)).warnings
    assert warning.endswith("not an image (5): 0.txt, 1.txt, 2.txt, ....")


def test_images_in_sub_folders_have_the_label_of_the_class_folder_and_a_warning(tmp_path: Path) -> None:
    put(tmp_path, "cat/indoor/1.png", "cat/outdoor/2.png", "dog/3.png")
    source = opened(tmp_path)
    assert list(source.labels or ()) == ["cat", "cat", "dog"]
    (warning,) = source.warnings
    assert warning.startswith("2 images are in sub-folders of class folders (cat/indoor, cat/outdoor)")


@pytest.mark.parametrize(
    ("parts", "audited"),
    [
        (("train", "val", "test"), "test"),
        (("Training", "Testing"), "Testing"),
        (("train", "valid"), "valid"),
        (("train", "validation", "eval"), "eval"),
        (("test",), "test"),
    ],
)
def test_the_test_part_is_audited_and_the_assumption_stated(
    tmp_path: Path, parts: tuple[str, ...], audited: str
) -> None:
    for part in parts:
        put(tmp_path, f"{part}/cat/{part}.png", f"{part}/dog/{part}.png")
    source = opened(tmp_path)
    assert source.path == str(tmp_path / audited)
    assert list(source.ids) == [f"cat/{audited}.png", f"dog/{audited}.png"]
    assert list(source.labels or ()) == ["cat", "dog"]
    (assumption,) = Images(source, shape=(1, 4, 4)).warnings
    assert f"the part {audited} was audited" in assumption
    assert all(part in assumption for part in parts)
    assert "--data" in assumption


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train/cat/1.png", "train/dog/1.png"), "only training images"),
        (("test/cat/1.png", "testing/cat/1.png"), "contains test, testing; pass the one to audit"),
        (("train/1.png", "test/1.png"), "may be classes, or parts of a data set"),
        (("test/cat/1.png", "holdout/cat/1.png"), "test and holdout hold the same folders"),
    ],
)
def test_ambiguous_parts_are_refused_with_the_path_to_pass(
    tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    put(tmp_path, *files)
    with pytest.raises(BadInput, match=message) as refused:
        auditor_open_images(tmp_path)
    assert f"--data {tmp_path}" in str(refused.value)


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        (("test/1.png", "control/1.png"), ["control", "test"]),
        (("train/1.png", "bus/1.png", "car/1.png"), ["bus", "car", "train"]),
        (("valid/1.png", "invalid/1.png"), ["invalid", "valid"]),
        (("test/a/1.png", "control/b/1.png"), ["control", "test"]),
    ],
)
def test_a_class_called_like_a_part_is_a_class(tmp_path: Path, files: tuple[str, ...], labels: list[str]) -> None:
    put(tmp_path, *files)
    assert list(opened(tmp_path).labels or ()) == labels


def test_files_next_to_the_parts_are_named(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.png", "test/cat/1.png")
    (tmp_path / "test" / "cat" / "x.txt").write_text("")
    (tmp_path / "README").write_text("")
    assert opened(tmp_path).skipped == {"not an image": ["cat/x.txt", "../README"]}
