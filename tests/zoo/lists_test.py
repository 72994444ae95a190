"""Lists of timm's models under a name."""

from __future__ import annotations

import pytest

from ncap_jax import errors
from ncap_jax.zoo import MODELS, find_model, find_models, registry
from ncap_jax.zoo.lists import lists
from tests.support.torch_nets import needs_timm


def test_the_lists_hold_names_of_timm() -> None:
    assert list(lists()) == ["edge", "small", "base", "diverse12"]
    assert not lists().keys() & MODELS.keys()
    assert len(lists()["diverse12"]) == 12
    for names in lists().values():
        assert 8 <= len(set(names)) == len(names) <= 12
        assert all(name.startswith("timm:") and "." in name for name in names)


def test_a_list_is_not_one_model() -> None:
    with pytest.raises(errors.ModelError) as refusal:
        find_model("small")
    assert refusal.value.cause == f"'small' is a list of {len(lists()['small'])} models"
    assert lists()["small"][0] in refusal.value.remedy


def test_a_misspelt_list_is_recognised() -> None:
    with pytest.raises(errors.ModelError, match="Did you mean diverse12"):
        find_models("diverse2")


@needs_timm
@pytest.mark.parametrize("name", ["edge", "small", "base", "diverse12"])
def test_a_list_stands_for_its_models_where_several_may_stand(name: str) -> None:
    found = registry.search([name, "tiny_plain", lists()[name][0]])
    assert [f"timm:{spec.name}" for spec in found.specs[:-1]] == list(lists()[name])
    # As with a pattern, those whose weights are missing are left out; not those named as well.
    assert found.by_pattern == {spec.name for spec in found.specs[1:-1]}
