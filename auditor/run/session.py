"""One audit from beginning to end: open, measure, conclude, judge, write down.

The engine alone touches files, clocks and the order of things. Probes get batches and give columns; what they give is
on disk within seconds, so that Ctrl-C, kill -9, a broken image, an out-of-memory or a plugin that throws costs nothing
that was measured.
"""

from __future__ import annotations

import io
import json
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import auditor
from auditor.data.dataset import Images, rank
from auditor.errors import BadInput, NotApplicable, one_line
from auditor.files import digest
from auditor.findings.encoding import plain
from auditor.findings.finding import Conclusion
from auditor.model.classifier import Classifier, first_line
from auditor.model.device import describe, make_repeatable, pick_device, threads_for
from auditor.plugin import registry, suite
from auditor.plugin.registry import Registry
from auditor.plugin.suite import find_suite
from auditor.policy import published
from auditor.policy.rules import Policy, read_policy
from auditor.policy.verdict import judge, judge_all, verdict
from auditor.probes.base import Example, Probe, Randomness, Records, Run
from auditor.run.budget import GROWTH, PILOT, Budget
from auditor.run.distributed import Workers
from auditor.run.folder import FORMAT, Cost, RunFolder
from auditor.run.measuring import Measured, Measurer, Shards, tune
from auditor.run.sandbox import load_in_sandbox

if TYPE_CHECKING:
    import pandas as pd
from auditor.probes.base import no_examples
from auditor.run.opening import open_audit
from auditor.run.record import check_record, evidence_files, manifest_changes, n_examined, value_counts
from auditor.run.request import Interrupted, Outcome, Progress, Request, Silent
from auditor.run.selection import choose_probes, is_used
from auditor.run.writing import finish, pick_formats, prepare

_PARITY_IMAGES = 64
"""Images on which parity is measured before the first probe; ``sanity.parity`` measures it on all."""


def run(request: Request, progress: Progress | None = None) -> Outcome:
    """Carry out an audit.

    Raises BadInput for what cannot be used, Interrupted when stopped.
    """
    progress = progress or Silent()
    sandbox = load_in_sandbox(request.model, request.overrides, trust=request.trust_model)
    plugins = registry.load()
    suite = find_suite(request.suite, plugins)
    policy = read_policy(request.policy, plugins.probes)
    formats = pick_formats(plugins, request.formats, request.paper)
    chosen = choose_probes(plugins, suite, request)
    device = pick_device(request.device)
    make_repeatable()
    sandbox.finish()
    classifier, images = open_audit(plugins, request, suite, device)
    out = request.out or Path("audits") / f"{request.model.stem}-{classifier.sha256[:8]}"
    folder = RunFolder(out)
    try:
        if request.fresh:
            folder.forget()
        session = _Session(plugins, request, classifier=classifier, images=images, folder=folder, progress=progress)
        with threads_for(classifier.shape):
            return session.execute(chosen, policy, formats, suite)
    except KeyboardInterrupt:
        raise Interrupted(out) from None
    finally:
        folder.close()


