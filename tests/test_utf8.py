"""The UTF-8 automaton against Python's own decoder."""

import itertools

import pytest
from conftest import make_student

from dbyte.decode.utf8 import REFUSED, WHOLE, broken_character, over_tokens, state_after, transitions
from dbyte.text.spans import BOS, EOS

TEXT = "a é € \ud7ff \ue000 \uffff 😀 \U00010000 \U0010ffff"
EDGES = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF,
         0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFD)


def decodes(text):
    try:
        return text.decode() is not None
    except UnicodeDecodeError:
        return False


def walk(table, text, state=WHOLE):
    for byte in text:
        state = table[state][byte]
    return state


def test_it_accepts_what_python_decodes_over_every_edge_of_every_rule():
    table = transitions().tolist()
    for size in range(1, 4):
        for text in map(bytes, itertools.product(EDGES, repeat=size)):
            assert (walk(table, text) == WHOLE) == decodes(text), text
    for head in itertools.product((0xF0, 0xF1, 0xF4), (0x80, 0x8F, 0x90, 0xBF)):
        for tail in itertools.product(EDGES, repeat=2):
            assert (walk(table, bytes(head + tail)) == WHOLE) == decodes(bytes(head + tail))


def test_every_state_has_a_way_on_and_specials_stand_between_characters():
    table = transitions()
    assert ((table[:REFUSED] != REFUSED).sum(1) > 0).all() and (table[REFUSED] == REFUSED).all()
    assert (table[:, BOS] == REFUSED).all()
    assert (table[:, EOS] != REFUSED).nonzero().tolist() == [[WHOLE]]


@pytest.mark.parametrize("cut", range(len(TEXT.encode()) + 1))
def test_a_text_cut_anywhere_has_its_state_and_its_broken_character(cut):
    text = TEXT.encode()[:cut]
    broken = broken_character(text)
    whole = text.decode(errors="ignore").encode()
    assert whole + broken == text
    assert state_after(text) == walk(transitions().tolist(), text)


@pytest.mark.parametrize("text", [b"\x80", b"a\xc0", b"a\xed\xa0", b"\xf4\x90", b"\xe9tude"])
def test_what_is_no_utf8_is_refused(text):
    with pytest.raises(ValueError, match="as_bytes=True"):
        state_after(text)


def test_tokens_lead_where_their_bytes_lead(teacher, tokenizer):
    student = make_student(teacher, tokenizer)
    found, table = over_tokens(student, transitions()).tolist(), transitions().tolist()
    for token, text in enumerate(student.token_texts()):
        text = text or bytes([EOS])
        assert [found[state][token] for state in range(9)] == [walk(table, text, state) for state in range(9)]
