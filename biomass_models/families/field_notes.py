"""What the source notes of each field of a configuration: the comment behind it.

The fields are documented where they are declared, one by one; pages and commands show the same words.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Mapping


def field_notes(config_class: type) -> Mapping[str, str]:
    """Comment behind each field, by field; a class of the base documents what a later one only gives a default.

    Empty for fields without a comment, and for a class whose source is not here.
    """
    notes: dict[str, str] = {}
    for one in reversed(config_class.__mro__):
        notes |= {name: text for name, text in _notes_of(one).items() if text or name not in notes}
    return notes


def _notes_of(one: type) -> dict[str, str]:
    try:
        source = inspect.cleandoc("\n" + inspect.getsource(one))
        (body,) = ast.parse(source).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    if not isinstance(body, ast.ClassDef):
        return {}
    return {
        line.target.id: comments.get(line.end_lineno or line.lineno, "")
        for line in body.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
