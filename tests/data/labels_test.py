import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data.labels import map_labels, sort_names


def numbers(labels, **options):
    (mapped,), names, info = map_labels([labels], **options)
    assert mapped.dtype == np.int32
    return mapped.tolist(), names, info


def test_integers_are_kept():
    assert numbers([2, 0, 1, 1]) == ([2, 0, 1, 1], ("0", "1", "2"), {})
    assert numbers(np.uint8([1, 0]), class_names=["cat", "dog"]) == ([1, 0], ("cat", "dog"), {})


@pytest.mark.parametrize(
    ("labels", "expected", "names", "table"),
    [
        (["b", "a", "b"], [1, 0, 1], ("a", "b"), {"a": 0, "b": 1}),
        (["10", "9", "10"], [1, 0, 1], ("9", "10"), {"9": 0, "10": 1}),
        (np.array(["x", "w"], object), [1, 0], ("w", "x"), {"w": 0, "x": 1}),
        ([b"x", b"w"], [1, 0], ("w", "x"), {"w": 0, "x": 1}),
        ([1.0, 0.0], [1, 0], ("0", "1"), {"0.0": 0, "1.0": 1}),
        ([True, False], [1, 0], ("False", "True"), {"False": 0, "True": 1}),
        (np.eye(3)[[2, 0, 1]], [2, 0, 1], ("0", "1", "2"), {f"column {k}": k for k in range(3)}),
    ],
)
def test_unambiguous_forms_are_mapped_and_recorded(labels, expected, names, table):
    assert numbers(labels) == (expected, names, {"label_mapping": table})


def test_strings_follow_the_given_names():
    assert numbers(["a", "b"], class_names=["b", "a"])[:2] == ([1, 0], ("b", "a"))


def test_gaps_are_renumbered_only_on_request():
    with pytest.raises(errors.DataError, match=r"gaps: 3 of 10 classes occur, 0 does not"):
        map_labels([[9, 2, 4]])
    mapped, names, info = numbers([9, 2, 4, 2], remap=True)
    assert mapped == [2, 0, 1, 0]
    assert names == ("2", "4", "9")
    assert info == {"label_mapping": {"2": 0, "4": 1, "9": 2}}
    assert numbers([-1, 1], remap=True)[0] == [0, 1]
    mapped, names, _ = numbers([2, 0], class_names=["a", "b", "c"], remap=True)
    assert (mapped, names) == ([1, 0], ("a", "c"))


def test_remap_changes_nothing_without_gaps():
    assert numbers([1, 0], remap=True) == numbers([1, 0])


def test_one_table_for_all_parts():
    (train, validation), names, info = map_labels([["c", "a", "b"], ["c", "a"]])
    assert (train.tolist(), validation.tolist()) == ([2, 0, 1], [2, 0])
    assert names == ("a", "b", "c")
    assert info["classes_without_validation"] == ["b"]


@pytest.mark.parametrize(
    ("labels", "names", "match"),
    [
        ([0, 2], None, "gaps"),
        ([1, 2], None, "0 does not"),
        ([0, 1], ["a", "b", "c"], r"2 \('c'\) does not"),
        ([0, 3], ["a", "b"], "3 has no name"),
        ([-1, 0, 1], None, "-1"),
        ([0, 0], None, "all labels are '0'"),
        ([1, 1], ["a", "b"], "all labels are 'b'"),
        (["a", "a"], None, "all labels are 'a'"),
        ([True, True], None, "all labels are 'True'"),
        ([], None, "no labels"),
        ([[0], [1]], None, r"shape \(2, 1\)"),
        (np.zeros((2, 2, 2)), None, "shape"),
        ([[0.5, 0.5], [1, 0]], None, "not one-hot"),
        ([[1, 1], [1, 0]], None, "not one-hot"),
        ([[0, 1], [1]], None, "not one array"),
        ([0.5, 1.0], None, "0.5"),
        ([np.nan, 1.0], None, "nan"),
        ([None, "a"], None, "type object"),
        ([1j, 0], None, "complex"),
        (3, None, r"shape \(\)"),
        (["a", "bat"], ["a", "cat"], "unknown class 'bat'. Did you mean cat"),
        ([0, 1], ["a", "a"], "'a' occurs twice"),
    ],
)
def test_all_else_is_a_clear_error(labels, names, match):
    with pytest.raises(errors.DataError, match=match) as caught:
        map_labels([labels], names)
    assert caught.value.remedy


def test_parts_must_agree():
    with pytest.raises(errors.DataError, match="integer, string"):
        map_labels([[0, 1], ["a", "b"]])
    with pytest.raises(errors.DataError, match="class '2' has no training samples"):
        map_labels([[0, 1], [2, 0]])


def test_names_sort_as_numbers_only_if_all_are():
    assert sort_names({"10", "9", "1"}) == ("1", "9", "10")
    assert sort_names({"10", "9", "b"}) == ("10", "9", "b")
    assert sort_names({"1", "01"}) == ("01", "1")