class _Session:
    """One audit while it runs."""

    def __init__(
        self, plugins: Registry, request: Request, *, classifier: Classifier, images: Images, folder: RunFolder,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.plugins = plugins
        self.request = request
        self.classifier = classifier
        self.images = images
        self.folder = folder
        self.progress = progress
        # random, so that an audit cut short by a budget still saw a fair sample
        self.order = sorted(images.ids, key=lambda image_id: rank(image_id, request.seed))
        self.budget = None if request.budget is None else Budget(request.budget)
        self.measurer = Measurer(classifier, images, request.seed)
        self.workers: Workers | None = None
        self._keys: dict[str, str] = {}
        self._costs: dict[str, Cost] = {}
        self._probes: Sequence[Probe] = ()
        self._prepared: dict[str, Probe] = {}
        self._preparing: dict[str, Cost] = {}
        self.warnings: list[str] = []

    def execute(self, probes: Sequence[Probe], policy: Policy, formats: Sequence[Any], suite: suite.Suite) -> Outcome:
        """Measure, conclude, judge, write."""
        self._probes = probes
        try:
            self.classifier.verify(self.images.pixels(self.order[:_PARITY_IMAGES]))
            self._tune()
        except (ArithmeticError, RuntimeError) as error:
            raise BadInput(
                f"{self.classifier.path}: {first_line(error)}, asked about images of {self.images.path}; expected one"
                " finite score per class (are range, mean and std in the sidecar those of the training?)"
            ) from None
        self.warnings = self._all_warnings()
        self._write_manifest(probes, suite.name)
        for warning in self.warnings:
            self.progress.say(f"Warning: {warning}")
        for plugin in self.plugins.broken:
            self.progress.say(f"Plugin {plugin.name} is left out: {plugin.error}")
        if self.request.engine == "ray":
            self.workers = Workers(self.request, self.measurer, self.request.workers)
        try:
            if self.budget is not None:
                self._spend(self.budget, probes)
            records = [self._judged(probe, position, len(probes), policy) for position, probe in enumerate(probes)]
        finally:
            if self.workers is not None:
                self.workers.close()
        prepare(formats)
        order = list(self.plugins.probes)
        records.sort(key=lambda record: order.index(record["id"]))
        records = judge_all(records, policy)
        self.folder.keep_evidence([file for record in records for file in evidence_files(record)])
        # which of the rows under records/ are this run's; earlier ones stay until they are measured afresh
        manifest = self.folder.read_json("manifest.json")
        self.folder.write_json("manifest.json", manifest | {"records": self._keys})
        audit = self._describe(records, policy, suite)
        return finish(audit, self.folder, formats)

    def _judged(self, probe: Probe, position: int, probes: int, policy: Policy) -> dict[str, Any]:
        record = judge(self._audit(probe, position, probes), policy)
        self.progress.end(record)
        return record

    def _audit(self, probe: Probe, position: int, probes: int) -> dict[str, Any]:
        """One probe to the end, whatever happens in it."""
        try:
            missing = self._missing(probe)
            if missing:
                return self._record(probe, status="not-applicable", reason=missing)
            ids = self._ids(probe)
            key = self._key(probe, ids)
            self._keys[probe.meta.id] = key
            left = self._measure(probe, key, ids, (position, probes))
            if not left:
                self.folder.drop_stale(probe.meta.id, key)
            records = self._read(probe, key)
            conclusion: Any = probe.conclude(self._exhibit(probe, key, records))
            if not isinstance(conclusion, Conclusion):
                raise TypeError(f"conclude returned {type(conclusion).__name__}; expected a Conclusion")
            note = f"--budget ended after {len(ids) - left} of {len(ids)} images" if left else ""
            record = self._record(probe, conclusion=conclusion, n=n_examined(records, len(ids) - left), caveat=note)
            check_record(record)
            (self.folder.path / "records" / probe.meta.id / "error.txt").unlink(missing_ok=True)
            return record
        except NotApplicable as error:
            return self._record(probe, status="not-applicable", reason=str(error))
        except (Exception, SystemExit) as error:
            self.folder.write(f"records/{probe.meta.id}/error.txt", traceback.format_exc().encode())
            return self._record(probe, status="error", reason=one_line(error))

    def _ids(self, probe: Probe) -> Sequence[str]:
        """The first images of the random order, and those that the probe asks for besides."""
        sample = self.order[: probe.samples or None]
        if len(sample) == len(self.order):
            return sample
        known = set(self.order)
        preferred = [image_id for image_id in probe.extra_images(self._others(probe)) if image_id in known]
        return list(dict.fromkeys([*sample, *preferred]))

    def _others(self, probe: Probe) -> dict[str, pd.DataFrame]:
        return {i: self._frame(i, k) for i, k in self._keys.items() if is_used(i, probe)}

    def _missing(self, probe: Probe) -> str:
        needs = probe.meta.needs
        if self.classifier.input_kind not in probe.meta.input_kinds:
            what = {"images": "images", "rows": f"rows of {self.classifier.shape[2]} features"}[
                self.classifier.input_kind
            ]
            return f"is about {' or '.join(sorted(probe.meta.input_kinds))}, and this model takes {what}"
        if "labels" in needs and self.images.labels is None:
            return "the data has no labels, so there is nothing to compare the answers with"
        if "gradients" in needs and self.classifier.access == "black-box":
            return f"needs gradients, and the model is a black box here: {self.classifier.access_reason}"
        if "groups" in needs and not self.images.groups:
            return "the data has no group columns"
        return ""

    def _spend(self, budget: Budget, probes: Sequence[Probe]) -> None:
        """Measure in rounds, each as far as the budget's plan says, until the time or the images are over.

        Not here: probes that prefer images by what others found, which are measured when these are done; their part of
        the time is left to them. What breaks here breaks again where it is told.
        """
        steady = {p.meta.id: p for p in probes if type(p).extra_images is Probe.extra_images and not self._missing(p)}
        wanted = {probe_id: len(self._ids(probe)) for probe_id, probe in steady.items()}
        done = dict.fromkeys(wanted, 0)
        others = sum(not self._missing(probe) for probe in probes) - len(steady)
        reserved = budget.left * others / max(1, others + len(steady))
        reach = PILOT
        while wanted:
            plan, further = budget.plan(wanted, done, budget.left - reserved), False
            for position, probe_id in enumerate(list(wanted)):
                first, upto = reach == PILOT, min(wanted[probe_id], reach)
                upto = upto if first else min(upto, plan[probe_id])
                if upto <= done[probe_id] or not (first or budget.left > reserved):
                    continue
                try:
                    seconds, fresh = self._advance(steady[probe_id], upto, position, len(wanted))
                except (Exception, SystemExit):
                    wanted.pop(probe_id)
                    continue
                budget.charge(probe_id, seconds, fresh)
                done[probe_id], further = upto, True
            # a share that pays for no image is another probe's in the next round
            if budget.left <= reserved or (reach >= max(wanted.values(), default=0) and not further):
                break
            reach *= GROWTH
        short = [count for probe_id, count in done.items() if probe_id in wanted and count < wanted[probe_id]]
        if short:
            self.progress.say(
                f"--budget: {len(wanted) - len(short)} of {len(wanted)} probes measured all their images, the others"
                f" from {min(short)} to {max(short)} each"
            )

    def _advance(self, probe: Probe, upto: int, position: int, probes: int) -> tuple[float, int]:
        """Measure a probe up to so many of its images; seconds, without preparing, and how many were fresh."""
        ids = self._ids(probe)
        key = self._keys[probe.meta.id] = self._key(probe, ids)
        known = self.folder.measured(probe.meta.id, key)
        todo = [image_id for image_id in ids[:upto] if image_id not in known]
        if todo:
            self._prepare(probe, ids)
        start = time.monotonic()
        self._measure(probe, key, ids, (position, probes), only=todo)
        return time.monotonic() - start, len(todo)

    def _measure(
        self, probe: Probe, key: str, ids: Sequence[str], place: tuple[int, int], only: Sequence[str] | None = None
    ) -> int:  # fmt: skip
        """Measure what is not on disk yet, or ``only`` some of it; the number of images that are left unmeasured.

        ``place`` is the probe's position among so many.
        """
        position, probes = place
        done = self.folder.measured(probe.meta.id, key)
        left = len([image_id for image_id in ids if image_id not in done])
        todo = [image_id for image_id in ids if image_id not in done] if only is None else only
        stop = None
        if self.budget is not None and only is None:
            # those that were planned have had their time
            share = (
                self.budget.left / (probes - position) if type(probe).extra_images is not Probe.extra_images else 0.0
            )
            stop = time.monotonic() + max(share, 0.0)
            if done and share <= 0:
                todo = []
        self.progress.begin(probe.meta.id, len(ids), position, probes)
        self.progress.advance(len(ids) - left)
        with Shards(self.folder, probe.meta.id, key) as shards:
            if todo:
                probe = self._prepare(probe, ids, shards)
            for measured in self._measured(probe, self._pieces(todo, stop)):
                shards.add(measured)
                left -= measured.images
                self.progress.advance(measured.images)
        return left

    def _prepare(self, probe: Probe, ids: Sequence[str], shards: Shards | None = None) -> Probe:
        """The probe that measures and draws; what it cost is charged to the shards, where there are any."""
        if probe.meta.id not in self._prepared:
            calls = self.classifier.calls
            start, forward, backward = time.monotonic(), calls.forward, calls.backward
            rng = Randomness(self.request.seed, probe.meta.id)
            # sorted: what is prepared must not depend on the order of the data
            run = Run(classifier=self.classifier, probes=self._probes, ids=sorted(ids), batch=self.measurer.batch,
                      rng=rng)  # fmt: skip
            self._prepared[probe.meta.id] = probe.prepare(run)
            self._preparing[probe.meta.id] = Cost(
                time.monotonic() - start, calls.forward - forward, calls.backward - backward
            )
        if shards is not None and probe.meta.id in self._preparing:
            shards.charge(self._preparing.pop(probe.meta.id))
        return self._prepared[probe.meta.id]

    def _pieces(self, ids: Sequence[str], stop: float | None) -> Iterator[Sequence[str]]:
        """Ids batch by batch, at least one batch, until the time is over."""
        start = 0
        while start < len(ids) and not (stop is not None and start and time.monotonic() > stop):
            piece = ids[start : start + self.classifier.batch_size]
            yield piece
            start += len(piece)

    def _measured(self, probe: Probe, pieces: Iterator[Sequence[str]]) -> Iterator[Measured]:
        if self.workers is not None:
            yield from self.workers.measure(probe, pieces)
            return
        for piece in pieces:
            before = self.classifier.batch_size
            yield self.measurer.measure(probe, piece)
            if self.classifier.batch_size < before:
                self.progress.say(f"Out of memory: the batch is now {self.classifier.batch_size} images")

    def _read(self, probe: Probe, key: str) -> Records:
        return Records(
            frame=self._frame(probe.meta.id, key),
            examples=no_examples(),
            classes=self.classifier.classes,
            labelled=self.images.labels is not None,
            kind=self.classifier.input_kind,
            features=[feature.name for feature in getattr(self.classifier.preprocessing, "features", ())],
            others=self._others(probe),
            threats={
                p.meta.id: threat
                for p in self._probes
                if p.meta.id in self._keys and is_used(p.meta.id, probe) and (threat := p.threat_model())
            },
        )

    def _frame(self, probe_id: str, key: str) -> pd.DataFrame:
        """All rows of a probe by image id, so that findings depend on no order, of the data or of measuring."""
        import pandas as pd
        import pyarrow as pa

        tables, cost = self.folder.read_shards(probe_id, key)
        # read again for another probe, its pictures' cost is in there already
        self._costs.setdefault(probe_id, cost)
        if not tables:
            return pd.DataFrame({"image_id": []})
        frame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
        probe = next(p for p in self._probes if p.meta.id == probe_id)
        frame["sampled"] = frame["image_id"].isin(self.order[: probe.samples or None])
        return frame.sort_values("image_id", kind="stable", ignore_index=True)

    def _exhibit(self, probe: Probe, key: str, records: Records) -> Records:
        """Draw the pictures that the probe wishes for, store them in 8 bit, ask the original about the stored files."""
        import pyarrow as pa

        # a row of features is no picture
        requested = list(probe.examples(records)) if self.classifier.input_kind == "images" else []
        if not requested:
            return records
        wanted = digest([key, [asdict(wish) for wish in requested]])
        tables, cost = self.folder.read_shards(probe.meta.id, wanted, kind="examples")
        if tables and all((self.folder.path / file).is_file() for file in tables[0]["file"].to_pylist()):
            table = tables[0]
        else:
            before = time.monotonic(), self.classifier.calls.forward, self.classifier.calls.backward
            table = pa.Table.from_pylist(list(self._draw(probe, requested)))
            calls = self.classifier.calls
            cost = Cost(time.monotonic() - before[0], calls.forward - before[1], calls.backward - before[2])
            for stale in (self.folder.path / "records" / probe.meta.id).glob("examples-*.parquet"):
                stale.unlink()
            self.folder.write_shard(probe.meta.id, wanted, table, cost, kind="examples")
        self._costs[probe.meta.id] += cost
        return Records(**{**vars(records), "examples": table.to_pandas()})

    def _draw(self, probe: Probe, requested: Sequence[Example]) -> Iterator[dict[str, Any]]:
        """Rows of all pictures; the original is asked about the stored files in one go."""
        rng = Randomness(self.request.seed, probe.meta.id)
        drawn: list[tuple[dict[str, Any], NDArray[np.float32]]] = []
        alike: dict[str, list[int]] = {}
        probe = self._prepare(probe, self._ids(probe))
        for number, wish in enumerate(requested):
            alike.setdefault(json.dumps(plain(wish.at)), []).append(number)
        for at, numbers in alike.items():
            batch = self.measurer.batch([requested[number].image_id for number in numbers])
            for name, pictures in probe.draw_example(self.classifier, batch, rng, requested[numbers[0]]).items():
                for number, label, pixels in zip(numbers, batch.labels, pictures, strict=True):
                    file, stored = self._store_picture(probe.meta.id, pixels)
                    row = {"example": number, "image_id": requested[number].image_id, "at": at, "picture": name}
                    drawn.append(({**row, "file": file, "label": int(label)}, stored))
        answers = self.classifier.predict(np.stack([stored for _, stored in drawn]))
        for (row, _), probabilities in zip(drawn, answers, strict=True):
            prediction = int(probabilities.argmax())
            yield row | {
                "prediction": prediction,
                "confidence": float(probabilities[prediction]),
                "confidence_label": float(probabilities[row["label"]]),
                "success": prediction != row["label"],
            }

    def _store_picture(self, probe_id: str, pixels: NDArray[np.float32]) -> tuple[str, NDArray[np.float32]]:
        """Write a picture as 8-bit PNG; its name, and the pixels as they read back from the file."""
        import hashlib

        from PIL import Image

        array = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        picture = Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))
        sink = io.BytesIO()
        picture.save(sink, "PNG")
        name = f"evidence/{probe_id.replace('.', '-')}-{hashlib.sha256(sink.getvalue()).hexdigest()[:16]}.png"
        path = self.folder.write(name, sink.getvalue())
        with Image.open(path) as again:
            stored = np.asarray(again, dtype=np.float32) / np.float32(255)
        return name, stored[None] if stored.ndim == 2 else stored.transpose(2, 0, 1)

    def _record(
        self, probe: Probe, *, status: str = "informative", reason: str = "", conclusion: Conclusion | None = None,
        n: int = 0, caveat: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """A probe as it stands in audit.json, before the policy judges it."""
        cost = self._costs.get(probe.meta.id, Cost())
        conclusion = conclusion or Conclusion()
        meta = probe.meta
        return {
            "id": meta.id,
            "title": meta.title,
            "why": meta.why,
            "area": meta.area,
            "status": status,
            "severity": "none",
            "reason": reason,
            "caveat": "; ".join(text for text in (conclusion.inconclusive, caveat) if text),
            "n": n,
            # what broke may break again
            "threat_model": None if status == "error" else plain(probe.threat_model()),
            "seconds": round(cost.seconds, 3),
            "model_calls": {"forward": cost.forward, "backward": cost.backward},
            "settings": plain(asdict(probe)),
            "references": list(meta.references),
            "metric_specs": plain(probe.metrics),
            "metrics": plain(conclusion.metrics),
            "findings": plain(conclusion.findings),
        }

    def _key(self, probe: Probe, ids: Sequence[str]) -> str:
        """Digest of all that a probe's rows depend on; not of the batch size, the budget or the number of workers."""
        what = [FORMAT, probe.meta.id, probe.meta.version, plain(asdict(probe)), probe.fingerprint(self._probes)]
        whom = [self._model_identity(), self.images.sha256, sorted(ids)]
        return digest([*what, *whom, self.request.seed, self.classifier.device.partition(":")[0]])

    def _model_identity(self) -> list[Any]:
        c = self.classifier
        reading = [plain(c.decoder), c.artefact.output]
        return [c.sha256, c.shape, plain(c.preprocessing.describe()), reading, c.access, list(c.classes)]

    def _tune(self) -> None:
        """Find the batch size by trying, unless it is given or fixed by the file."""
        if self.classifier.fixed_batch:
            return
        if self.request.batch_size:
            self.classifier.batch_size = self.request.batch_size
            return
        self.classifier.batch_size = tune(self.classifier, self.images.pixels(self.order[:512]))
        self.classifier.calls.forward = self.classifier.calls.backward = 0

    def _all_warnings(self) -> list[str]:
        warnings = list(self.classifier.warnings)
        if self.images.note:
            warnings.insert(0, self.images.note)
        elif self.images.labels is None:
            warnings.insert(0, "The data has no labels: the model's own answers stand in as reference labels, and"
                               " accuracy and bias were not measured.")  # fmt: skip
        if self.images.unreadable:
            warnings.append(f"{len(self.images.unreadable)} images could not be read and are left out.")
        if self.classifier.access == "black-box":
            warnings.append(f"Black-box only: {self.classifier.access_reason}.")
        return warnings

    def _write_manifest(self, probes: Sequence[Probe], suite: str) -> None:
        manifest = {
            "schema": "auditor-run/1",
            "auditor": auditor.__version__,
            "model": {"path": self.classifier.path, "sha256": self.classifier.sha256},
            "data": {"path": self.images.path, "sha256": self.images.sha256, "n": len(self.images)},
            "suite": suite,
            "settings": {probe.meta.id: plain(asdict(probe)) for probe in probes},
            "seed": self.request.seed,
            "command": self.request.command,
            "environment": describe(self.classifier.device),
        }
        before = self.folder.path / "manifest.json"
        if before.is_file():
            for line in manifest_changes(self.folder.read_json("manifest.json"), manifest):
                self.progress.say(f"Not the same as before, so measured afresh: {line}")
        self.folder.write_json("manifest.json", manifest)
        self.folder.write("records/images.parquet", self._image_list())

    def _image_list(self) -> bytes:
        """Which images these are, so that another run's can be told to be the same: id, digest of the bytes, label."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        images, classes = self.images, self.classifier.classes
        labels = [None] * len(images) if images.labels is None else [classes[label] for label in images.labels]
        table = pa.table({
            "image_id": pa.array(images.ids, pa.string()),
            "sha256": pa.array(images.digests, pa.string()),
            "label": pa.array(labels, pa.string()),
        })  # fmt: skip
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        written: bytes = sink.getvalue().to_pybytes()
        return written

    def _describe(self, records: list[dict[str, Any]], policy: Policy, suite: suite.Suite) -> dict[str, Any]:
        from datetime import UTC, datetime

        c, images = self.classifier, self.images
        channels, height, width = c.shape
        axes = {"nchw": [channels, height, width], "nhwc": [height, width, channels], "rows": [width]}[
            c.preprocessing.layout
        ]
        broken = [plugin.name for plugin in self.plugins.broken]
        outcome, why = verdict(records, policy, broken)
        return {
            "schema": "auditor/1",
            "auditor": auditor.__version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": self.request.seed,
            "suite": suite.name,
            "command": self.request.command,
            "environment": describe(c.device),
            "model": {
                "path": c.path,
                "sha256": c.sha256,
                "format": c.artefact.format,
                "access": c.access,
                "access_reason": c.access_reason,
                "runtime": c.artefact.runtime,
                "input": {"shape": [c.fixed_batch, *axes], **plain(c.preprocessing.describe()),
                          "source": c.preprocessing_source},
                "outputs": c.outputs,
                "output": {"name": c.artefact.output or None, "ends_in": c.decoder.activation,
                           "single": c.decoder.single},
                "classes": list(c.classes),
                "parity": None if c.parity is None else plain(c.parity._asdict()),
            },
            "data": {
                "path": images.path,
                "sha256": images.sha256,
                "kind": c.input_kind,
                "n": len(images),
                "n_available": images.n_available,
                "n_unreadable": len(images.unreadable),
                "unreadable": images.unreadable[:200],
                "labelled": images.labels is not None,
                "groups": {name: value_counts(values) for name, values in images.groups.items()},
            },
            "policy": policy.described(records),
            "plugins": [{"name": p.name, "version": p.version, "error": p.error} for p in self.plugins.plugins
                        if p.error or p.package != "auditor"],
            "warnings": self.warnings,
            "verdict": outcome,
            "verdict_reason": why,
            "documented": plain(published.compare_published(suite.documented, records, c.path)),
            "probes": records,
        }  # fmt: skip
