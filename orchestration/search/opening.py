"""How a study is made, and what it takes to go on with one. What is fixed here never changes while it lives."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import pandas as pd

from orchestration.search.following import is_there
from orchestration.search.presets.named import preset_named
from orchestration.search.presets.options import Preset
from orchestration.study.environment import STUDY_PACKAGES, code_version
from orchestration.study.ledger import Ledger, folds_of
from orchestration.study.mass_unit import GRAMS, MassUnit
from orchestration.study.records import Asked, OwnRange, Params, StudyRecord
from orchestration.study.settings import MOVABLE, StudyError, StudySettings, shares_by_family
from orchestration.study.storage import Storage


def open_study(
    ledger: Ledger,
    settings: StudySettings,
    *,
    quadrats: pd.DataFrame,
    data_fingerprint: str,
    fold_hash: str,
    weights: Mapping[str, str],
    spaces: Mapping[str, Params] | None = None,
    own_ranges: tuple[OwnRange, ...] = (),
    made_with: Asked | None = None,
    photograph_size: tuple[int, int] | None = None,
    mass_unit: MassUnit = GRAMS,
    follows: str | None = None,
) -> StudyRecord:
    """Make the study, or return the record of the one that is there if all of this is the same.

    quadrats: one row an image with labels, metadata, fold and group; weights: fingerprint by backbone; spaces: ranges
    by family; own_ranges: what the user changed of them; made_with: what the command asked for; photograph_size: the
    most common width and height in px, so that a prediction knows what it was trained on; mass_unit: that of the table;
    follows: URI of the study that it follows. The last six are stored with a new study and never compared.
    Raises StudyError naming every setting that would change results.
    """
    existing = ledger.find_study()
    if existing is not None:
        facts = {"data_fingerprint": data_fingerprint, "fold_hash": fold_hash, "weights": dict(weights)}
        require_same(ledger, [(key, existing.to_json()[key], value) for key, value in facts.items()], settings)
        return existing
    record = StudyRecord(
        settings=settings,
        data_fingerprint=data_fingerprint,
        fold_hash=fold_hash,
        weights=weights,
        spaces=spaces or {},
        own_ranges=own_ranges,
        versions={"python": platform.python_version(), **{name: version(name) for name in STUDY_PACKAGES}},
        code=code_version(),
        created_at=time.time(),
        made_with=made_with or Asked(),
        photograph_size=photograph_size,
        mass_unit=mass_unit,
        follows=follows,
    )
    ledger.write_study(record, quadrats)
    return ledger.study()


def require_same(
    ledger: Ledger, more: Sequence[tuple[str, object, object]] = (), settings: StudySettings | None = None
) -> None:
    """Raises StudyError that names what differs: settings from the study's, and (name, stored, asked) of `more`."""
    pairs = list(more)
    if settings is not None:
        stored = ledger.study().settings.to_json()
        pairs = [(key, stored.get(key), value) for key, value in settings.to_json().items()] + pairs
    changed = [f"{key}: {stored!r} -> {asked!r}" for key, stored, asked in pairs if stored != asked]
    if changed:
        raise StudyError(
            f"a study is resumed with the settings it was made with; {ledger.storage.uri} differs in "
            + "; ".join(changed)
            + ". Give the old settings, or start a new study in another folder"
        )


def go_on_with(
    ledger: Ledger, record: StudyRecord, settings: StudySettings, more: Sequence[tuple[str, object, object]] = ()
) -> StudyRecord:
    """The study's record with the settings of now that may move (settings.MOVABLE), stored where they differ.

    more: as for `require_same`, which raises StudyError where anything else differs.
    """
    require_same(ledger, more, replace(settings, **{name: getattr(record.settings, name) for name in MOVABLE}))
    moved = {name: getattr(settings, name) for name in MOVABLE}
    if all(getattr(record.settings, name) == value for name, value in moved.items()):
        return record
    record = replace(record, settings=replace(record.settings, **moved))
    ledger.update_study(record)
    return record


# -- what was typed ----------------------------------------------------------------------------------------------------


def typed_fields(asked: Asked, stored: Asked) -> set[str]:
    """Fields of a preset that the command names: its options, and all that a preset sets which is not the study's.

    What the study's own preset sets today does not count: a release may change a preset.
    """
    typed = set(asked.overrides)
    if asked.preset is not None and asked.preset != stored.preset:
        plain, own = Preset().values(), preset_named(asked.preset).values()
        typed |= {name for name, value in own.items() if value != plain[name]}
    return typed


