"""The student as a whole: oracle encoder, causality, isolation, padding, saving, and what it refuses."""

import copy
import json

import pytest
import torch
from conftest import VARIANTS, make_student, make_teacher
from transformers import AutoModel

from dbyte import __version__
from dbyte.model import backends
from dbyte.model.chunking import find_chunks
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher import load_teacher, load_tokenizer
from dbyte.text.spans import BOS, EOS


def test_oracle_encoder_gives_the_teachers_logits(any_teacher, batch):
    student = make_student(any_teacher)
    chunks = find_chunks(batch.boundary_BL, batch.document_BL, batch.mask_BL)
    oracle_BME = any_teacher.get_input_embeddings()(batch.token_ids_BM)  # what a perfect encoder returns at boundaries
    logits_BMV = student.token_head(student.run_core(oracle_BME, chunks))
    for row in range(len(batch.byte_ids_BL)):
        for document in batch.token_document_BM[row].unique():
            here = batch.token_document_BM[row] == document
            if document >= 0:
                alone = any_teacher(batch.token_ids_BM[row, here][None]).logits[0]
                torch.testing.assert_close(logits_BMV[row, here], alone, rtol=1e-4, atol=1e-4)


def test_from_teacher_copies_core_and_head_bit_for_bit(any_teacher):
    student, expected = make_student(any_teacher), any_teacher.model.state_dict()
    assert {name for name in expected if "embed_tokens" not in name} == student.core.state_dict().keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in student.core.state_dict().items())
    assert torch.equal(student.token_head.weight, any_teacher.get_output_embeddings().weight)


def stage2(out):
    """Stage 2's logits: MBP's second head next to the first."""
    return out.byte_logits if out.second_logits is None else torch.cat([out.byte_logits, out.second_logits], -1)


def test_causality_with_given_boundaries(any_student, batch):
    """None of the logits may know of a later byte; with smoothing that holds of the boundary's confidence too."""
    student = any_student
    before = student(batch.byte_ids_BL, batch.boundary_BL, batch.document_BL, batch.mask_BL)
    for j in (1, 7, 60, 100):
        changed = batch.byte_ids_BL.clone()
        changed[0, j] = (changed[0, j] + 1) % 250
        after = student(changed, batch.boundary_BL, batch.document_BL, batch.mask_BL)
        torch.testing.assert_close(stage2(after)[0, :j], stage2(before)[0, :j])
        torch.testing.assert_close(stage2(after)[1:], stage2(before)[1:])
        assert not torch.allclose(after.byte_logits[0, j], before.byte_logits[0, j])


def test_the_routers_look_ahead_is_exactly_one_byte(any_student):
    torch.manual_seed(0)
    student = any_student
    ids = torch.randint(0, 250, (1, 40))
    before = student(ids)
    for j in (5, 20, 39):
        changed = ids.clone()
        changed[0, j] = (changed[0, j] + 1) % 250
        after = student(changed)
        torch.testing.assert_close(after.boundary_prob[0, : j - 1], before.boundary_prob[0, : j - 1])
        # where no token goes on with either byte, the prior's rule closes the chunk for both
        closed = student.config.decoding == "prior" and (after.boundary & before.boundary)[0, j - 1]
        assert closed or not torch.allclose(after.boundary_prob[0, j - 1], before.boundary_prob[0, j - 1])
        torch.testing.assert_close(after.byte_logits[0, : j - 1], before.byte_logits[0, : j - 1])


@pytest.mark.parametrize("family, variant", [("llama", name) for name in VARIANTS] + [("qwen3", "paper"),
                                                                                      ("olmo2", "paper")])
def test_packed_and_padded_equals_separate_forward_and_gradients(family, variant, batch):
    student = make_student(make_teacher(family), **VARIANTS[variant]).double()
    assert not batch.mask_BL.all()
    noise_BL = torch.randint(0, 250, batch.mask_BL.shape)
    byte_ids_BL = torch.where(batch.mask_BL, batch.byte_ids_BL, noise_BL)
    out = student(byte_ids_BL, None, batch.document_BL, batch.mask_BL)
    assert not out.boundary[~batch.mask_BL].any()
    alone = []
    for row in range(len(batch.byte_ids_BL)):
        for document in range(int(batch.document_BL[row].max()) + 1):
            here = batch.document_BL[row] == document
            one = student(batch.byte_ids_BL[row, here][None])
            torch.testing.assert_close(stage2(out)[row, here], stage2(one)[0])
            torch.testing.assert_close(out.boundary_prob[row, here], one.boundary_prob[0])
            alone.append(one)
    packed_tokens = out.token_logits[out.chunk_mask]
    torch.testing.assert_close(packed_tokens, torch.cat([one.token_logits[0] for one in alone]))
    (stage2(out)[batch.mask_BL].square().sum() + packed_tokens.square().sum()).backward()
    together = {name: weight.grad.clone() for name, weight in student.named_parameters() if weight.grad is not None}
    student.zero_grad()
    sum(stage2(one).square().sum() + one.token_logits.square().sum() for one in alone).backward()
    for name, weight in student.named_parameters():
        if name in together:
            torch.testing.assert_close(together[name], weight.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_bos_and_eos_are_chunks_of_their_own(student):
    ids = torch.tensor([[BOS, 65, 66, 67, EOS, BOS, 68, EOS]])
    boundary = student(ids, None, torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])).boundary[0]
    assert boundary[[0, 3, 4, 5, 6, 7]].all()


