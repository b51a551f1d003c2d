"""Photographs that a blend has learned from: whether a directory holds them, and unlike ones are recognised."""

from __future__ import annotations

from pathlib import Path

from biomass_models.counted import counted
from biomass_models.data.images import file_digest
from biomass_models.data.table import read_train
from biomass_models.errors import UserError
from orchestration.answers.opened import OpenBlend, is_bundle
from orchestration.blending.likeness import own_trial
from orchestration.bundle.predict import read_bundle
from orchestration.study.ledger import open_ledger
from orchestration.workers.refit import require_searched

WHAT = "training photographs are shown"


def unlike_note(blend: OpenBlend) -> str | None:
    """Why photographs unlike these are not recognised, with what can be done; None where they are."""
    if blend.likeness is not None:
        return None
    said = "how unlike the training photographs these are is not known: their embeddings are not"
    if is_bundle(blend.place.where):
        return (
            f"{said} in the bundle; export it again from its study, once `biomass predict STUDY PHOTOS --data DIR` "
            "(that of the search) has kept them there"
        )
    if own_trial(open_ledger(blend.place.where).ensemble(blend.name).trials, blend.place.where) is None:
        return f"{said} kept, since the study has no trials in the blend"
    return f"{said} kept; `biomass predict STUDY PHOTOS --data DIR`, with that of the search, keeps them"


def training_photographs(blend: OpenBlend, data_dir: Path) -> dict[str, Path]:
    """By id. Raises UserError, LedgerError among them, for a directory that is not the data of the search."""
    if is_bundle(blend.place.where):
        _require_bundled(Path(blend.place.where), data_dir)
    else:
        require_searched(WHAT, open_ledger(blend.place.where), data_dir)
    return _paths(data_dir)


def _require_bundled(bundle: Path, data_dir: Path) -> None:
    then, paths = read_bundle(bundle).photographs, _paths(data_dir)
    if not then:
        raise UserError(
            f"{WHAT} where their contents are known, {bundle} was exported without them; leave --data out, or export "
            "it again from a study that has embeddings"
        )
    others = [name for name, digest in then.items() if name not in paths or _digest(paths[name]) != digest]
    if others:
        lost = counted(len(others), "is", "are")
        raise UserError(
            f"{WHAT} from what the blend has learned, of {counted(len(then), 'photograph')} {lost} missing or replaced "
            f"in {data_dir} (such as {others[0]}); give the --data of the search"
        )


def _paths(data_dir: Path) -> dict[str, Path]:
    table = read_train(data_dir)
    names, paths = table["image_id"].astype(str), table["image_path"].astype(str)
    return {name: data_dir / path for name, path in zip(names, paths, strict=True)}


def _digest(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None
