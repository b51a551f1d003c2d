"""Predicting from a bundle (export.py): what its predict.py calls. Needs neither Ray nor Optuna, nor a network."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biomass_models.backbones.devices import threads
from biomass_models.backbones.weights import WeightsError, WeightsSource, fingerprint
from biomass_models.counted import counted
from biomass_models.data.check import check_test_directory
from biomass_models.data.frames import Fit
from biomass_models.data.photographs import PUBLISHED_SIZE, unlike_shapes
from biomass_models.data.problems import grouped
from biomass_models.data.table import read_test, read_test_rows
from biomass_models.errors import UserError
from biomass_models.features.inputs import ImageSet
from biomass_models.features.states import StateModel
from biomass_models.fold_units import QUADRAT
from biomass_models.targets import TARGETS
from biomass_models.visible import visible
from biomass_models.whole_files import write_whole
from ensembles.blend import apply_blend
from ensembles.card import Card
from ensembles.submission import (
    mass_table,
    quadrat_means,
    quadrats_note,
    require_valid,
    submission_bytes,
    table_notes,
)
from orchestration.endings import debugging, explained
from orchestration.study.mass_unit import GRAMS, MassUnit, table_unit
from orchestration.study.record import Part, RecordError
from orchestration.workers.shards import mean_prediction, require_packages, shard_inputs, spans

MARKER, WEIGHTS, EMBEDDINGS = "bundle.json", "weights", "embeddings.parquet"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class BundleFile(Part):
    """A file that the marker vouches for."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class BundleMember(Part):
    """A member of the blend and its models, one a fold or fitted on all rows; their mean predicts."""

    name: str
    family: str
    config: Mapping[str, Any]
    weights: str  # fingerprint of its backbone's
    models: tuple[str, ...]  # paths within the bundle
    fit: Fit = "stretch"  # of its study: what its views are cut from


@dataclass(frozen=True, kw_only=True)
class NeededWeights(Part):
    """Weights of a backbone that a bundle needs beside itself; random ones need no file."""

    backbone: str
    fingerprint: str
    file: str | None = None  # name within the weights folder
    sha256: str | None = None
    bytes: int | None = None
    origin: str | None = None  # where the exporter had it from
    published_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class Bundle(Part):
    """bundle.json, the marker of a bundle."""

    format: int
    study: str
    ensemble: str
    card: Mapping[str, Any]  # of ensembles.card
    members: tuple[BundleMember, ...]
    backbones: tuple[NeededWeights, ...]
    files: Mapping[str, BundleFile]  # by path
    photograph_size: tuple[int, int] | None = None  # px that it was trained on; None: PUBLISHED_SIZE
    mass_unit: MassUnit = GRAMS  # of what it was trained on
    measured: tuple[str, ...] = TARGETS  # that it predicts
    study_card: str | None = None  # content of the card as the study has it, without --all-rows of the export
    likeness: Mapping[str, Any] | None = None  # how unlike photographs are told (features.likeness), without embeddings
    embeddings: str | None = None  # path within the bundle of those of the training photographs
    photographs: Mapping[str, str] = field(default_factory=dict)  # hash of each one's content by id, with embeddings

    @property
    def table_unit(self) -> MassUnit | None:
        """As records.table_unit."""
        return table_unit(self.mass_unit, self.measured)


class BundleError(UserError):
    """A bundle that cannot predict here; the text says what to put where."""


def main(bundle: Path) -> None:
    """The command line of a bundle's predict.py."""
    parser = argparse.ArgumentParser(description="Predict the photographs of a test.csv.")
    parser.add_argument("data", type=Path, help="data directory: test.csv and its photographs")
    parser.add_argument("out", type=Path, help="submission, or table of masses, to write")
    parser.add_argument("--weights", type=Path, default=bundle / WEIGHTS, help="folder of backbone weights")
    parser.add_argument("--threads", type=_threads, help="CPU threads to compute with; without it as many as cores")
    arguments = parser.parse_args()
    try:
        with nullcontext() if arguments.threads is None else threads(arguments.threads):
            predict_bundle(bundle, arguments.data, arguments.out, weights=arguments.weights, say=_say)
    except Exception as error:  # the boundary to the user
        if debugging():
            raise
        text, code = explained(error)
        print(visible(text), file=sys.stderr)
        sys.exit(code)


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of threads is at least 1, got {text}")
    return int(text)


def _say(text: str) -> None:
    print(visible(text), flush=True)


