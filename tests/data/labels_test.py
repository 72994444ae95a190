import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data.labels import REMAP, check_text, is_text, map_labels, sort_names


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


HUGE = np.array([2**63 + 1, 0, 0], np.uint64)


def test_numbers_beyond_64_bits_with_a_sign_keep_their_value():
    """As int64, 2⁶³ + 1 would be negative."""
    with pytest.raises(errors.DataError) as caught:
        map_labels([HUGE])
    assert caught.value.cause == (
        "labels have gaps: 2 of 9223372036854775810 classes occur, 1 does not"
    )
    assert caught.value.remedy == REMAP
    with pytest.raises(errors.DataError) as caught:
        map_labels([HUGE], ["a", "b"])
    assert caught.value.cause == ("label 9223372036854775809 has no name: there are 2 class names")
    assert caught.value.remedy == NAMED
    mapped, names, info = numbers(HUGE, remap=True)
    assert (mapped, names) == ([1, 0, 0], ("0", "9223372036854775809"))
    assert info == {"label_mapping": {"0": 0, "9223372036854775809": 1}}
    with pytest.raises(errors.DataError) as caught:
        map_labels([np.array([1e20, 0.0])])
    assert caught.value.cause == (
        "labels have gaps: 2 of 100000000000000000001 classes occur, 1 does not"
    )


def test_parts_of_different_types_share_a_table():
    (train, validation), names, _ = map_labels([HUGE, np.array([0, -1])[:1]], remap=True)
    assert (train.tolist(), validation.tolist()) == ([1, 0, 0], [0])
    assert names == ("0", "9223372036854775809")


TEXT = "Replace what is not text in it: text.encode('utf-8', 'backslashreplace').decode()"


@pytest.mark.parametrize("name", ["caf\udce9", "\ud83d"])
def test_names_that_are_not_text_are_refused(name):
    """Written at the end of a run, they raised UnicodeEncodeError and the results were lost."""
    for labels, names, what in (
        (["a", name, "a"], None, "label"),
        (np.array(["a", name]), None, "label"),
        ([0, 1], ["a", name], "class name"),
    ):
        with pytest.raises(errors.DataError) as caught:
            map_labels([labels], names)
        assert caught.value.cause == f"the {what} {name!r} cannot be written as UTF-8"
        assert caught.value.remedy == TEXT
    mended = name.encode("utf-8", "backslashreplace").decode()  # what the remedy says
    assert mended in numbers(["a", mended])[1]


def test_text_is_looked_for_in_all_of_a_value():
    check_text({"a": ["b", ("c", 3, None)], 5: "\x1b"}, "note")
    for value in ({"a": ["b", ("c\udc80",)]}, {"c\udc80": 1}, "c\udc80"):
        with pytest.raises(errors.DataError) as caught:
            check_text(value, "note")
        assert caught.value.cause == "the note 'c\\udc80' cannot be written as UTF-8"
    assert is_text("naïve\x00")
    assert not is_text("\udfff")


def test_strings_follow_the_given_names():
    assert numbers(["a", "b"], class_names=["b", "a"])[:2] == ([1, 0], ("b", "a"))


def test_gaps_are_renumbered_only_on_request():
    with pytest.raises(errors.DataError) as caught:
        map_labels([[9, 2, 4]])
    assert caught.value.cause == "labels have gaps: 3 of 10 classes occur, 0 does not"
    assert caught.value.remedy == REMAP
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


ONE = "Give one label per sample"
ROWS = (
    "Give one label per sample, shape (n,), or rows with a single 1; soft or multiple labels are "
    "not supported"
)
RAVEL = "Give one label per sample, shape (n,); labels.ravel() makes that of a single column"
NUMBERS = "Give class numbers 0..K-1; regression is not supported"
TWO = "Give at least 2 classes"
NAMED = "Give one name for each of the numbers 0..K-1, or no names"
KINDS = "Give integers 0..K-1 or strings"


@pytest.mark.parametrize(
    ("labels", "names", "cause", "remedy"),
    [
        ([0, 2], None, "labels have gaps: 2 of 3 classes occur, 1 does not", REMAP),
        ([1, 2], None, "labels have gaps: 2 of 3 classes occur, 0 does not", REMAP),
        (
            [0, 1],
            ["a", "b", "c"],
            "labels have gaps: 2 of 3 classes occur, 2 ('c') does not",
            REMAP,
        ),
        ([0, 3], ["a", "b"], "label 3 has no name: there are 2 class names", NAMED),
        ([-1, 0], ["a", "b"], "label -1 has no name: there are 2 class names", NAMED),
        ([-1, 0, 1], None, "labels contain -1", REMAP),
        ([0, 0], None, "all labels are '0'", TWO),
        ([1, 1], ["a", "b"], "all labels are 'b'", TWO),
        (["a", "a"], None, "all labels are 'a'", TWO),
        ([True, True], None, "all labels are 'True'", TWO),
        ([], None, "the labels are empty", "Give at least one sample of each class"),
        ([[0], [1]], None, "labels have shape (2, 1)", RAVEL),
        (np.zeros((2, 2, 2)), None, "labels have shape (2, 2, 2)", RAVEL),
        ([[0.5, 0.5], [1, 0]], None, "labels have shape (2, 2) and are not one-hot", ROWS),
        ([[1, 1], [1, 0]], None, "labels have shape (2, 2) and are not one-hot", ROWS),
        ([0.5, 1.0], None, "labels contain 0.5", NUMBERS),
        ([np.nan, 1.0], None, "labels contain nan", NUMBERS),
        ([None, "a"], None, "labels have type object (the first is None)", KINDS),
        (3, None, "labels have shape ()", RAVEL),
        (["a", "bat"], ["a", "cat"], "unknown class 'bat'", "Did you mean cat or a"),
        (
            [0, 1],
            ["a", "a"],
            "class name 'a' occurs twice",
            "Give each class a name of its own",
        ),
    ],
)
def test_all_else_is_a_clear_error(labels, names, cause, remedy):
    with pytest.raises(errors.DataError) as caught:
        map_labels([labels], names)
    assert (caught.value.cause, caught.value.remedy) == (cause, remedy)


@pytest.mark.parametrize(
    ("labels", "cause", "remedy"),
    [
        ([[0, 1], [1]], "labels do not form one array: ", ONE),
        ([1j, 0], "labels have type complex128 (the first is ", KINDS),
    ],
)
def test_errors_that_quote_numpy(labels, cause, remedy):
    with pytest.raises(errors.DataError) as caught:
        map_labels([labels])
    assert caught.value.cause.startswith(cause)
    assert caught.value.remedy == remedy


def test_parts_must_agree():
    with pytest.raises(errors.DataError) as caught:
        map_labels([[0, 1], ["a", "b"]])
    assert str(caught.value) == (
        "the parts have labels of different kinds: integer, string. Give all labels in one form."
    )


@pytest.mark.parametrize(
    ("validation", "others"), [([2, 0], ""), ([2, 3, 4], ", nor have 2 other classes")]
)
def test_every_class_must_train(validation, others):
    with pytest.raises(errors.DataError) as caught:
        map_labels([[0, 1], validation])
    assert str(caught.value) == (
        f"class '2' has no training samples{others}. "
        "Add some, or leave the class out of the labels and the class names."
    )


def test_names_sort_as_numbers_only_if_all_are():
    assert sort_names({"10", "9", "1"}) == ("1", "9", "10")
    assert sort_names({"10", "9", "b"}) == ("10", "9", "b")
    assert sort_names({"1", "01"}) == ("01", "1")
