"""Chunk keeps states at boundaries; dechunk shows a chunk at its last byte and never earlier, or across documents."""

import torch

from dbyte.model.chunking import chunk, dechunk, find_chunks, opening_confidence, smooth
from dbyte.model.core import document_mask, positions_within, restarted

BOUNDARY = torch.tensor([[1, 0, 1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 0, 0, 0]]).bool()
DOCUMENT = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, -1, -1, -1]])
MASK = DOCUMENT >= 0


def test_hand_computed_layout():
    chunks = find_chunks(BOUNDARY, DOCUMENT, MASK)
    assert chunks.position_BM.tolist() == [[0, 2, 5, 6], [1, 3, 0, 0]]
    assert chunks.document_BM.tolist() == [[0, 0, 0, 1], [0, 1, -1, -1]]
    assert chunks.mask_BM.tolist() == [[True] * 4, [True, True, False, False]]
    assert chunks.visible_BL.tolist() == [[0, 0, 1, 1, 1, 2, 3, 3], [-1, 0, -1, 1, 1, -1, -1, -1]]


def test_chunk_then_dechunk():
    chunks = find_chunks(BOUNDARY, DOCUMENT, MASK)
    encoded = torch.arange(16.0).view(2, 8, 1) + 1
    null = torch.tensor([-7.0])
    up = dechunk(chunk(encoded, chunks), null, chunks)[..., 0]
    assert up.tolist() == [[1, 1, 3, 3, 3, 6, 7, 7], [-7, 10, -7, 12, 12, -7, -7, -7]]


def test_rows_without_a_boundary_see_only_null():
    none = torch.zeros(1, 5, dtype=torch.bool)
    chunks = find_chunks(none, torch.zeros(1, 5, dtype=torch.long), ~none)
    assert (dechunk(chunk(torch.ones(1, 5, 2), chunks), torch.zeros(2), chunks) == 0).all()


def test_a_document_beyond_the_positions_is_several_and_none_of_them_meets_another():
    document_BM = torch.tensor([[0, 0, 0, 0, 0, 1, 1, -1], [4, 5, 5, 5, 5, 5, 5, 5]])
    parts_BM = restarted(document_BM, 3)
    assert positions_within(parts_BM)[parts_BM >= 0].tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 0, 1, 2, 0, 1, 2, 0]
    assert [len(set(row[row >= 0].tolist())) for row in parts_BM] == [3, 4]
    assert torch.equal(parts_BM < 0, document_BM < 0)
    assert restarted(document_BM, 8) is document_BM


def test_positions_restart_and_attention_stays_inside_documents():
    assert positions_within(torch.tensor([[0, 0, 0, 1, 1, 2, -1, -1]])).tolist() == [[0, 1, 2, 0, 1, 0, 0, 1]]
    seen = document_mask(torch.tensor([[0, 0, 1]]), torch.float32)[0, 0] == 0
    assert seen.tolist() == [[True, False, False], [True, True, False], [False, False, True]]


def test_smoothing_is_the_running_average_of_each_document():
    torch.manual_seed(0)
    boundary = torch.tensor([[1, 0, 1, 0, 1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0, 1, 0, 0, 0]]).bool()
    document = torch.tensor([[0] * 5 + [1] * 4 + [-1], [0] * 7 + [-1] * 3])
    chunks = find_chunks(boundary, document, document >= 0)
    prob, core = torch.rand(2, 10), torch.randn(2, chunks.mask_BM.shape[1], 3)
    found = smooth(core, opening_confidence(prob, chunks), chunks)
    for row in range(2):
        average, before = None, None
        for k in range(int(chunks.mask_BM[row].sum())):
            place = chunks.position_BM[row, k]
            if average is None or document[row, place] != document[row, before]:
                average = core[row, k]
            else:
                average = prob[row, before] * core[row, k] + (1 - prob[row, before]) * average
            torch.testing.assert_close(found[row, k], average)
            before = place
