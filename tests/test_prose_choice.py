"""Prose: four passages of one length, one of them the document's own, none of it in training text."""

import pytest

from dbyte.text.corpus import load_corpus
from dbyte_paper.under_noise import prose_column
from dbyte_tasks import prose


@pytest.fixture(scope="module")
def column():
    return prose_column()


@pytest.fixture(scope="module")
def heldout():
    return prose.collapsed(load_corpus(prose.CORPUS, split="heldout").documents)


def test_items_are_the_same_again_and_fewer_are_a_prefix(column):
    items = column.items()
    assert len(items) == column.available >= 200
    assert column.items() == items and column.items(20) == items[:20]
    assert column.items(20, seed=1) != items[:20]


def test_choices_are_passages_of_one_length_and_only_the_right_one_continues_the_document(column, heldout):
    padded = "\n".join(f" {text} " for text in heldout)
    items = column.items()
    for item in items:
        assert len({len(choice.encode()) for choice in item["choices"]}) == 1
        assert len(set(item["choices"])) == 4
        assert all(f" {choice} " in padded for choice in item["choices"])
        begun = [text for text in heldout if text.startswith(item["context"])]
        continues = [any(text.startswith(f"{item['context']} {choice} ") for text in begun)
                     for choice in item["choices"]]
        assert continues == [label == item["label"] for label in range(4)]
    counts = [sum(item["label"] == label for item in items) for label in range(4)]
    assert min(counts) > len(items) / 4 - 4 * (len(items) * 3 / 16) ** 0.5


def test_no_context_with_its_answer_is_in_training_text(column):
    trained = "\n".join(" ".join(text.split()) for text in load_corpus(prose.CORPUS).documents)
    assert not [item for item in column.items() if f"{item['context']} {item['choices'][item['label']]}" in trained]
    text = "word " * 60
    assert not prose.collapsed(["naïve " * 60])
    with pytest.raises(ValueError, match="default 0"):
        prose.column([text], [text])