def predict_bundle(bundle: Path, data_dir: Path, out: Path, *, weights: Path, say: Callable[[str], None]) -> None:
    """Predict test.csv's images with all members, blend, write and validate the submission, or a table of masses where
    the study measures fewer than five or in another unit than grams per quadrat.

    weights: folder of backbone weights; installed weights packages count as well. Raises BundleError for a damaged
    bundle and for missing or other weights, UserError for a package that a member needs, before any photograph is read.
    """
    marker = read_bundle(bundle)
    require_packages(marker.members)
    card, source = Card.from_json(marker.card), weights_of(marker.backbones, weights)
    table = read_test(data_dir)
    fits = list(dict.fromkeys(member.fit for member in marker.members))
    for problem in grouped(check_test_directory(data_dir, fit=fits[0])):
        if problem.level == "error":
            raise BundleError(str(problem))
        say(str(problem))
    trained_on, paths = marker.photograph_size or PUBLISHED_SIZE, [data_dir / str(path) for path in table["image_path"]]
    for odd in filter(None, (unlike_shapes(paths, trained_on, fit) for fit in fits)):
        say(f"warning: {odd}")
    if (all_rows := card.all_rows_text) is not None:
        say(f"note: {all_rows}")
    model = None if card.state_rule is None else StateModel.from_json(card.state_model or {})
    likely_nNS = []
    images = ImageSet.from_table(data_dir, table)
    pred_MNT = np.empty((len(marker.members), len(table), len(TARGETS)))
    for span in spans(len(table)):
        # features are of use to the members of this shard only: the disk need not hold more than one shard's
        with tempfile.TemporaryDirectory() as cache:
            inputs_of, _ = shard_inputs(images, span, cache_dir=Path(cache), weights=source)
            for row, member in enumerate(marker.members):
                models = ((bundle / path).read_bytes() for path in member.models)
                pred_MNT[row, slice(*span)] = mean_prediction(
                    member.family, member.config, models, inputs_of(member.fit), flips=card.flips
                )
            if model is not None:
                likely_nNS.append(model.likely(model.bank.features(inputs_of(model.bank.fit))))
        say(f"{span[1]} of {len(table)} images")
    predictions = {member.name: pred_NT for member, pred_NT in zip(marker.members, pred_MNT, strict=True)}
    quadrat_N = table[QUADRAT].tolist() if QUADRAT in table else None
    likely_NS = np.concatenate(likely_nNS) if likely_nNS else None
    mass_NT = quadrat_means(apply_blend(card, predictions, likely_NS), quadrat_N)
    if quadrat_N is not None:
        say(f"note: {quadrats_note(quadrat_N)}")
    if (unit := marker.table_unit) is not None:
        ids, per_gram = list(table["image_id"]), unit.per_gram()
        write_whole(out, mass_table(ids, mass_NT, unit=unit.name, per_gram=per_gram, quadrat_N=quadrat_N))
        for note in table_notes(marker.measured, unit.name, per_gram):
            say(f"note: {note}")
        say(f"Masses, one row a photograph: {out}")
        return
    masses = pd.DataFrame(mass_NT, columns=list(TARGETS))
    masses.insert(0, "image_id", table["image_id"].to_numpy())
    content = submission_bytes(read_test_rows(data_dir), masses)
    require_valid(content, out.name, data_dir)
    write_whole(out, content)
    say(f"Submission, valid: {out}")


def read_bundle(bundle: Path) -> Bundle:
    """The marker, once every file that it vouches for is there unchanged."""
    try:
        content = json.loads((bundle / MARKER).read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") != FORMAT:
            found = content.get("format")
            raise BundleError(f"{bundle} must be of format {FORMAT}, got {found}; export it again")
        marker = Bundle.from_json(content)
    except (OSError, ValueError, RecordError) as error:
        raise BundleError(f"{bundle} is no whole bundle, {MARKER} cannot be read ({error}); export it again") from error
    damaged = [path for path, file in marker.files.items() if _digest(bundle / path) != file.sha256]
    if damaged:
        lost = counted(len(damaged), "file is", "files are")
        raise BundleError(f"{lost} missing or changed in {bundle}, such as {damaged[0]}; copy again")
    return marker


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_of(backbones: Sequence[NeededWeights], folder: Path) -> WeightsSource:
    """Where the weights are; BundleError that lists every backbone whose weights are missing or others."""
    if all(entry.file is None for entry in backbones):
        return WeightsSource("random")
    marks = {entry.backbone: entry.fingerprint for entry in backbones}
    source = WeightsSource("auto", folder if folder.is_dir() else None).keeping(marks)
    wrong = []
    for entry in backbones:
        try:
            got = fingerprint(entry.backbone, source)
        except WeightsError:
            got = "none"
        if got != entry.fingerprint:
            wrong.append(
                f"put {entry.file} ({entry.bytes} bytes, sha256 {entry.sha256}, published at {entry.published_at}) "
                f"into {folder}: {entry.backbone} needs weights {entry.fingerprint}, "
                f"got {got}"
            )
    if wrong:
        raise BundleError("; ".join(wrong))
    return source
