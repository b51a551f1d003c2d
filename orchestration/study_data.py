"""Whether a data directory is the one that a study learned from, for whoever shows or predicts photographs.

Needs no torch: reports are read on laptops.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from biomass_models.images import digest_of, file_digest
from biomass_models.photographs import stretched
from biomass_models.table import TEST_FILE, TRAIN_FILE, read_test, read_train
from biomass_models.targets import TARGETS
from orchestration.ledger import Ledger
from orchestration.study import data_fingerprint


def data_changes(ledger: Ledger, data_dir: Path) -> Iterator[str]:
    """Sentences on what is not as it was when the study was searched.

    A directory without train.csv, or with none of the study's images, is another test set and is left alone.
    """
    study = ledger.study()
    if (data_dir / TRAIN_FILE).exists():
        here, recorded = read_train(data_dir), set(ledger.quadrats()["image_id"])
        missing = [path for path in here["image_path"] if not (data_dir / path).is_file()]
        known = recorded & set(here["image_id"])
        if missing:
            yield f"{data_dir} lacks {len(missing)} photographs of {TRAIN_FILE}, such as {missing[0]}; get them back"
        elif known and known != recorded:
            yield (
                f"{data_dir} lacks {len(recorded - known)} of the study's {len(recorded)} images, such as "
                f"{min(recorded - known)}; give the --data of the search"
            )
        elif known and (change := _changed(ledger, data_dir, here)):
            yield f"{data_dir} is not as it was searched: {change}; give the --data of the search"
    if study.photograph_size is not None and (data_dir / TEST_FILE).exists():
        paths = [data_dir / str(path) for path in read_test(data_dir)["image_path"]]
        if odd := stretched(paths, study.photograph_size):
            yield odd


def _changed(ledger: Ledger, data_dir: Path, here: pd.DataFrame) -> str | None:
    """What changed in a table that holds the study's images, or in their photographs; None where nothing did."""
    recorded = ledger.quadrats()
    joined = here.merge(recorded[["image_id", "fold", "group"]], on="image_id", how="left")
    digests = [file_digest(data_dir / str(path)) for path in here["image_path"]]
    if data_fingerprint(joined, digest_of(digests)) == ledger.study().data_fingerprint:
        return None
    labels = here.set_index("image_id").loc[recorded["image_id"], list(TARGETS)].to_numpy()
    if changed := int((labels != recorded[list(TARGETS)].to_numpy()).any(axis=1).sum()):
        return f"{changed} images have other labels"
    return "photographs, metadata or their order changed"
