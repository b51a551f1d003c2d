"""Records of what predictions cost on a kind of machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestration.study.record import Part, Record


@dataclass(frozen=True, kw_only=True)
class UnitCost(Part):
    """Work that members share: a bank of frozen features, or decoded photographs."""

    seconds: float  # a photograph
    label: str


@dataclass(frozen=True, kw_only=True)
class MemberCost(Part):
    """What a member's prediction takes beside what it shares."""

    seconds: float  # a photograph, all its fold models
    units: tuple[str, ...] = ()  # that it needs


@dataclass(frozen=True, kw_only=True)
class ProfileRecord(Record):
    """profiles/<device>.json: what predictions cost on a kind of machine (blending/profile.py)."""

    device: str
    measured_at: float
    images: int  # photographs that were predicted
    units: Mapping[str, UnitCost]
    members: Mapping[str, MemberCost]  # by trial id
