"""The miniature of the reading parts: its student learns what its teacher knows, and what a page prints is what is."""

import pytest
import torch

import dbyte
from dbyte.distill import losses
from dbyte_paper import miniature


@pytest.fixture(scope="module", params=["jbp", "mbp"])
def mini(request):
    mini = miniature.Miniature(decoding=request.param)
    mini.train(*miniature.STAGE1, *miniature.STAGE2)
    return mini


def test_the_router_learns_the_teachers_tokens_and_the_student_writes_the_sentences(mini):
    batch = mini.batch
    out = mini.student(batch.byte_ids_BL, document_BL=batch.document_BL, mask_BL=batch.mask_BL)
    assert torch.equal(out.boundary, batch.boundary_BL)
    assert dbyte.generate(mini.student, ["The caf", "Is there"], max_new_bytes=20) == ["é is open.", " tea for two?"]


def test_each_step_brings_its_loss_down_and_a_second_miniature_is_the_same(capsys):
    printed = []
    for _ in range(2):
        miniature.Miniature().train(*miniature.STAGE1)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    for line in printed[0].splitlines():
        first, last = line.split("loss ")[1].split(" -> ")
        assert float(last) < float(first) / 2, line


def test_a_shape_is_printed_by_letter_and_a_wrong_name_refused(capsys):
    miniature.shape("logits_BLK2", torch.zeros(1, 2, 512), "what it means")
    assert capsys.readouterr().out.split() == ["logits_BLK2", "B=1", "L=2", "K2=512", "what", "it", "means"]
    with pytest.raises(ValueError, match="names 3 axes"):
        miniature.shape("encoded_BLD", torch.zeros(1, 2), "")


def test_bytes_and_joint_symbols_are_told_apart():
    text = torch.tensor(list("é ".encode()))
    assert miniature.glyphs(text) == ["c3", "a9", "␣"]
    label_L = losses.joint_labels(text[None], torch.tensor([[False, True, False]]))[0]
    assert miniature.glyphs(label_L[:2]) == ["a9|", "␣"]
    assert miniature.bars(torch.tensor([False, True])) == ["", "|"]
