"""What the user can mend, as opposed to a bug."""

from __future__ import annotations

import os
import traceback


class UserError(ValueError):
    """Base of every error that its reader can mend; the text has the rule, what was got and what to do.

    A command ends on it with exit code 1. Any other exception, a plain ValueError included, is a bug of this project.
    """

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the text, as the command line does; with BIOMASS_DEBUG=1 the traceback."""
        if os.environ.get("BIOMASS_DEBUG", "") not in ("", "0"):
            return traceback.format_exception(self)
        return [f"{type(self).__name__}: {self}"]


class StoreError(OSError):
    """A study's object store that does not answer, or refuses; the text has the rule, what was got and what to do."""

    @classmethod
    def of(cls, error: BaseException) -> StoreError:
        """The error for what pyarrow raises, which has a text alone."""
        said = " ".join(str(error).split())[:500]
        remedy = "check bucket, region, credentials and network"
        return cls(f"a study on an object store must be reachable, got: {said}; {remedy}")
