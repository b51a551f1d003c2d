"""A study beside the one that it follows: their blends on the photographs that both have.

Both are scored on the masses of the newer study that the older one measures too, each photograph by members and
weights that were chosen without its own unit. Studies deal their folds anew, so this is about blends, not about single
settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from biomass_models.counted import counted
from biomass_models.data.alignment import places_of
from ensembles.honest import Estimate
from ensembles.scorer import Scorer
from orchestration.blending.nested import blend_of
from orchestration.study.data import StudyData
from orchestration.study.data_changes import names_in
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Nested scores of two blends on the same photographs."""

    old: str  # name of the older study
    photographs: int
    score: Estimate
    old_score: Estimate
    gain: Estimate  # paired over units

    def __str__(self) -> str:
        photographs = counted(self.photographs, "photograph")
        return (
            f"on {photographs} that {self.old} has too: blend {self.score.value:.4f} nested, "
            f"{self.old_score.value:.4f} there; {self.gain.value:+.4f} [{self.gain.low:+.4f}, {self.gain.high:+.4f}]"
        )


def followed_blend(study: StudyData) -> tuple[Followed | None, str | None]:
    """A study's blend and that of the study that it follows, or why they are not compared; neither where it follows
    none."""
    uri = study.record.follows
    if uri is None:
        return None, None
    try:
        old = StudyData(Ledger(Storage(uri)))
        (here, why), (there, why_there) = blend_of(study), blend_of(old)
        if here is None or there is None:
            return None, f"{old.name if there is None else study.name} has no blend: {why_there or why}"
        name_there = _names_there(study, old)
        truth = study.truth[study.truth["image_id"].map(name_there).isin(old.quadrats["image_id"])]
        truth = old.measured_in(truth)
        if truth.empty:
            return None, f"{old.name} has none of these photographs"
        scorer = Scorer(truth)
        rows_RNT, old_RNT = (
            blend.nested_RNT[:, places_of(data.quadrats["image_id"], names)]
            for blend, data, names in (
                (here, study, truth["image_id"]),
                (there, old, truth["image_id"].map(name_there)),
            )
        )
    except (LedgerError, ValueError) as error:
        return None, f"{uri} cannot be compared: {error}"
    found = Followed(
        old=old.name,
        photographs=len(truth),
        score=scorer.score(rows_RNT),
        old_score=scorer.score(old_RNT),
        gain=scorer.gain(rows_RNT, old_RNT),
    )
    return found, None


def _names_there(study: StudyData, old: StudyData) -> dict[str, str]:
    """What the older study calls the photographs of the newer one (data_changes.names_in)."""
    photographs = study.ledger.photographs()
    if photographs is None:
        return {str(name): str(name) for name in study.quadrats["image_id"]}
    image_ids = photographs["image_id"].astype(str).tolist()
    return dict(zip(image_ids, names_in(old.ledger, image_ids, photographs["blake2b"].tolist()), strict=True))
