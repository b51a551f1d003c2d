"""Work of the driver for which no fold waits: done beside the folds, once the first of them is at work."""

from __future__ import annotations

import threading
from collections.abc import Callable

from biomass_models.interrupt import OnProgress
from orchestration.progress import progress_bar

LOOK_SECONDS = 0.1  # between two looks at what is not done at the end


class Beside:
    """One piece of work in a thread of its own, which goes down with the process if that ends before it is done."""

    def __init__(self, label: str, work: Callable[[OnProgress], None]) -> None:
        """work: is given a function to call with (done, all)."""
        self._label, self._work = label, work
        self._begun, self._ended = threading.Event(), threading.Event()
        self._progress: tuple[int, int] = (0, 0)
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Start it; a second call changes nothing."""
        if not self._begun.is_set():
            self._begun.set()
            threading.Thread(target=self._run, name="beside", daemon=True).start()

    def finish(self) -> None:
        """Wait for its end, and show how far it is; raises what it raised."""
        self.begin()
        if not self._ended.wait(LOOK_SECONDS):
            with progress_bar(self._label) as update:
                while not self._ended.wait(LOOK_SECONDS):
                    update(*self._progress)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._work(self._note)
        except BaseException as error:  # raised again where somebody waits for the end
            self._error = error
        self._ended.set()

    def _note(self, done: int, total: int) -> None:
        self._progress = (done, total)
