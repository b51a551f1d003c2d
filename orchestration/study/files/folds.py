"""Folds of trials: when they were begun, their rows, models and metrics."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pandas as pd

from orchestration.study import layout
from orchestration.study.files.base import LedgerError, digest, parquet
from orchestration.study.files.trials import TrialFiles
from orchestration.study.records import DroppedModel, FileMark, FoldMetrics, FoldStart, RestoredModel


class FoldFiles(TrialFiles):
    """Every file in a trial's fold folders."""

    def note_fold_start(self, trial_id: str, fold: int) -> None:
        """One small file each time that a fold begins, so that repeats can be counted afterwards."""
        now, pid = time.time(), os.getpid()
        start = FoldStart(started_at=now, host=socket.gethostname(), pid=pid)
        self._write(layout.fold_start(trial_id, fold, int(now * 1000), pid), start)

    def fold_starts(self, trial_id: str, fold: int) -> list[FoldStart]:
        folder = layout.fold(trial_id, fold)
        names = [name for name in self.storage.children(folder) if name.startswith(layout.START)]
        return [start for name in names if (start := self._read(f"{folder}/{name}", FoldStart))]

    def write_fold(
        self,
        trial_id: str,
        *,
        oof: pd.DataFrame,
        model: bytes,
        metrics: FoldMetrics,
        maps: pd.DataFrame | None = None,
    ) -> None:
        """Commit one finished fold: its OOF rows, its trained tensors (safetensors bytes), its metrics.

        maps: where the model looked in the held-out images (training.maps), if it can say.
        """
        payload = {layout.OOF: parquet(oof, self._oof_metadata(trial_id)), layout.MODEL: model}
        if maps is not None:
            payload[layout.MAPS] = parquet(maps)
        self.storage.remove(layout.dropped_model(trial_id, metrics.fold))
        self._commit(layout.fold(trial_id, metrics.fold), payload, layout.METRICS, metrics)

    def fold_metrics(self, trial_id: str, fold: int) -> FoldMetrics | None:
        """Metrics of a finished fold, or None when the fold is not there whole."""
        marker = self._read(layout.metrics(trial_id, fold), FoldMetrics)
        if marker is None:
            return None
        whole = all(self._is_whole(trial_id, fold, name, file.bytes) for name, file in marker.files.items())
        return marker if whole else None

    def lost_fold_files(self, trial_id: str, fold: int) -> list[str]:
        """Files that a finished fold has and this one lacks, by their names alone."""
        names = {name: name for name in self.storage.children(layout.fold(trial_id, fold))}
        if layout.DROPPED in names:
            names[layout.MODEL] = layout.DROPPED
        return [name for name in (layout.METRICS, layout.OOF, layout.MODEL) if name not in names]

    def fold_problem(self, trial_id: str, fold: int) -> str | None:
        """What is wrong with the files of a fold that was finished; None when they are whole, or it never was."""
        folder = layout.fold(trial_id, fold)
        marker = self._read(layout.metrics(trial_id, fold), FoldMetrics)
        if marker is None:
            there = self.storage.size(layout.metrics(trial_id, fold)) is not None
            return f"{self.storage.uri}/{folder}/{layout.METRICS} cannot be read" if there else None
        try:
            for name in marker.files:
                if name == layout.MODEL and self.dropped_model(trial_id, fold) is not None:
                    continue
                if name.endswith(".parquet"):
                    self._payload_frame(folder, layout.METRICS, FoldMetrics, name)
                else:
                    self._payload(folder, layout.METRICS, FoldMetrics, name)
        except LedgerError as error:
            return str(error).rpartition(";")[0]
        return None

    def set_fold_aside(self, trial_id: str, fold: int) -> None:
        """Take a fold's marker away, so that the fold is computed again."""
        self._set_aside(layout.fold(trial_id, fold), layout.METRICS)
        self.storage.remove(layout.dropped_model(trial_id, fold))

    def fold_oof(self, trial_id: str, fold: int) -> pd.DataFrame:
        return self._payload_frame(layout.fold(trial_id, fold), layout.METRICS, FoldMetrics, layout.OOF)

    def fold_maps(self, trial_id: str, fold: int) -> pd.DataFrame | None:
        """Where the model looked in the fold's held-out images, or None for a family without maps."""
        metrics = self.fold_metrics(trial_id, fold)
        if metrics is None or layout.MAPS not in metrics.files:
            return None
        return self._payload_frame(layout.fold(trial_id, fold), layout.METRICS, FoldMetrics, layout.MAPS)

    def fold_model(self, trial_id: str, fold: int) -> bytes:
        """safetensors bytes of a fold's trained tensors, verified against the fold's marker."""
        return self._payload(layout.fold(trial_id, fold), layout.METRICS, FoldMetrics, layout.MODEL)

    def drop_model(self, trial_id: str, fold: int, why: str) -> None:
        """Delete a fold's model, on record; the fold stays finished."""
        self._write(layout.dropped_model(trial_id, fold), DroppedModel(dropped_at=time.time(), why=why))
        self.storage.remove(f"{layout.fold(trial_id, fold)}/{layout.MODEL}")

    def model_sizes(self, trial_ids: Iterable[str] | None = None) -> dict[str, dict[int, int]]:
        """Bytes of the models that are there and were not dropped, by trial and fold; of all trials without names.

        One listing for a trial, many at a time, and for all trials one.
        """
        if trial_ids is None:
            below = self.storage.sizes(layout.TRIALS)
            found: dict[str, dict[str, int]] = {name.partition("/")[0]: {} for name in below}
            for name, size in below.items():
                trial_id, _, inside = name.partition("/")
                found[trial_id][inside] = size
        else:
            names = list(trial_ids)
            found = dict(zip(names, self.storage.each(self.storage.sizes, map(layout.trial, names)), strict=True))
        return {trial_id: _models_in(sizes) for trial_id, sizes in found.items()}

    def dropped_model(self, trial_id: str, fold: int) -> DroppedModel | None:
        return self._read(layout.dropped_model(trial_id, fold), DroppedModel)

    def restore_model(self, trial_id: str, fold: int, model: bytes, restored: RestoredModel) -> None:
        """Put back a model that was dropped, or another one of the same fold that predicts other rows."""
        folder, marker = layout.fold(trial_id, fold), self.fold_metrics(trial_id, fold)
        if marker is None:
            raise LedgerError(f"{self.storage.uri}/{folder} is not finished; {self._remedy(folder)}")
        self.storage.write(f"{folder}/{layout.MODEL}", model)
        mark = FileMark(bytes=len(model), sha256=digest(model))
        if mark != marker.files[layout.MODEL]:
            files = {**marker.files, layout.MODEL: mark}
            self._write(layout.metrics(trial_id, fold), replace(marker, files=files, restored=restored))
        self.storage.remove(layout.dropped_model(trial_id, fold))

    def _is_whole(self, trial_id: str, fold: int, name: str, size: int) -> bool:
        """Whether a file of a fold has its size, or is a model that was dropped on record."""
        if self.storage.size(f"{layout.fold(trial_id, fold)}/{name}") == size:
            return True
        return name == layout.MODEL and self.dropped_model(trial_id, fold) is not None


def _models_in(sizes: Mapping[str, int]) -> dict[int, int]:
    """Bytes by fold, among the sizes of a trial's files."""
    there = {folder: sizes[name] for name in sizes if (folder := name.removesuffix(f"/{layout.MODEL}")) != name}
    return {
        int(folder.removeprefix("fold-")): size
        for folder, size in there.items()
        if folder.startswith("fold-") and f"{folder}/{layout.DROPPED}" not in sizes
    }
