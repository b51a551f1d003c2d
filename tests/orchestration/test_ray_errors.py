"""What Ray says when a process or its node is gone, as one line."""

from __future__ import annotations

from ray.core.generated.common_pb2 import ActorDiedErrorContext  # type: ignore[attr-defined]
from ray.exceptions import ActorDiedError

from orchestration.workers.ray_errors import LONGEST, innermost_cause, where

NODE = (
    "The actor died because its node has died. Node Id: bf0609319c5b8930d9414a35ae29ce192e6f86b65139db4f5bdc9002\n"
    "\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats"
)
PROCESS = "The actor is dead. Worker exit detail: Worker unexpectedly exits. Some common causes include: (1) memory"


def died(message: str) -> ActorDiedError:
    context = ActorDiedErrorContext(
        error_message=message,
        class_name="SlotWorker",
        actor_id=bytes(16),
        ray_namespace="n",
        node_ip_address="10.0.0.2",
    )
    return ActorDiedError(context)


def test_the_death_of_a_node_is_one_short_reason() -> None:
    assert innermost_cause(died(NODE)) == "its node has died" and where(died(NODE)) == "10.0.0.2"


def test_other_errors_keep_their_words() -> None:
    assert innermost_cause(ValueError("because its node has died")) == "ValueError: because its node has died"
    assert innermost_cause(died(PROCESS)) == "its process died: Worker unexpectedly exits"
    assert "x" * 50 in innermost_cause(died("x" * 1000)) and len(innermost_cause(died("x" * 1000))) <= LONGEST + 4
