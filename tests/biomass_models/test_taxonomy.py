"""Species strings to tags, against a table written by hand."""

from __future__ import annotations

import csv
from importlib import resources

import numpy as np
import pytest

from biomass_models.data.taxonomy import OTHER, TAG_COLUMNS, TAGS, species_tags, tag_matrix, unknown_names


def test_there_are_nineteen_tags_and_other() -> None:
    assert len(TAGS) == len(set(TAGS)) == 19
    assert (*TAGS, OTHER) == TAG_COLUMNS and OTHER not in TAGS


@pytest.mark.parametrize(
    ("species", "tags"),
    [
        ("BarleyGrass", "grass barley"),
        ("Barleygrass", "grass barley"),
        ("Bromegrass", "grass brome"),
        ("Fescue", "grass fescue"),
        ("Phalaris", "grass phalaris"),
        ("Ryegrass", "grass rye"),
        ("SilverGrass", "grass silver"),
        ("SpearGrass", "grass spear"),
        ("Clover", "clover"),
        ("WhiteClover", "clover white"),
        ("SubcloverDalkeith", "clover subclover dalkeith"),
        ("SubcloverLosa", "clover subclover losa"),
        ("Lucerne", "legume lucerne"),
        ("Capeweed", "broadleaf capeweed"),
        ("CrumbWeed", "broadleaf crumbweed"),
        ("Mixed", "mixed"),
        ("Phalaris_Ryegrass_Clover", "grass phalaris rye clover"),
        ("Fescue_CrumbWeed", "grass fescue broadleaf crumbweed"),
        ("Clover_Thistle", "clover other"),
        ("", "other"),
    ],
)
def test_tags(species: str, tags: str) -> None:
    assert species_tags(species) == set(tags.split())


@pytest.mark.parametrize("variant", ["barley grass", "BARLEYGRASS", "Barley-Grass", " BarleyGrass ", "barley"])
def test_spellings_of_one_name_are_one_name(variant: str) -> None:
    assert species_tags(variant) == species_tags("BarleyGrass")
    assert unknown_names(variant) == ()


def test_unknown_names_are_named_as_written() -> None:
    assert unknown_names("Ryegrass_Purple Weed") == ("Purple Weed",)
    assert unknown_names(["Thistle_Clover", "Clover", "Dock_Thistle"]) == ("Dock", "Thistle")


def test_matrix_rows_are_the_tags_of_each_string() -> None:
    species = ["Ryegrass_Clover", "Thistle", "Ryegrass_Clover", "Lucerne"]
    matrix = tag_matrix(species)
    assert matrix.shape == (4, 20) and matrix.dtype == np.float64
    for text, row in zip(species, matrix, strict=True):
        assert {tag for tag, on in zip(TAG_COLUMNS, row, strict=True) if on == 1} == species_tags(text)
    assert tag_matrix([]).shape == (0, 20)


def test_every_species_of_the_field_is_known() -> None:
    facts = resources.files("biomass_models") / "facts" / "by_state_species.csv"
    species = [row["Species"] for row in csv.DictReader(facts.read_text().splitlines())]
    assert len(set(species)) == 15 and unknown_names(species) == ()
    assert (tag_matrix(species).sum(0)[:19] > 0).all()  # and no tag is there for nothing
