"""`biomass export`: a blend as a folder that predicts in a notebook without network, Ray or the study.

bundle/<project>.whl                 the code; a wheel beside it for each family of an installed package
bundle/predict.py                    a few lines that use it
bundle/members/<n>-<trial>/fold-<k>.safetensors     of each fold that predicts; of the last one of ordered folds
bundle/weights/                      backbone weights: with --with-weights, or put there by hand
bundle/requirements.txt              versions that the numbers were made with
bundle/bundle.json                   the marker, written last: card, configs, weights needed, sizes and hashes
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from biomass_models.backbones.weights import WeightsSource, canonical_name, find_weights, published_at
from biomass_models.families.registry import installed
from biomass_models.whole_files import whole_folder
from ensembles.card import Card
from orchestration.bundle.predict import FORMAT, MARKER, WEIGHTS, Bundle, BundleFile, BundleMember, NeededWeights
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger, LedgerError, open_ledger, predicting_folds_of
from orchestration.study.records import TrialRef
from orchestration.study.storage import Storage
from orchestration.wheel import project_wheel, wheel_of
from orchestration.workers.weights_here import source_of_trials

PREDICT = '''"""Predict without network: python predict.py DATA_DIR submission.csv [--weights FOLDER]"""

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
    study: str, name: str, out: Path, *, weights: WeightsSource | None = None, with_weights: bool = False
) -> tuple[NeededWeights, ...]:
    """Write the bundle of an ensemble; returns the backbone weights that it needs beside itself.

    weights: of the backbones; None takes them from where the members' searches had them. Everything is checked before
    the first byte is written, and the folder appears when all of it is there. Raises LedgerError: no such ensemble, a
    member that came as a file and has no weights, other backbone weights than the members were trained on, a folder
    that is not empty.
    """
    ledger = open_ledger(study)
    ensemble = ledger.ensemble(name)
    card, refs = Card.from_json(ensemble.card), ensemble.trials
    if files := [member for member in card.members if member not in refs]:
        raise LedgerError(
            f"a bundle predicts photographs, members {', '.join(files[:3])} came as files; blend the study alone"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LedgerError(f"a bundle is written into a new or empty folder, {out} is not; remove it or name another")
    source = source_of_trials([refs[member] for member in card.members], weights)
    needed = _backbones([refs[member] for member in card.members], source)
    with whole_folder(out) as part:
        _write(part, ledger.storage.uri, name, card, refs, needed, source if with_weights else None)
    return needed


def _write(
    folder: Path,
    study: str,
    name: str,
    card: Card,
    refs: Mapping[str, TrialRef],
    needed: tuple[NeededWeights, ...],
    weights: WeightsSource | None,
) -> None:
    """All files, the marker last; weights: where the backbones' weights are copied from, None to leave them out."""
    storage, written = Storage(folder), dict[str, BundleFile]()

    def put(path: str, data: bytes) -> None:
        storage.write(path, data)
        written[path] = BundleFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    members = []
    for number, member in enumerate(card.members, start=1):
        ref = refs[member]
        source = Ledger(Storage(ref.study))
        record = source.trial(ref.trial_id)
        folds = predicting_folds_of(source)
        paths = [f"members/{number:02d}-{ref.trial_id}/fold-{fold}.safetensors" for fold in folds]
        for path, fold in zip(paths, folds, strict=True):
            put(path, source.fold_model(ref.trial_id, fold))
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
    put("requirements.txt", "".join(f"{package}=={version(package)}\n" for package in NEEDED).encode())
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
    marker = Bundle(
        format=FORMAT,
        study=study,
        photograph_size=own.record.photograph_size,
        mass_unit=own.record.mass_unit,
        measured=own.measured,
        ensemble=name,
        card=card.to_json(),
        members=tuple(members),
        backbones=needed,
        files=written,
    )
    storage.write(MARKER, (json.dumps(marker.to_json(), indent=1, allow_nan=False) + "\n").encode())


def _backbones(refs: list[TrialRef], weights: WeightsSource) -> tuple[NeededWeights, ...]:
    """Each backbone once: which file, its checksums, where it is published. `file` is None for random weights."""
    found: dict[str, NeededWeights] = {}
    for ref in refs:
        record = Ledger(Storage(ref.study)).trial(ref.trial_id)
        name = canonical_name(record.config["backbone"])
        if name in found:
            continue
        entry = NeededWeights(backbone=name, fingerprint=record.weights)
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
