"""Models within --weights-gb: the worst go, on record; what lost its model is whole to every reader and can have it
back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestration.model_room import COMPLETE, FAILED, PRUNED, Held, trials_to_drop

TRIALS = [
    Held("best", 10, (COMPLETE, 0.9)),
    Held("good", 10, (COMPLETE, 0.8)),
    Held("poor", 10, (COMPLETE, 0.1)),
    Held("hopeful", 3, (PRUNED, 0.5)),
    Held("hopeless", 3, (PRUNED, -2.0)),
    Held("broken", 2, (FAILED, 0.0)),
]


def test_the_worst_go_first_members_last_and_the_best_never() -> None:
    def dropped(limit: int, *members: str, running: int = 0) -> list[str]:
        return trials_to_drop(TRIALS, running, limit, members)

    assert dropped(38) == []
    assert dropped(37) == ["broken"]
    assert dropped(35) == ["broken", "hopeless"]
    assert dropped(37, running=2) == ["broken", "hopeless"]
    assert dropped(20) == ["broken", "hopeless", "hopeful", "poor"]
    assert dropped(20, "poor", "hopeless") == ["broken", "hopeful", "good", "hopeless"]
    assert dropped(0, "good") == ["broken", "hopeless", "hopeful", "poor", "good"]
    assert trials_to_drop([], 100, 0, ()) == []
    assert trials_to_drop([TRIALS[-1]], 0, 0, ()) == ["broken"]


RANKS = st.tuples(st.sampled_from([FAILED, PRUNED, COMPLETE]), st.floats(-1, 1))


@given(st.lists(st.tuples(st.integers(0, 9), RANKS), max_size=12), st.integers(0, 20), st.integers(0, 80), st.data())
def test_the_limit_holds_where_it_can_and_no_trial_goes_in_vain(
    sizes: list[tuple[int, tuple[int, float]]], running: int, limit: int, data: st.DataObject
) -> None:
    held = [Held(f"{number:02d}", *one) for number, one in enumerate(sizes)]
    members = data.draw(st.sets(st.sampled_from([one.trial_id for one in held]))) if held else set[str]()
    gone = trials_to_drop(held, running, limit, members)
    size = {one.trial_id: one.size for one in held}
    left = running + sum(size.values()) - sum(size[name] for name in gone)
    complete = [one for one in held if one.rank[0] == COMPLETE]
    best = max(complete, key=lambda one: (*one.rank, one.trial_id)).trial_id if complete else None
    kept = {name for name in size if name not in gone and size[name]}
    assert left <= limit or kept <= {best}
    assert best not in gone and len(set(gone)) == len(gone)
    if gone:  # one fewer would not have been enough
        assert left + size[gone[-1]] > limit
    if set(gone) & members:
        assert all(name in gone or name == best for name in kept | set(gone) if name not in members)
