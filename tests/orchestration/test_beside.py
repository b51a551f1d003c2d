"""What no fold waits for begins once a fold is at work, and is there when the search has ended."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from biomass_models.errors import UserError
from biomass_models.interrupt import OnProgress
from orchestration.search.on_ray import watch
from orchestration.search.on_ray.beside import Beside
from orchestration.search.on_ray.watch import Watch
from orchestration.study.records import SearchFacts


def test_work_is_done_once_and_waited_for() -> None:
    may_end, times = threading.Event(), list[int]()

    def work(on_progress: OnProgress) -> None:
        times.append(1)
        on_progress(1, 2)
        may_end.wait()
        times.append(2)

    beside = Beside("Work", work)
    assert times == []
    beside.begin()
    beside.begin()
    may_end.set()
    beside.finish()
    assert times == [1, 2]
    beside.finish()
    assert times == [1, 2]


def test_what_it_raises_is_raised_at_the_end_alone() -> None:
    def work(on_progress: OnProgress) -> None:
        raise UserError("the photograph is gone")

    beside = Beside("Work", work)
    beside.begin()
    with pytest.raises(UserError, match="the photograph is gone"):
        beside.finish()


@pytest.mark.parametrize(
    ("trials", "running", "begins"),
    [(0, 0, False), (0, 1, False), (3, 0, False), (3, 1, True)],
    ids=["nothing yet", "a slot is measured", "workers come up", "a fold is at work"],
)
def test_it_begins_with_the_first_fold(
    trials: int, running: int, begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.001)
    looks, begun = threading.Semaphore(0), threading.Event()
    searcher: Any = SimpleNamespace(
        running=trials,
        follow=lambda slots: None,
        stop_reason=None,
        proposer=SimpleNamespace(trials=SimpleNamespace(ended=0), planned=None),
    )
    view: Any = SimpleNamespace(refresh=looks.release, notes=lambda shown, running: ())
    heartbeat: Any = SimpleNamespace(publish=lambda facts: None, lost_to=None)
    beside: Any = SimpleNamespace(begin=begun.set)
    own = Watch(None, searcher, view, heartbeat, lambda text: None, beside)
    monkeypatch.setattr(own, "_facts", lambda: SearchFacts(slots=2, running=running))
    with own.watching():
        for _ in range(3):  # the third look begins when two have been gone through
            looks.acquire()
    assert begun.is_set() == begins
