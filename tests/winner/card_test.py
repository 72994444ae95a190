"""The model card tells what a stranger needs, and shows words from outside as they are."""

from __future__ import annotations

import dataclasses

from ncap_jax.winner import card
from ncap_jax.winner.facts import LEAKS, Architecture, ModelFacts, Origin, Preprocessing
from tests.support.winners import figures

FACTS = ModelFacts(
    name="tiny_plain",
    architecture=Architecture("zoo", "tiny_plain"),
    preprocessing=Preprocessing("unit", 32, (40, 48), 1),
    class_names=("cat", "dog"),
    metrics={"test": figures(7, 1, ("cat", "dog"))},
    chosen={"candidates": ["tiny_plain", "b"], "long": ["x" * 400]},
    data={"training_images": 96},
    origin=Origin("file.h5", licence="MIT", citation="a paper"),
    created="yesterday",
)


def test_a_card():
    text = card.render(FACTS)
    lines = text.splitlines()
    assert lines[0] == r"# tiny\_plain"
    assert "| test | 8 | 87.5 % | 52.9 % to 97.8 % | 87.5 % | 0.467 | 12.5 % |" in lines
    assert "| candidates | tiny\\_plain, b |" in lines
    assert "| training images | 96 |" in lines
    assert "Classes: cat, dog" in lines
    assert "40 × 48 pixels, grey" in text
    assert "fine-tuning began with: file.h5. Their licence: MIT. Paper: a paper." in text
    assert text.endswith("Saved yesterday.\n")
    assert "xxx" not in text


def test_a_test_part_with_copies_is_no_test():
    for leaks, words in ((3, "Of the test images, 3 are also in the"), (1, "images, 1 is also in")):
        text = card.render(dataclasses.replace(FACTS, data={LEAKS: leaks}))
        assert words in text
        assert f"| test images also in training or validation | {leaks} |" in text.splitlines()
    assert "Of the test images" not in card.render(dataclasses.replace(FACTS, data={LEAKS: 0}))


def test_a_card_without_figures():
    bare = ModelFacts("a", FACTS.architecture, FACTS.preprocessing, ("cat", "dog"))
    text = card.render(bare)
    assert "Figures" not in text
    assert "How it was chosen" not in text
    assert "began with: not known. Their licence: not known." in text


def test_a_hundred_classes():
    names = tuple(f"class {number}" for number in range(100))
    text = card.render(dataclasses.replace(FACTS, class_names=names))
    assert "class 49 and 50 more" in text
    assert "class 50" not in text


def test_words_from_outside_are_no_markdown():
    names = ("<script>alert(1)</script>", "[click](http://x) | `\x1b[31m`\n# big")
    text = card.render(dataclasses.replace(FACTS, class_names=names))
    shown = (
        r"Classes: \<script\>alert\(1\)\</script\>, "
        r"\[click\]\(http://x\) \| \`\\x1b\[31m\`\\n\# big"
    )
    assert shown in text.splitlines()
