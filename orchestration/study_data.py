"""Whether a data directory is the one that a study learned from, for whoever shows or predicts photographs.

Needs no torch: reports are read on laptops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from biomass_models.images import digest_of, file_digest
from biomass_models.photographs import stretched
from biomass_models.table import TEST_FILE, TRAIN_FILE, read_test, read_train
from orchestration.data_changes import data_changes
from orchestration.ledger import Ledger


@dataclass(frozen=True)
class Photographs:
    """Image ids of a table and the hashes of their files' contents, rows alike."""

    image_ids: tuple[str, ...]
    digests: tuple[str, ...]

    @property
    def digest(self) -> str:
        return digest_of(self.digests)


def unlike_the_search(ledger: Ledger, data_dir: Path) -> Iterator[str]:
    """Sentences on what is not as it was when the study was searched.

    A directory without train.csv, or with none of the study's images, is another test set and is left alone.
    """
    study = ledger.study()
    if (data_dir / TRAIN_FILE).exists():
        here = read_train(data_dir)
        missing = [path for path in here["image_path"] if not (data_dir / path).is_file()]
        if missing:
            yield f"{data_dir} lacks {len(missing)} photographs of {TRAIN_FILE}, such as {missing[0]}; get them back"
        elif set(here["image_id"]) & set(ledger.quadrats()["image_id"]):
            digests = tuple(file_digest(data_dir / str(path)) for path in here["image_path"])
            if changes := data_changes(ledger, here, Photographs(tuple(map(str, here["image_id"])), digests)):
                yield f"{data_dir} is not as it was searched: {', '.join(changes)}; give the --data of the search"
    if study.photograph_size is not None and (data_dir / TEST_FILE).exists():
        paths = [data_dir / str(path) for path in read_test(data_dir)["image_path"]]
        if odd := stretched(paths, study.photograph_size):
            yield odd
