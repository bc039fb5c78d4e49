"""The three-way merge of a deploy: rules that hold for all values."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deployments.merge import flat, merge, nested

values = st.dictionaries(st.sampled_from(["store", "seeds", "gate.min", "gate.max"]), st.none() | st.integers(0, 3))


def set_ones(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@given(values, values)
def test_a_server_as_it_was_deployed_becomes_what_the_settings_say(
    deployed: dict[str, Any], desired: dict[str, Any]
) -> None:
    merged = merge(deployed, deployed, desired)
    assert set_ones(merged.values) == set_ones(merged.deployed) == set_ones(desired)
    assert not merged.kept


@given(values, values, values)
def test_what_a_person_has_changed_stays(
    deployed: dict[str, Any], current: dict[str, Any], desired: dict[str, Any]
) -> None:
    merged = merge(deployed, current, desired)
    for name, value in merged.values.items():
        by_hand = current.get(name) != deployed.get(name)
        assert value == (current.get(name) if by_hand else desired.get(name))
    assert {each.name for each in merged.kept} == {
        name for name, value in merged.values.items() if value != desired.get(name)
    }
    assert {each.name for each in merged.changed} == {
        name for name, value in merged.values.items() if value != current.get(name)
    }


@given(values, values, values)
def test_deploying_again_changes_nothing_more(
    deployed: dict[str, Any], current: dict[str, Any], desired: dict[str, Any]
) -> None:
    once = merge(deployed, current, desired)
    again = merge(once.deployed, once.values, desired)
    assert not again.changed
    assert again.kept == once.kept
    assert again.values == once.values


@given(values, values, values)
def test_overwriting_leaves_only_what_the_settings_say(
    deployed: dict[str, Any], current: dict[str, Any], desired: dict[str, Any]
) -> None:
    merged = merge(deployed, current, desired, overwrite=True)
    assert set_ones(merged.values) == set_ones(desired)
    assert not merged.kept


@given(values, values, values, st.booleans())
def test_what_the_settings_do_not_name_is_left_and_stays_somebody_elses(
    deployed: dict[str, Any], current: dict[str, Any], desired: dict[str, Any], overwrite: bool
) -> None:
    merged = merge(deployed, current, desired, overwrite, unset={"store"})
    assert merged.values.get("store") == current.get("store")
    assert merged.deployed.get("store") == deployed.get("store")
    assert "store" not in {each.name for each in merged.changed + merged.kept}


@given(values)
def test_parameters_become_flat_and_nested_again(flat_values: dict[str, Any]) -> None:
    assert flat(nested(flat_values)) == set_ones(flat_values)


def test_an_empty_form_card_is_nothing() -> None:
    assert flat({"gate": {}, "recipe": {"epochs": None}, "refresh": [], "store": ""}) == {"refresh": [], "store": ""}
