"""A teacher as a byte-level model: its own scores along tokens, trees of tokens, draws after any byte, clear errors."""

import random
from functools import cache
from itertools import pairwise

import pytest
import torch
from conftest import FAMILIES, make_teacher
from test_byte_probabilities import HARD, Trigrams, normalised, six_tokens
from tiny_tokenizers import KINDS
from tokenizers import pre_tokenizers

import dbyte
from dbyte.byte_probabilities import READINGS, ByteTeacher
from dbyte.byte_probabilities.beam import Beam
from dbyte.byte_probabilities.coverings import coverings, log_probs
from dbyte.byte_probabilities.encodings import Encodings
from dbyte.byte_probabilities.token_model import TokenTree, TreeReader
from dbyte.decode.teacher_text import generate_from_teacher
from dbyte.text.sorted_vocabulary import SortedVocabulary
from dbyte.text.spans import TokenBytes


@pytest.fixture
def byte_teacher(tokenizer):
    return ByteTeacher(make_teacher(vocabulary=320), tokenizer)  # twenty ids more than the tokenizer has


def token_log_probs(model, tokens):
    with torch.inference_mode():
        table = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return table[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_along_its_tokens_a_text_has_the_teachers_own_score(tokenizer, family):
    model = make_teacher(family, vocabulary=320)
    teacher = ByteTeacher(model, tokenizer)
    for text in [*HARD, ""]:
        tokens = [teacher.tokens.bos_token_id, *teacher.tokens.align(text).token_ids.tolist()]
        for reading in ("joint", "ends"):
            found = teacher.read(text, reading)
            assert normalised(found.log_prob_RS) and len(found.log_prob_RS) > len(found.symbol_R)
            assert found.nats == pytest.approx(token_log_probs(model, tokens).sum().item(), rel=1e-5, abs=1e-6)


def test_rows_are_distributions_and_a_beginning_has_the_rows_of_the_whole(byte_teacher):
    for text in [*HARD, ""]:
        whole = byte_teacher.read(text)
        data = text.encode()
        assert bytes(whole.symbol_R.tolist()) == data and whole.log_prob_RS.shape == (len(data) + 1, 257)
        assert normalised(whole.log_prob_RS) and byte_teacher.score([text]) == [whole.nats]
        for end in (0, len(data) // 3, len(data)):
            torch.testing.assert_close(byte_teacher.next_byte(data[:end]).exp(), whole.log_prob_RS[end].exp(),
                                       rtol=0, atol=1e-5)
    for data in (b"a\xff\xfe b\x80", b"The ca\xc3", "中".encode()[:2]):
        assert normalised(byte_teacher.read(data).log_prob_RS)
        assert normalised(byte_teacher.read(data, "beam", K=3, epsilon=0.1).log_prob_RS)
    beam = byte_teacher.beam(K=3, epsilon=0.1)
    assert normalised(beam.log_probs(b"a\xff\xfe b\x80")) and beam.healed > 0


def test_bytes_are_read_as_they_are_and_texts_after_the_normaliser():
    teacher = ByteTeacher(make_teacher(vocabulary=500), KINDS["qwen"]())
    apart, joined = "ne\u0301".encode(), "n\u00e9".encode()
    assert bytes(teacher.read("ne\u0301").symbol_R.tolist()) == joined
    assert bytes(teacher.read(apart).symbol_R.tolist()) == apart
    tree = teacher.encodings.tree(apart)
    assert all(teacher.tokens.decode(tree.tokens(node)[1:]) == apart[: tree.place[node]] for node in range(len(tree)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_that_grows_is_read_as_all_at_once_and_each_way_as_a_text(family):
    model = make_teacher(family)
    tree, reader = TokenTree(0), TreeReader(model)
    draw = random.Random(0)
    parts = [reader.hidden(tree)]
    for _ in range(4):
        for _ in range(5):
            tree.add(draw.randrange(len(tree)), draw.randrange(2, 300), 1)
        parts.append(reader.hidden(tree))
    once = TreeReader(model).hidden(tree)
    torch.testing.assert_close(torch.cat(parts), once, rtol=1e-4, atol=1e-4)
    assert len(reader.hidden(tree)) == 0
    table_VN = torch.cat([table for _, table in TreeReader(model).log_probs(tree)], 1)
    for node in range(len(tree)):
        with torch.inference_mode():
            plain_V = model(torch.tensor([tree.tokens(node)])).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(table_VN[:, node], plain_V, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason=(
    "no CUDA device: that a GPU gives the same distributions of bytes as a CPU goes unchecked"))
def test_cuda_reads_as_a_cpu(tokenizer):
    on_cpu, on_cuda = (ByteTeacher(make_teacher(vocabulary=320).to(device), tokenizer) for device in ("cpu", "cuda"))
    for reading in READINGS:
        expected, found = (each.read(HARD[0], reading) for each in (on_cpu, on_cuda))
        torch.testing.assert_close(found.log_prob_RS.exp(), expected.log_prob_RS.exp(), rtol=0, atol=1e-3)
        assert found.nats == pytest.approx(expected.nats, rel=1e-3)


# -- text after any bytes ---------------------------------------------------------------------------------------------


def test_draws_follow_the_distribution_of_bytes(byte_teacher, monkeypatch):
    """Equal prompts draw apart, and nothing of the model's own settings is used."""
    byte_teacher.model.generation_config.repetition_penalty = 50.0
    monkeypatch.setattr("dbyte.decode.teacher_text.coverings", cache(coverings))
    with torch.no_grad():
        byte_teacher.model.lm_head.weight.mul_(0.1)  # flatter, so that there is something to draw
    prompt, count = b"The c", 400
    drawn = dbyte.generate(byte_teacher, [prompt] * count, max_new_bytes=1, temperature=1.0, as_bytes=True)
    often = torch.tensor([each[0] if each else 256 for each in drawn]).bincount(minlength=257) / count
    expected = byte_teacher.next_byte(prompt).exp()
    by_chance = (expected * (1 - expected) / count).sqrt().sum().item() * 0.4
    assert by_chance > 0.02 and (often - expected).abs().sum().item() / 2 < 1.5 * by_chance


def test_a_prompt_may_end_within_a_word_or_a_character(byte_teacher):
    model = byte_teacher.model
    text = "The cat sat on the mat café"
    ids = byte_teacher.tokens.align(text).token_ids.tolist()
    wanted = {before: after for before, after in pairwise([byte_teacher.tokens.bos_token_id, *ids, 1])}
    assert wanted and len(ids) > 3
    with torch.no_grad():  # a teacher that knows this text alone: after a token comes the one that follows it there
        monkey = torch.zeros(320, 32)
        torch.manual_seed(2)
        embeddings = torch.nn.functional.normalize(torch.randn(320, 32)) * 30
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(embeddings)
        for before, after in wanted.items():
            monkey[after] += torch.nn.functional.normalize(embeddings[before], dim=0) * 10
        model.lm_head.weight.copy_(monkey)
    data = text.encode()
    for end in (5, 9, len(data) - 1):
        found, = dbyte.generate(byte_teacher, [data[:end]], max_new_bytes=4, as_bytes=True)
        assert found == data[end : end + 4]
    for end in range(3, 20):  # a stop string beyond the limit, in the same token
        found, = dbyte.generate(byte_teacher, [data[:end]], max_new_bytes=1, stop=[text[end + 2]], as_bytes=True)
        assert found in (data[end : end + 1], b"")
    assert dbyte.generate(byte_teacher, [data[:-1]], max_new_bytes=9) == ["é"]
    assert dbyte.generate(byte_teacher, ["The ca"], max_new_bytes=99, stop=["on", "mat"]) == ["t sat "]
    assert dbyte.generate(byte_teacher, ["The ca"], max_new_bytes=99, stop=["zz"]) == [text[6:]]


def test_limits_and_what_comes_back(byte_teacher):
    for limit in (1, 3, 10):
        for found in generate_from_teacher(byte_teacher, ["The", b"\xff", ""], max_new_bytes=limit, as_bytes=True):
            assert isinstance(found, bytes) and len(found) <= limit
    once, again, other = (generate_from_teacher(byte_teacher, ["a", "b"], max_new_bytes=8, temperature=1.0, seed=seed)
                          for seed in (0, 0, 1))
    assert once == again != other
    assert generate_from_teacher(byte_teacher, []) == []
    assert isinstance(generate_from_teacher(byte_teacher, ["\ufffd", b"a\xc3"], max_new_bytes=3)[0], str)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_refused(byte_teacher, tokenizer):
    read = byte_teacher.read
    for call, told in (
        (lambda: read("a", "words"), "unknown reading 'words': choose one of joint, ends, coverings, beam"),
        (lambda: read(b"a", "joint"), "along the tokens of a text, found bytes"),
        (lambda: read(b"a", "ends"), "along the tokens of a text, found bytes"),
        (lambda: read("a", "beam", K=0), "at least one state, found K = 0"),
        (lambda: read("a", "beam", epsilon=0.0), r"in \(0, 1\), found 0.0"),
        (lambda: read("a", "beam", epsilon=1.0), r"in \(0, 1\), found 1.0"),
        (lambda: read("a\ud800"), "lone surrogate"),
        (lambda: read("a", "beam", epsilon=float("nan")), r"in \(0, 1\), found nan"),
        (lambda: read(5), "must be str or bytes, found int"),
        (lambda: byte_teacher.next_byte(None), "must be str or bytes, found NoneType"),
        (lambda: byte_teacher.score("a text"), "expects a list of texts, found str"),
        (lambda: read("x " * 300), "positions"),
        (lambda: read("x " * 300, "joint"), "positions"),
        (lambda: generate_from_teacher(byte_teacher, "The"), "expects a list of prompts, found str"),
        (lambda: generate_from_teacher(byte_teacher, ["The"], max_new_bytes=0), "at least 1, found 0"),
        (lambda: generate_from_teacher(byte_teacher, ["The"], temperature=-1.0), "temperature must"),
        (lambda: generate_from_teacher(byte_teacher, ["The"], stop="end"), "must be a list of strings"),
        (lambda: generate_from_teacher(byte_teacher, ["The"], stop=[""]), "strings that are not empty"),
        (lambda: generate_from_teacher(byte_teacher, [b"a\xffb"]), "0xFF at byte 1, which is no UTF-8"),
        (lambda: dbyte.generate(byte_teacher, ["The"], compiled=True), "leave `compiled` out"),
        (lambda: dbyte.generate_stream(byte_teacher, "The"), "is not streamed"),
        (lambda: generate_from_teacher(byte_teacher, ["x " * 127], max_new_bytes=5000), "positions"),
        (lambda: SortedVocabulary([b"", b""]), "no token has bytes"),
        (lambda: ByteTeacher(make_teacher(vocabulary=200), tokenizer), "the model has 200 token ids"),
        (lambda: Encodings(TokenBytes((b"", b"a"), 0, 0), SortedVocabulary([b"", b"a"])), "has no tokenizer"),
    ):
        with pytest.raises(ValueError, match=told):
            call()


def test_a_byte_without_a_token_and_a_tokenizer_that_is_not_exact_are_named():
    model, (_, encodings) = Trigrams(), six_tokens()
    with pytest.raises(ValueError, match="0x7A at byte 2, which token bytes has no token for"):
        log_probs(b"abz", model.reader(), encodings)
    with pytest.raises(ValueError, match=r"no token has the byte 0x7A \(byte 2\)"):
        Beam(model.reader(), encodings.vocabulary, bos_token_id=0, K=3, epsilon=0.01).log_probs(b"abz")
    changed = KINDS["gpt2"].__wrapped__()
    changed.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(ValueError, match="not byte-exact"):
        ByteTeacher(make_teacher(vocabulary=600), changed)
