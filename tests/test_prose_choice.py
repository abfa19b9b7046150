"""Prose: four passages of one length, one of them the document's own, none of it trained on."""

from dbyte.tasks import prose as prose_choice
from dbyte.text.corpus import load_corpus

COLUMN = prose_choice.column()
ITEMS = COLUMN.items()


def test_items_are_the_same_again_and_fewer_are_a_prefix():
    assert len(ITEMS) == COLUMN.available >= 200
    assert COLUMN.items() == ITEMS and COLUMN.items(20) == ITEMS[:20]
    assert COLUMN.items(20, seed=1) != ITEMS[:20]


def test_choices_are_of_one_length_and_whole_words():
    heldout = {f" {text} " for text in prose_choice.heldout()}
    for item in ITEMS:
        assert len({len(choice.encode()) for choice in item["choices"]}) == 1
        assert len(set(item["choices"])) == 4
        for choice in item["choices"]:
            assert any(f" {choice} " in text for text in heldout), choice


def test_only_the_right_choice_goes_on_the_document():
    for item in ITEMS:
        on = [any(text.startswith(f"{item['context']} {choice} ") for text in prose_choice.heldout())
              for choice in item["choices"]]
        assert on == [k == item["label"] for k in range(4)]


def test_no_context_with_its_answer_was_trained_on():
    trained = "\n".join(" ".join(text.split()) for text in load_corpus("pydocs").documents)
    assert not [item for item in ITEMS if f"{item['context']} {item['choices'][item['label']]}" in trained]


def test_labels_are_evenly_spread():
    counts = [sum(item["label"] == k for item in ITEMS) for k in range(4)]
    assert min(counts) > len(ITEMS) / 4 - 4 * (len(ITEMS) * 3 / 16) ** 0.5