def test_saving_is_bit_exact_and_auto_classes_load(any_student, batch, tmp_path):
    student = any_student
    student.save_pretrained(tmp_path)
    for loaded in (ByteStudent.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is ByteStudent
        expected = student.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
        one, two = (m(batch.byte_ids_BL, None, batch.document_BL, batch.mask_BL) for m in (student, loaded))
        assert torch.equal(stage2(one), stage2(two)) and torch.equal(one.token_logits, two.token_logits)
        assert loaded.token_texts()[40] == student.token_texts()[40]
        assert loaded.config.dbyte_version == __version__


def test_a_folder_without_weights_of_a_part_is_refused(student, tmp_path):
    from safetensors.torch import load_file, save_file

    student.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["router.query.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="router.query.weight"):
        ByteStudent.from_pretrained(tmp_path)


@pytest.mark.parametrize("wrong, says", [
    (dict(byte_ids_BL=torch.zeros(1, 0, dtype=torch.long)), "at least|>= 1"),
    (dict(byte_ids_BL=torch.tensor([[300]])), "0..255"),
    (dict(byte_ids_BL=torch.zeros(1, 4)), "integers"),
    (dict(byte_ids_BL=torch.zeros(1, 4, dtype=torch.long), boundary_BL=torch.ones(1, 3).bool()), "boundary_BL"),
    (dict(byte_ids_BL=torch.zeros(1, 4, dtype=torch.long), mask_BL=torch.tensor([[True, False, True, True]])), "tail"),
    (dict(byte_ids_BL=torch.zeros(1, 4, dtype=torch.long), boundary_BL=torch.ones(1, 4).bool(),
          mask_BL=torch.tensor([[True, True, True, False]])), "padded"),
    (dict(byte_ids_BL=torch.zeros(1, 300, dtype=torch.long), boundary_BL=torch.ones(1, 300).bool()), "positions"),
])
def test_wrong_input_is_refused_with_the_remedy(student, wrong, says):
    with pytest.raises(ValueError, match=says):
        student(**wrong)


def test_a_student_needs_a_teacher():
    with pytest.raises(ValueError, match="from_teacher"):
        ByteStudent(StudentConfig())
    with pytest.raises(ValueError, match="head"):
        ByteStudent.from_teacher(make_teacher().model)


@pytest.mark.parametrize("sizes, says", [
    (dict(router="none"), "integrated, split"), (dict(decoding="bytes"), "jbp, mbp"),
    (dict(router="split", smoothing=True), "integrated"), (dict(encoder_mixer="lstm"), "choose one of"),
    (dict(encoder_mixer="convolution"), "window must be at least 2"), (dict(encoder_window=-1), "window must be"),
    (dict(encoder_mixer="attention", head_width=48), "multiple of head_width"), (dict(ffn_width=-1), "at least 0"),
    (dict(router="split", router_width=24), "multiple of head_width"), (dict(encoder_layers=0), "layers must be"),
    (dict(byte_width=20), "multiple of head_width"), (dict(widht=3), "no widht")])
def test_sizes_that_contradict_are_refused(sizes, says):
    with pytest.raises(ValueError, match=says):
        StudentConfig(**sizes)


def test_confidence_reaches_the_router_and_changes_no_value(teacher, batch):
    plain, confident = (make_student(teacher, confidence=on) for on in (False, True))
    outputs = [student(batch.byte_ids_BL, None, batch.document_BL, batch.mask_BL).byte_logits
               for student in (plain, confident)]
    torch.testing.assert_close(*outputs)
    for logits in outputs:
        logits.square().mean().backward()
    assert plain.router.query.weight.grad is None and confident.router.query.weight.grad.abs().sum() > 0


def test_a_backend_that_cannot_run_is_refused_with_the_remedy(student, monkeypatch):
    """Wherever the tests run: first without the packages, then with them and without a GPU."""
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="mamba_ssm and causal_conv1d.*environment.yml"):
        student.use_backend("triton")
    monkeypatch.setattr(backends, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="CUDA device"):
        student.use_backend("triton")
    with pytest.raises(ValueError, match="torch, fast, triton"):
        student.use_backend("cuda")
    assert all(getattr(module, "backend", "fast") == "fast" for module in student.modules())


def test_a_tokenizer_may_have_ids_without_text_beyond_the_embeddings_and_no_others(tokenizer):
    teacher = make_teacher()
    longer = copy.deepcopy(tokenizer)
    longer.add_special_tokens({"pad_token": "<pad>"})
    assert len(longer) == teacher.config.vocab_size + 1
    plain = ByteStudent.from_teacher(teacher, tokenizer=tokenizer)
    padded = ByteStudent.from_teacher(teacher, tokenizer=longer)
    assert padded.token_texts() == plain.token_texts()
    longer.add_tokens(["Oslo"])
    with pytest.raises(ValueError, match="302 tokens with text among those beyond the teacher's 300 embeddings"):
        ByteStudent.from_teacher(teacher, tokenizer=longer)


def test_a_sliding_window_is_refused_by_name():
    teacher = make_teacher("qwen3")
    teacher.config.layer_types = ["full_attention", "sliding_attention"]
    teacher.config.sliding_window = 8
    with pytest.raises(ValueError, match="layers with a sliding window of 8 tokens"):
        ByteStudent.from_teacher(teacher)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_teacher_is_read_in_fp32_on_a_cpu(dtype, tokenizer, tmp_path):
    make_teacher().to(dtype).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_teacher(tmp_path)
    assert model.dtype == torch.float32
    assert load_teacher(tmp_path, dtype="auto")[0].dtype == dtype


def test_a_tokenizer_is_read_as_its_file_says_whatever_class_is_named_next_to_it(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))
    for text in ("in 2023", "a\r\n\r\nb", "I'LL  x"):
        assert load_tokenizer(tmp_path).tokenize(text) == tokenizer.tokenize(text)
