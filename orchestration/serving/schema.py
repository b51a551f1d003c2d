"""What `POST /predict` answers, as JSON Schema (draft 2020-12); served at /schema.json."""

from __future__ import annotations

from typing import Any

from biomass_models.data.dataset import UNITS
from biomass_models.targets import TARGETS


def _object(description: str, properties: dict[str, Any], *, all_there: bool = True) -> dict[str, Any]:
    required = {"required": list(properties)} if all_there else {}
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "additionalProperties": False,
        **required,
    }


def _maybe(kind: str, description: str) -> dict[str, Any]:
    return {"type": [kind, "null"], "description": description}


_INTERVAL = _object(
    "holds the mass of a photograph of a new date in `level` of all cases, on average over dates",
    {
        "level": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "low": _maybe("number", "null: there are not enough dates for this level"),
        "high": _maybe("number", "null: there are not enough dates for this level"),
    },
)
_MASS = _object(
    "of one component",
    {
        "mass": {"type": "number", "description": "in `unit`"},
        "intervals": {"type": "array", "items": _INTERVAL, "description": "by level; none: the blend has none"},
    },
)
_PHOTOGRAPH = _object(
    "in the order in which they were sent",
    {
        "name": {"type": "string", "description": "the last part of the name that was sent"},
        "unreadable": _maybe("string", "why it has no masses; null: it has"),
        "masses": {
            "description": "by component, of those that the study measures; null: it cannot be read",
            "oneOf": [
                {"type": "null"},
                _object("by component", {name.removesuffix("_g"): _MASS for name in TARGETS}, all_there=False),
            ],
        },
        "unlike_percentile": _maybe("number", "of its distance from the training photographs, among theirs; 0 to 100"),
        "unlike": _maybe("boolean", "above 99: trust its masses less; null: not known"),
        "nearest": _maybe("string", "id of the nearest training photograph"),
        "odd_shape": {"type": "boolean", "description": "another shape than the photographs that were trained on"},
    },
)
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Masses of photographs",
    **_object(
        "answer of POST /predict",
        {
            "ensemble": {"type": "string"},
            "card": {"type": "string", "description": "content of the ensemble's card: another one, other numbers"},
            "unit": {"enum": list(UNITS), "description": "g in a quadrat, g/m2 or kg/ha of dry matter"},
            "levels": {"type": "array", "items": {"type": "number"}},
            "joint": {"type": "boolean", "description": "intervals hold for all masses of a photograph at once"},
            "photographs": {"type": "array", "items": _PHOTOGRAPH, "minItems": 1},
            "notes": {"type": "array", "items": {"type": "string"}},
        },
    ),
}
