"""What Tune runs for a trial. Light to import: there are more coordinators than slots, and none needs torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayError

from orchestration.search.incumbent import Incumbent
from orchestration.search.pruning import PruneRule
from orchestration.search.trial import NOT_THE_TRIAL, run_trial
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage
from orchestration.workers.ray_errors import innermost_cause, lost_broker
from orchestration.workers.slots.ray_pool import RayPool


def make_coordinator(
    study: str, broker: Any, rule: PruneRule | None, *, together: bool
) -> Callable[[dict[str, Any]], None]:
    """The function trainable of a study (folder or URI): it brings the trial of `config["trial_id"]` to its end.

    It is pickled with all that it names, and a process that unpickles it imports their modules: nothing of a module
    that loads torch may be among them.
    """
    incumbent = Incumbent(StudyData(Ledger(Storage(study))))  # pickled along: each coordinator process keeps its own

    def coordinate(config: dict[str, Any]) -> None:
        own, trial_id = Ledger(Storage(study)), config["trial_id"]
        try:
            result = run_trial(own, RayPool(broker), trial_id, rule=rule, incumbent=incumbent, together=together)
        except (*NOT_THE_TRIAL, RayError) as error:
            reason = lost_broker(innermost_cause(error)) if isinstance(error, RayError) else str(error)
            tune.report({"status": "stopped", "reason": reason})
            return
        except Exception as error:  # the boundary of a trial: whatever else goes wrong is its recorded reason
            result = own.write_failure(trial_id, f"coordinator: {type(error).__name__}: {error}")
        tune.report({"status": result.status if result else "stopped"})

    coordinate.__mixins__ = (_OnFirmGround,)  # type: ignore[attr-defined]  # Tune makes a class of them
    return coordinate


class _OnFirmGround:
    """A trainable whose process may have lost its working directory, as when a job's is cleaned away.

    Tune asks for it whenever a coordinator takes up a trial, and Python then raises FileNotFoundError.
    """

    def _setup_logdir(self) -> None:
        leave_vanished_folder()
        super()._setup_logdir()  # type: ignore[misc]


class FirmGround(tune.Callback):
    """The same for the driver, which asks for its working directory when Tune's loop has ended."""

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        leave_vanished_folder()


def leave_vanished_folder() -> None:
    """Go to the root where this process's working directory is not there any more; all stored paths are absolute."""
    with suppress(FileNotFoundError):
        Path.cwd()
        return
    os.chdir(os.sep)
