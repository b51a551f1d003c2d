"""A search of the campaign, and of tests that need the same: three families on a tiny network, one on a cached trunk.

    python tests/faults/drive.py STUDY TRIALS        in a folder with data/; BIOMASS_CACHE names the feature store

The baseline trains the last block of its backbone on a bank of what the frozen blocks put out. Coordinators and workers
are those of any search: they find a trial's configuration in the ledger.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from biomass_models.backbones.weights import WeightsSource, canonical_name, fingerprint
from orchestration.search.presets.options import Preset
from orchestration.search.start import run_search
from search_spaces.domain import Choice, SearchSpace
from search_spaces.spaces import space_of

FOLDS = 4
FAMILIES = ("baseline", "probe", "distilled")
WEIGHTS = WeightsSource(kind="random")
BACKBONE = canonical_name("test_vit")
ON_A_TRUNK = {"trained_blocks": 1, "prefix_bank": "float16", "backbone_lr": 1e-4}
NARROW = {"head_width": 32, "head_width_2": 16}


def space(family: str) -> SearchSpace:
    """The family's smoke ranges, with small heads, and for the baseline a trained block."""
    plain = space_of(family, (BACKBONE,), "smoke")
    if family == "probe":
        return plain
    fixed = {**plain.fixed, **NARROW, **(ON_A_TRUNK if family == "baseline" else {})}

    def without(params: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in params.items() if name not in fixed}

    domains = without(dict(plain.domains))
    if family == "baseline":
        domains["size"] = Choice((64,))
    firsts = tuple(without(dict(params)) for params in plain.first_trials)
    return replace(plain, domains=domains, fixed=fixed, first_trials=firsts)


def main() -> None:
    study, trials = sys.argv[1], int(sys.argv[2])
    asked = Preset().with_fields(
        families=FAMILIES, backbones=(BACKBONE,), weights="random", scale="smoke", folds=FOLDS, slots=2
    )
    settings = asked.settings((BACKBONE,), weights="random", gpu=False)
    run_search(
        study,
        Path("data"),
        settings,
        weights=WEIGHTS,
        fingerprints={BACKBONE: fingerprint(BACKBONE, WEIGHTS)},
        resources=replace(asked.resources, cache=Path(os.environ["BIOMASS_CACHE"])),
        max_trials=trials,
        hours=None,
        say=print,
        spaces={family: space(family) for family in FAMILIES},
    )


if __name__ == "__main__":
    main()