def require_typed(ledger: Ledger, asked: Preset, made_with: Asked) -> None:
    """Compare what was typed with the study; raises StudyError naming what differs.

    Everything else is the study's, whatever is installed, reachable or the default today.
    """
    record = ledger.study()
    typed = typed_fields(made_with, record.made_with)
    settings, study = record.settings, asked.study
    pairs: list[tuple[str, object, object]] = []
    if "families" in typed:
        asked_shares = shares_by_family(study.families, study.shares)
        pairs.append(("families", _of_one(settings.share_of), _of_one(asked_shares)))
    if "backbones" in typed and study.backbones:
        from biomass_models.backbones.weights import canonical_name  # here, because it loads timm

        one, other = ({canonical_name(name) for name in names} for names in (settings.backbones, study.backbones))
        pairs.append(("backbones", sorted(one), sorted(other)))
    if "weights" in typed:  # a folder may have moved: what it holds is compared by its contents
        pairs.append(("weights", _kind(settings.weights), _kind(study.weights)))
    if "scale" in typed and study.scale != "auto":
        pairs.append(("scale", settings.scale, study.scale))
    if "fit" in typed and study.fit != "auto":
        pairs.append(("fit", settings.fit, study.fit))
    if "fold_file" in typed or "scheme" in typed:
        pairs.append(("scheme", settings.scheme, "file" if study.fold_file else study.scheme))
    if "from_" in typed:
        pairs += _followed(ledger, record, study.from_)
    for name, stored, given in (
        ("folds", settings.folds, study.folds),
        ("seed", settings.seed, study.seed),
        ("exam", settings.exam, study.exam),
    ):
        if name in typed:
            pairs.append((name, stored, given))
    require_same(ledger, pairs)


def _followed(ledger: Ledger, record: StudyRecord, typed: str | None) -> list[tuple[str, object, object]]:
    """The study that is followed, to be compared; not where it is gone from its place: it may have been moved."""
    given = None if typed is None else Storage(typed).uri
    if record.follows is not None and given not in (None, ledger.storage.uri) and not is_there(record.follows):
        return []
    return [("from", record.follows, given)]


def settings_of_now(record: StudyRecord, asked: Preset, made_with: Asked) -> StudySettings:
    """The study's settings, with what was typed of those that may move."""
    typed, values = typed_fields(made_with, record.made_with), asked.values()
    return replace(record.settings, **{name: values[name] for name in MOVABLE if name in typed})


def _of_one(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: share / sum(shares.values()) for name, share in sorted(shares.items())}


def _kind(weights: str) -> str:
    return "random" if weights == "random" else "trained"


# -- weights of backbones ----------------------------------------------------------------------------------------------


def take_new_weights(ledger: Ledger, here: Mapping[str, str]) -> list[str]:
    """Note in the study which backbones have other weights here than they had; returns a sentence for each.

    here: fingerprint of each backbone of the study whose weights are here. An open trial of which nothing is computed
    is closed, since it is another trial with other weights. Raises StudyError where a finished fold was trained with
    what was there before: its trials and new ones would not be comparable.
    """
    record, ended = ledger.study(), ledger.results()
    others = [one for one in ledger.trials() if here.get(str(one.config.get("backbone")), one.weights) != one.weights]
    folds = folds_of(ledger.quadrats()) if others else []
    for one in others:
        name = str(one.config["backbone"])
        if any(ledger.fold_metrics(one.trial_id, fold) is not None for fold in folds):
            raise StudyError(
                f"the weights of {name} must stay those of the finished folds, {one.weights} in trial {one.trial_id}, "
                f"got {here[name]}; give the old file (--weights), or search in another folder"
            )
        if one.trial_id not in ended:
            ledger.write_failure(one.trial_id, f"the weights of {name} changed before a fold was finished")
    changed = {name: mark for name, mark in here.items() if record.weights.get(name, mark) != mark}
    if changed:
        ledger.update_study(replace(record, weights={**record.weights, **changed}))
    return [f"The weights of {name} are others than before; nothing was trained with those" for name in changed]
