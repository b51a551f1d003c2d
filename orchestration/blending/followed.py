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
        truth = old.measured_in(study.truth[study.truth["image_id"].isin(old.quadrats["image_id"])])
        if truth.empty:
            return None, f"{old.name} has none of these photographs"
        scorer = Scorer(truth)
        rows_RNT, old_RNT = (
            blend.nested_RNT[:, places_of(data.quadrats["image_id"], truth["image_id"])]
            for blend, data in ((here, study), (there, old))
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
