"""Flip single bits of the records, the pictures and the manifest of a run, and count the flips that a run notices.

    uv run python benchmarks/bit_flips.py [--flips 1440]

A flip is noticed if the next run of the folder removes the file or does not use it, and if no reader returns its rows.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from pathlib import Path

from fuzz import prepared

from auditor.compare.runs import open_run
from auditor.errors import BadInput
from auditor.run.folder import RunFolder, read_all_examples, read_rows
from auditor.run.manifest import earlier_reductions


def _kind(name: Path) -> str:
    return {".png": "pictures", ".json": "manifest"}.get(name.suffix, name.name.partition("-")[0])


def is_noticed(run: Path, name: Path) -> bool:
    """Whether a changed file is found by the next run, and by those that read its rows."""
    with RunFolder(run) as folder:
        if name.suffix == ".png":
            return not folder.is_whole(name.as_posix())
        if name.name == "manifest.json":
            # the suite and the limit of the run, so that an intact manifest gives a list
            return earlier_reductions(folder, "standard", None) is None  # type: ignore[arg-type]
        if name.name != "images.parquet" and folder.remove_damaged() != [name.as_posix()]:
            return False
    return True


def is_refused(run: Path, name: Path) -> bool:
    """Whether a changed file of rows is refused by the commands that read it."""
    try:
        if name.name == "images.parquet":
            open_run("A", run)
        elif name.name.startswith("examples"):
            read_all_examples(run)
        elif name.suffix == ".parquet":
            read_rows(run, name.parent.name, None)
        else:
            return True
    except BadInput:
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--flips", type=int, default=1440)
    flips = parser.parse_args().flips
    rng = random.Random(0)
    noticed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        run = prepared(Path(scratch)).folder / "run"
        names = [path.relative_to(run) for path in sorted(run.rglob("*")) if path.suffix in {".parquet", ".png"}]
        names.append(Path("manifest.json"))
        kinds: dict[str, list[Path]] = {}
        for name in names:
            kinds.setdefault(_kind(name), []).append(name)
        for number in range(flips):
            kind = list(kinds)[number % len(kinds)]
            name = rng.choice(kinds[kind])
            content = (run / name).read_bytes()
            changed = bytearray(content)
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            (run / name).write_bytes(changed)
            total[kind] += 1
            noticed[kind] += is_refused(run, name) and is_noticed(run, name)
            (run / name).write_bytes(content)
    for kind, count in sorted(total.items()):
        print(f"{kind:16} {noticed[kind]} of {count} noticed")


if __name__ == "__main__":
    main()
