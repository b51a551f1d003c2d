"""What the user can mend, as opposed to a bug."""

from __future__ import annotations


class UserError(ValueError):
    """Base of every error that its reader can mend; the text has the rule, what was got and what to do.

    A command ends on it with exit code 1. Any other exception, a plain ValueError included, is a bug of this project.
    """
