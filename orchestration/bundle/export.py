"""`biomass export`: a blend as a folder that predicts in a notebook without network, Ray or the study.

bundle/<project>.whl                 the code; a wheel beside it for each family of an installed package
bundle/predict.py                    a few lines that use it
bundle/members/<n>-<trial>/fold-<k>.safetensors     of each fold that predicts; of the last one of ordered folds
bundle/members/<n>-<trial>/all-rows.safetensors     beside or instead of them, where the blend asks for it
bundle/weights/                      backbone weights: with --with-weights, or put there by hand
bundle/embeddings.parquet            of the training photographs, where the study keeps them
bundle/requirements.txt              versions that the numbers were made with, of what its members need
bundle/bundle.json                   the marker, written last: card, configs, weights needed, sizes and hashes
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from biomass_models.backbones.weights import WeightsSource, canonical_name, find_weights, published_at
from biomass_models.families.needed_packages import packages_of
from biomass_models.families.registry import installed
from biomass_models.features.states import StateModel
from biomass_models.whole_files import whole_folder
from ensembles.card import Card
from orchestration.blending.budget import require_fold_models
from orchestration.blending.likeness import kept_likeness, likeness_bytes
from orchestration.bundle.predict import (
    EMBEDDINGS,
    FORMAT,
    MARKER,
    WEIGHTS,
    Bundle,
    BundleFile,
    BundleMember,
    NeededWeights,
)
from orchestration.study.data import StudyData
from orchestration.study.derived.blends import GivenRecord
from orchestration.study.environment import code_version
from orchestration.study.ledger import Ledger, LedgerError, open_ledger, predicting_models
from orchestration.study.records import TrialRef, WrittenFile
from orchestration.study.seeds import content_id
from orchestration.study.storage import Storage
from orchestration.wheel import project_wheel, wheel_of
from orchestration.workers.weights_here import source_of_bank, source_of_trials

PREDICT = '''"""Predict without network: python predict.py DATA_DIR submission.csv [--weights FOLDER] [--threads N]"""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path[:0] = sorted(map(str, here.glob("*.whl")))

from orchestration.bundle.predict import main

main(here)
'''
NEEDED = (
    "torch", "torchvision", "timm", "numpy", "pandas", "scipy", "scikit-learn", "pillow", "pyarrow", "safetensors",
    "filelock", "huggingface_hub", "rich",
)  # fmt: skip


def export_bundle(
    study: str,
    name: str,
    out: Path,
    *,
    weights: WeightsSource | None = None,
    with_weights: bool = False,
    all_rows: str | None = None,
) -> tuple[NeededWeights, ...]:
    """Write the bundle of an ensemble; returns the backbone weights that it needs beside itself.

    weights: of the backbones; None takes them from where the members' searches had them. all_rows: of
    fold_rows.ALL_ROWS, for the bundle alone; None as the ensemble has it. Everything is checked before the first byte
    is written, and the folder appears when all of it is there. Raises LedgerError: no such ensemble, a member that came
    as a file and has no weights, or none on all rows, other backbone weights than the members were trained on, a folder
    that is not empty; UserError: models on all rows of a blend within a budget.
    """
    ledger = open_ledger(study)
    ensemble = ledger.ensemble(name)
    card, refs = Card.from_json(ensemble.card), ensemble.trials
    card = card if all_rows is None else replace(card, all_rows=all_rows)
    require_fold_models(card.budget, card.all_rows)
    if files := [member for member in card.members if member not in refs]:
        raise LedgerError(
            f"a bundle predicts photographs, members {', '.join(files[:3])} came as files; blend the study alone"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LedgerError(f"a bundle is written into a new or empty folder, {out} is not; remove it or name another")
    source = source_of_trials([refs[member] for member in card.members], weights)
    records = [Ledger(Storage(ref.study)).trial(ref.trial_id) for ref in (refs[member] for member in card.members)]
    prints = {canonical_name(record.config["backbone"]): record.weights for record in records}
    if card.state_rule is not None and card.state_model is not None:
        bank = StateModel.from_json(card.state_model).bank
        source = source_of_bank(source, bank)
        prints[canonical_name(bank.backbone)] = bank.weights
    needed = _backbones(prints, source)
    with whole_folder(out) as part:
        study_card = content_id(ensemble.card)
        copied = source if with_weights else None
        marker = _write(part, ledger.storage.uri, name, card, study_card, refs, needed, copied)
    with contextlib.suppress(OSError):  # a study that others own is read as it is
        ledger.write_given(
            GivenRecord(
                kind="bundle",
                ensemble=name,
                card=study_card,
                study=ledger.storage.uri,
                file=WrittenFile(name=MARKER, bytes=len(marker), sha256=hashlib.sha256(marker).hexdigest()),
                created_at=time.time(),
                code=code_version(),
            )
        )
    return needed


def _write(
    folder: Path,
    study: str,
    name: str,
    card: Card,
    study_card: str,
    refs: Mapping[str, TrialRef],
    needed: tuple[NeededWeights, ...],
    weights: WeightsSource | None,
) -> bytes:
    """All files, the marker last, whose content is returned.

    weights: where the backbones' weights are copied from, None to leave them out.
    """
    storage, written = Storage(folder), dict[str, BundleFile]()

    def put(path: str, data: bytes) -> None:
        storage.write(path, data)
        written[path] = BundleFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    members = []
    for number, member in enumerate(card.members, start=1):
        ref = refs[member]
        source = Ledger(Storage(ref.study))
        record = source.trial(ref.trial_id)
        paths = []
        for model, tensors in predicting_models(source, ref.trial_id, card.all_rows):
            paths.append(f"members/{number:02d}-{ref.trial_id}/{model}.safetensors")
            put(paths[-1], tensors)
        members.append(
            BundleMember(
                name=member,
                family=record.family,
                config=record.config,
                weights=record.weights,
                models=tuple(paths),
                fit=source.study().settings.fit,
            )
        )
    put(*project_wheel())
    others = installed()
    for family in sorted({member.family for member in members} & others.keys()):
        put(*wheel_of(others[family]))
    put("predict.py", PREDICT.encode())
    more = sorted({package for member in members for package in packages_of(member.family, member.config)})
    put("requirements.txt", "".join(f"{package}=={version(package)}\n" for package in (*NEEDED, *more)).encode())
    if weights is not None:
        for entry in needed:
            if entry.file is not None:
                path = f"{WEIGHTS}/{entry.file}"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                # never in memory: the largest backbones take tens of GB
                shutil.copyfile(find_weights(entry.backbone, weights).path, folder / path)
                assert entry.bytes is not None and entry.sha256 is not None
                written[path] = BundleFile(bytes=entry.bytes, sha256=entry.sha256)
    own = StudyData(Ledger(Storage(study)))
    likeness = kept_likeness(own.ledger, card, refs)
    photographs: dict[str, str] = {}
    if likeness is not None:
        put(EMBEDDINGS, likeness_bytes(likeness))
        if (known := own.ledger.photographs()) is not None:
            digests = dict(zip(known["image_id"].astype(str), known["blake2b"], strict=True))
            photographs = {name: digests[name] for name in likeness.image_ids if name in digests}
    marker = Bundle(
        format=FORMAT,
        study=study,
        photograph_size=own.record.photograph_size,
        mass_unit=own.record.mass_unit,
        measured=own.measured,
        likeness=None if likeness is None else likeness.bank.to_json(),
        embeddings=None if likeness is None else EMBEDDINGS,
        photographs=photographs,
        ensemble=name,
        card=card.to_json(),
        study_card=study_card,
        members=tuple(members),
        backbones=needed,
        files=written,
    )
    content = (json.dumps(marker.to_json(), indent=1, allow_nan=False) + "\n").encode()
    storage.write(MARKER, content)
    return content


def _backbones(prints: Mapping[str, str], weights: WeightsSource) -> tuple[NeededWeights, ...]:
    """Each backbone: which file, its checksums, where it is published. `file` is None for random weights.

    prints: fingerprint of each backbone's weights by its canonical name.
    """
    found: dict[str, NeededWeights] = {}
    for name, print_ in prints.items():
        entry = NeededWeights(backbone=name, fingerprint=print_)
        if weights.kind != "random":
            file = find_weights(name, weights)
            with file.path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            entry = replace(
                entry,
                file=_file_name(name, file.path, renamed=file.rename is not None or bool(file.stand_in)),
                sha256=digest,
                bytes=file.path.stat().st_size,
                origin=file.stand_in or file.origin,
                published_at=published_at(name),
            )
        found[name] = entry
    return tuple(found.values())


def _file_name(name: str, path: Path, *, renamed: bool) -> str:
    """Under which name a weights folder finds the file again."""
    if renamed:  # a package's own checkpoint is known by its own name
        return path.name
    return f"{name}/{path.name}" if path.suffix == ".bin" else f"{name}{path.suffix}"
