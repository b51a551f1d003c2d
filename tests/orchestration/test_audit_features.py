"""Features that are wrong, or not as they were written: what audit and refit make of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_study import make_study
from typer.testing import CliRunner

from biomass_models.features.chunks import SUFFIX, read_chunk, write_chunk
from orchestration.cli import app
from orchestration.search.trial import run_trial
from orchestration.workers.slots.inline_pool import InlinePool


def _swap_rows(store: Path) -> None:
    """Give each photograph of every chunk another one's features; the chunks are sound for all that can be read."""
    for path in store.rglob(f"*{SUFFIX}"):
        chunk = read_chunk(path)
        arrays = {name: np.array(array[::-1]) for name, array in chunk.open().items()}
        path.unlink()
        aside = path.with_name("aside")
        aside.rename(path.with_name(write_chunk(aside, chunk.digests, [arrays])))


def _biomass(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def misled(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> tuple[Path, str, list[str | Path]]:
    """A study whose only trial, a probe, learnt from features of other photographs; and options for its commands."""
    folder = tmp_path_factory.mktemp("misled")
    ledger, context, records = make_study(folder / "first", tiny_pasture, folder / "cache")
    (probe,) = (record for record in records if record.family == "probe")
    run_trial(ledger, InlinePool(context), probe.trial_id)
    _swap_rows(folder / "cache")
    ledger, context, records = make_study(folder / "study", tiny_pasture, folder / "cache")
    run_trial(ledger, InlinePool(context), probe.trial_id)
    for record in records:  # an audit passes when no trial is open
        if record.trial_id != probe.trial_id:
            shutil.rmtree(folder / "study" / "trials" / record.trial_id)
    options = ["--data", tiny_pasture, "--cache", folder / "cache"]
    return folder / "study", probe.trial_id, options


@pytest.mark.slow
def test_an_audit_with_refits_finds_a_study_that_learnt_from_wrong_features(misled: tuple) -> None:
    study, _, options = misled
    code, text = _biomass("audit", study, *options)
    assert code == 0 and "audit passed" in text  # every file is what it was written as
    code, text = _biomass("audit", study, *options, "--refit", "1")
    assert code == 1 and "fitted again has other out-of-fold rows" in text
    code, text = _biomass("audit", study, *options, "--refit", "1", "--cached-features")
    assert code == 0 and "audit passed" in text


@pytest.mark.slow
def test_a_refit_computes_features_afresh_unless_told_otherwise(misled: tuple) -> None:
    study, trial, options = misled
    assert "OTHER ROWS" in _biomass("refit", study, trial, *options)[1]
    assert "the same rows" in _biomass("refit", study, trial, *options, "--cached-features")[1]


@pytest.mark.slow
def test_an_audit_names_a_bank_whose_bytes_have_changed_and_its_remedy_works(misled: tuple) -> None:
    study, _, options = misled
    path = min(Path(options[-1]).rglob(f"*{SUFFIX}"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    code, text = _biomass("audit", study, *options)
    assert code == 1 and path.name in text.replace(" ", "") and "delete it" in text
    path.unlink()
    assert _biomass("audit", study, *options)[0] == 0
