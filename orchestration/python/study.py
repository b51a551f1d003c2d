"""A study as Python holds it. Every method reads the files of now and calls what the command of its name calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomass_models.fold_rows import NONE
from orchestration.python.blend import Blend
from orchestration.python.shown import address_of, as_html, say
from orchestration.search.ending import Ending
from orchestration.study.data import StudyData
from orchestration.study.files.trials import incomplete
from orchestration.study.ledger import Ledger, open_ledger
from orchestration.study.records import COMPLETE
from orchestration.workers.resources import Resources

if TYPE_CHECKING:
    import pandas as pd

    from ensembles.card import Card
    from orchestration.blending.predict import Predictor
    from orchestration.inspect.status import Status
    from orchestration.python.masses import Photographs
    from orchestration.python.trial import TrialPage


class Study:
    """One study, open to be read and blended."""

    def __init__(self, ledger: Ledger, ending: Ending | None = None) -> None:
        self.ledger = ledger
        self.ending = ending  # of the search that has just come to its end here

    @property
    def uri(self) -> str:
        """Where it lies."""
        return self.ledger.storage.uri

    def status(self) -> Status:
        """How its search stands: counts, best trial, blend, notices (`biomass status`)."""
        from orchestration.inspect.status import status_of

        return status_of(self.ledger)

    def leaderboard(self, top: int | None = None) -> pd.DataFrame:
        """References and trials, best first, by name (`biomass leaderboard`); top: only so many trials."""
        from orchestration.inspect.leaderboard import best_rows, leaderboard
        from orchestration.python.tables import leaderboard_table

        return leaderboard_table(best_rows(leaderboard(self._data()), top))

    def families(self) -> pd.DataFrame:
        """What each family's trials found and cost together."""
        from orchestration.inspect.leaderboard import family_rows, leaderboard
        from orchestration.python.tables import families_table

        return families_table(family_rows(leaderboard(self._data())))

    def trials(self, family: str | None = None) -> pd.DataFrame:
        """Every trial in the order of proposal, by id: status, scores, cost.

        family: its trials only, with a column for each field of their configurations. UserError for one without trials.
        """
        from biomass_models.config_rules import known_name
        from orchestration.python.tables import trials_table

        data = self._data()
        if family is not None:
            known_name("a family of this study", family, data.families)
        chosen = [trial for trial in data.trials if family in (None, trial.family)]
        return trials_table(chosen, data.folds, settings=family is not None)

    def oof(self, trial: str) -> pd.DataFrame:
        """Measured and out-of-fold predicted masses in grams of each scored photograph, beside its metadata, fold and
        unit, by image id.

        trial: an id, how no other id begins, or the name of a reference. Raises LedgerError for one that is not there
        or not complete.
        """
        from orchestration.python.tables import oof_table

        data = self._data()
        if trial not in data.references:
            trial = self.ledger.trial_id(trial)
            if (status := data.by_id[trial].status) != COMPLETE:
                raise incomplete(trial, status)
        return oof_table(data, trial)

    def show(self, trial: str) -> TrialPage:
        """One trial, whole: settings, folds, cost, worth in the blend (`biomass show`); an id, or how it begins."""
        from orchestration.inspect.show import show_trial
        from orchestration.python.trial import TrialPage

        return TrialPage(show_trial(self._data(), self.ledger.trial_id(trial)))

    def report(
        self,
        out: str | PathLike[str] | None = None,
        data: str | PathLike[str] | None = None,
        *,
        compare: Sequence[str | PathLike[str]] = (),
        ensemble: str | None = None,
    ) -> Path:
        """Write the study as one page (`biomass report`); returns the file. Options are those of the command."""
        from orchestration.report.make import write_report
        from orchestration.search.presets.asked import require_data

        path, _ = write_report(
            self.ledger,
            None if out is None else Path(out).expanduser(),
            None if data is None else require_data(Path(data).expanduser()),
            [open_ledger(address_of(other)) for other in compare],
            say,
            ensemble=ensemble,
        )
        return path

    def ensembles(self) -> pd.DataFrame:
        """Stored ensembles, the newest first, by name. current: made of exactly the trials that are complete now."""
        from orchestration.blending.shown import stored_ensembles
        from orchestration.python.tables import ensembles_table

        return ensembles_table(stored_ensembles(self._data()))

    def blend(self, name: str | None = None) -> Blend:
        """A stored ensemble; without a name the blend that every page shows, which is made here if none is stored.

        Raises LedgerError where there is none.
        """
        from ensembles.card import Card
        from orchestration.blending.members import member_label
        from orchestration.blending.shown import MOST_MEMBERS, beside_score, shown_blend

        data = self._data()
        if name is None:
            shown = shown_blend(data, most=MOST_MEMBERS)
            name, card = shown.name, shown.card
        else:
            card = Card.from_json(self.ledger.ensemble(name).card)
        labels = {member: member_label(data, member) for member in card.members if member in data.by_id}
        return Blend(name=name, card=card, beside=tuple(beside_score(data, card)), labels=labels)

    def ensemble(
        self,
        data: str | PathLike[str] | None = None,
        *,
        out: str | PathLike[str] = "ensemble",
        rule: str = "default",
        post: Sequence[str] = (),
        flips: int = 1,
        all_rows: str = NONE,
        budget_minutes: float | None = None,
        images: int | None = None,
        device: str | None = None,
        weights: str | None = None,
        cache: str | PathLike[str] | None = None,
        address: str | None = None,
        inline: bool = False,
    ) -> Blend:
        """Blend the complete trials, and keep the blend in the study (`biomass ensemble`).

        data: a data directory, whose test photographs are then predicted; out: a submission (.csv) or a folder, whose
        name is that of the ensemble. The other options are those of the command. Raises UserError.
        """
        from orchestration.blending.blend import BlendOptions, run_ensemble
        from orchestration.blending.budget import asked_budget
        from orchestration.blending.members import FileMembers
        from orchestration.python.typed import typed_options
        from orchestration.python.work import at_work
        from orchestration.search.presets.asked import require_data, usable_resources, weights_source

        where = typed_options({"cache": cache, "address": address, "inline": inline})
        resources = Resources(**where, fold_timeout=None)  # its jobs are no folds
        directory = None if data is None else require_data(Path(data).expanduser())
        budget = asked_budget(budget_minutes, images, device, directory)
        options = BlendOptions(rule=rule, follow_ups=tuple(post), flips=flips, all_rows=all_rows, budget=budget)
        found: list[Blend] = []

        def show(card: Card, beside: Sequence[str], labels: Mapping[str, str]) -> None:
            found.append(Blend(name=None, card=card, beside=tuple(beside), labels=labels))

        def open_predictor(directory: Path) -> Predictor:
            from orchestration.blending.predict import Predictor

            source = None if weights is None else weights_source(weights)
            return Predictor(directory, resources=usable_resources(resources, say), weights=source)

        place = Path(out).expanduser()
        written = at_work(
            say,
            lambda: run_ensemble(
                [self.uri],
                FileMembers(),
                data_dir=directory,
                out=place,
                options=options,
                seed=0,  # of blends without a study; this one's is the study's
                open_predictor=open_predictor,
                say=say,
                show=show,
            ),
        )
        name = place.stem if place.suffix == ".csv" else place.name
        return replace(found[0], name=name, written=tuple(written))

    def predict(self, photographs: Photographs, **options: Any) -> pd.DataFrame:
        """Masses of any photographs by a stored ensemble, with intervals; arguments as orchestration.api.predict."""
        from orchestration.python.masses import predict

        return predict(self.uri, photographs, **options)

    def __repr__(self) -> str:
        return f"Study {self._data().name}"

    def _repr_html_(self) -> str:
        from orchestration.inspect.status import render_status

        return as_html(f"{self!r}\n{render_status(self.status())}")

    def _data(self) -> StudyData:
        return StudyData(self.ledger)


def open_study(study: str | PathLike[str]) -> Study:
    """An existing study, by folder or URI. Raises LedgerError where there is none."""
    return Study(open_ledger(address_of(study)))
