"""The longest token that ends at each byte, against a search by hand, and what a student makes of it."""

import pytest
import torch
from conftest import TEXTS, make_student, make_teacher

from dbyte.model.chunking import find_chunks
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.suffix import LONGEST, SuffixTable
from dbyte.text.spans import BOS, EOS


def by_hand(table, data, end):
    """The id of the longest token of at most LONGEST bytes that `data[:end]` ends with."""
    if data[end - 1] in (BOS, EOS):
        return table.bos_token_id if data[end - 1] == BOS else table.eos_token_id
    start = next(start for start in range(max(end - LONGEST, 0), end) if data[start:end] in table.token_bytes)
    return table.token_bytes.index(data[start:end])


@pytest.mark.parametrize("text", TEXTS)
def test_the_longest_suffix_is_that_of_a_search_by_hand(text, token_bytes):
    table = SuffixTable(list(token_bytes.token_bytes), bos_token_id=token_bytes.bos_token_id,
                        eos_token_id=token_bytes.eos_token_id)
    data = bytes([BOS]) + text.encode() + bytes([EOS, BOS]) + b"the cat"
    expected = [by_hand(token_bytes, data, end) for end in range(1, len(data) + 1)]
    assert table.find(torch.tensor(list(data))[None])[0].tolist() == expected
    for end in range(1, len(data) + 1):  # a window of the newest bytes says the same
        window = torch.full((LONGEST,), -1)
        newest = torch.tensor(list(data[max(end - LONGEST, 0) : end]))
        window[LONGEST - len(newest) :] = newest
        assert table.find(window[None])[0, -1] == expected[end - 1]


def test_an_untrained_student_reads_the_teachers_embedding_where_a_token_is_the_longest_suffix(batch, tokenizer):
    teacher = make_teacher()
    student = ByteStudent.from_teacher(teacher, tokenizer=tokenizer, config=StudentConfig(byte_width=64, suffix=True))
    with torch.no_grad():
        encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
        chunks = find_chunks(batch.boundary_BL, batch.document_BL, batch.mask_BL)
        found_BME = student.chunk_embeddings(encoded_BLD, chunks, batch.byte_ids_BL)
        wanted_BME = torch.sigmoid(torch.tensor(4.0)) * teacher.get_input_embeddings()(batch.token_ids_BM)
    same_BM = torch.isclose(found_BME, wanted_BME, atol=1e-6).all(-1)[batch.token_mask_BM]
    assert same_BM.float().mean() > 0.7


def test_suffixes_need_the_tokenizer():
    with pytest.raises(ValueError, match="look up the teacher's tokens"):
        ByteStudent.from_teacher(make_teacher(), config=StudentConfig(suffix=True))


def test_the_gate_trains_with_the_projection_and_the_embeddings_do_not(teacher):
    student = make_student(teacher, suffix=True)
    names = {name for name, _ in student.encoder_projection.named_parameters()}
    assert names == {"weight", "gate.weight", "gate.bias"}
