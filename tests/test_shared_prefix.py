"""Shared beginnings: trees by hand, stacks and cores over them, and every score as if its text were read alone."""

import random

import numpy as np
import pytest
import torch
from conftest import FAMILIES, VARIANTS, make_student, make_teacher

from dbyte.evaluate.score import Request, Scorer
from dbyte.native import engine_for
from dbyte.native.library import find_compiler
from dbyte.text import prefix_tree as tree_module
from dbyte.text.prefix_tree import Tree, shared_bytes
from dbyte.text.spans import BOS

COMPILED = [False, pytest.param(True, marks=pytest.mark.skipif(
    find_compiler() is None, reason="compiled reading is not held against whole texts: it needs a C++ compiler"))]
CONTEXT = "Where does Zo\u00eb live? \U0001f600".encode()
CUT = CONTEXT[:-2]  # inside a character of four bytes
REQUESTS = [
    *(Request(CONTEXT + answer, len(CONTEXT)) for answer in (b" Oslo", b" Oslo.", b" Rome", b"x", b" Oslo")),
    *(Request(CUT + rest, len(CUT)) for rest in (CONTEXT[-2:], CONTEXT[-2:] + b" Rome", "\u00e9".encode())),
    *(Request(text, start) for text in (CONTEXT + b" Oslo", CONTEXT[:14], b"W") for start in (0, len(text) - 1)),
    Request(b"The cat sat on " + b"a very long mat, " * 9, 8), Request(b"The cat", 3), Request(b"The dog", 3),
]


# -- trees ------------------------------------------------------------------------------------------------------------


def paths_of(tree):
    return [[int(tree.symbol_T[node]) for node in row if node >= 0] for row in tree.node_NL]


def test_a_tree_by_hand():
    tree = Tree.of([b"abd", b"b", b"abc", b"ab", b"abc", b"ae"])
    assert bytes(tree.symbol_T.tolist()) == b"abcdeb"
    assert tree.parent_T.tolist() == [-1, 0, 1, 1, 0, -1] and tree.depth_T.tolist() == [0, 1, 2, 2, 1, 0]
    assert tree.node_NL.tolist() == [[0, 1, 3], [5, -1, -1], [0, 1, 2], [0, 1, -1], [0, 1, 2], [0, 4, -1]]
    assert tree.leaves().tolist() == [[0, 1, 2], [0, 1, 3], [0, 4, -1], [5, -1, -1]]
    begins, keeps = tree.forks()
    assert begins.tolist() == [-2, -1, -1, 1, 0, -2] and keeps.tolist() == [0, 1, -1, -1, -1, -1]
    assert tree.places().tolist() == [0, 5, 6]
    shared = [shared_bytes(b"abc", other) for other in (b"abc", b"abd", b"ab", b"", b"x", b"abcd")]
    assert shared == [3, 2, 2, 0, 0, 3]


def test_trees_of_any_sequences_give_them_back_and_share_what_they_may():
    draw = random.Random(0)
    for _ in range(200):
        rows = [bytes(draw.choices(b"ab", k=draw.randint(1, 9))) for _ in range(draw.randint(1, 12))]
        tree = Tree.of(rows)
        assert paths_of(tree) == [list(row) for row in rows]
        assert len(tree) == len({row[:size] for row in rows for size in range(1, len(row) + 1)})
        for row in tree.node_NL:
            row = row[row >= 0]
            assert (tree.parent_T[row[1:]] == row[:-1]).all() and (tree.depth_T[row] == np.arange(len(row))).all()
        assert Tree.of([list(row) for row in rows]).node_NL.tolist() == tree.node_NL.tolist()


def test_trees_part_where_little_is_shared_or_much_was_read(monkeypatch):
    monkeypatch.setattr(tree_module, "LARGE", 40)
    rows = [b"a short beginning, " + bytes([65 + k]) * 30 for k in range(6)] + [b"a text", b"another"]
    tree = Tree.of(rows, apart=True)
    assert paths_of(tree) == [list(row) for row in rows]
    roots = [int(row[0]) for row in tree.node_NL]
    assert len({*roots[:6]}) == 3 and len({*roots}) == 5  # two texts reach 79 bytes, four times what they share is 76


# -- a stack and a core over trees ------------------------------------------------------------------------------------

TEXTS = [b"The cat sat on the mat", b"The cat sat on the dog", b"The cat", b"The", b"Other text", b"Other" * 40, b"O"]


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("variant", ["paper", "attention", "convolution"])
def test_a_stack_over_trees_is_the_stack_over_each_text(variant, compiled, teacher):
    student = make_student(teacher, **VARIANTS[variant])
    engine = engine_for(student, compiled)
    tree = Tree.of(TEXTS)
    for stack in (student.encoder, student.decoder):
        hidden_TD = student.byte_embedding(torch.from_numpy(tree.symbol_T)).detach()
        given = hidden_TD.clone()
        with torch.no_grad():
            whole = engine.read_stack(stack, hidden_TD, tree)
            for text, row in zip(TEXTS, tree.node_NL, strict=True):
                alone = stack(student.byte_embedding(torch.tensor([list(text)])))[0]
                torch.testing.assert_close(whole[row[row >= 0]], alone, rtol=1e-4, atol=1e-5)
        assert torch.equal(hidden_TD, given), "what is given stays"


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_core_over_trees_is_the_core_over_each_sequence(family, compiled):
    student = make_student(make_teacher(family))
    core = student.core
    engine = engine_for(student, compiled)
    tree = Tree.of(TEXTS)
    torch.manual_seed(0)
    inputs_TE = torch.randn(len(tree), 32)
    with torch.no_grad():
        found = engine.read_core(inputs_TE, tree)
        for row in tree.node_NL:
            row = row[row >= 0]
            alone = core(inputs_embeds=inputs_TE[row][None]).last_hidden_state[0]
            torch.testing.assert_close(found[row], alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="max_position_embeddings"):
        engine.read_core(torch.zeros(300, 32), Tree.of([list(range(300))]))


# -- scores -----------------------------------------------------------------------------------------------------------


def alone(student, scorer, request):
    """(nats, folded nats, greedy) of a request by the plain forward of its text, in one row."""
    ids, ends = torch.tensor([[BOS, *request.text]]), scorer.chunk_ends(request)
    if scorer.stage == 1:
        boundary = torch.zeros_like(ids, dtype=torch.bool)
        boundary[0, [0, *ends]] = True
        log_MV = student(ids, boundary).token_logits[0].log_softmax(-1).double()
        asked = [(k, student.token_pieces.id_of[request.text[start:end]])
                 for k, (start, end) in enumerate(zip([0, *ends], ends, strict=False)) if end > request.start]
        return (sum(log_MV[k, token].item() for k, token in asked), None,
                all(int(log_MV[k].argmax()) == token for k, token in asked))
    boundary = None
    if student.token_prior is not None:  # its chunks depend on where the context ends
        boundary = torch.zeros_like(ids, dtype=torch.bool)
        boundary[0, [0, *ends]] = True
    out = student(ids, boundary)
    log_LX = out.byte_logits[0].log_softmax(-1).double()
    joint, folded, greedy = 0.0, 0.0, True
    for i in range(max(request.start - 1, 0), len(request.text)):
        byte, flag = request.text[i], bool(out.boundary[0, i + 1])
        both = torch.logaddexp(log_LX[i, byte], log_LX[i, byte + 256]).item()
        if i < request.start:
            joint -= both
        else:
            folded, greedy = folded + both, greedy and int(log_LX[i].argmax()) % 256 == byte
        joint += log_LX[i, byte + 256 * flag].item()
    return joint, folded, greedy


def check(student, stage, requests, *, compiled):
    scorer = Scorer(student, stage=stage, engine=engine_for(student, compiled))
    with torch.no_grad():
        for score, request in zip(scorer.score(requests), requests, strict=True):
            nats, folded, greedy = alone(student, scorer, request)
            assert score.nats == pytest.approx(nats, abs=1e-4)
            assert score.folded_nats == (None if folded is None else pytest.approx(folded, abs=1e-4))
            assert score.greedy == greedy


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("variant, family", [("paper", "llama"), ("authors", "llama"), ("window", "llama"),
                                             ("split", "llama"), ("paper", "qwen3"), ("paper", "olmo2")])
def test_scores_of_shared_contexts_and_of_given_tokens_are_those_of_separate_texts(
        variant, family, compiled, tokenizer, token_bytes):
    student = make_student(make_teacher(family), tokenizer, **VARIANTS[variant])
    check(student, 2, REQUESTS, compiled=compiled)
    along = [Request(request.text, request.start, tuple(
        token_bytes.lengths[token_bytes.align(request.text.decode()).token_ids.numpy()].cumsum().tolist()))
        for request in REQUESTS if request.start in (len(CONTEXT), 3, 8)]
    check(student, 1, along + REQUESTS, compiled=compiled)


def test_equal_requests_are_read_once_and_all_answered(student):
    seen = []
    student.byte_embedding.register_forward_hook(lambda module, given, out: seen.append(given[0].numel()))
    once = Scorer(student, stage=2, batch_bytes=1).score([Request(CONTEXT, 4), Request(b"ab", 1)])
    read = sum(seen)
    again = Scorer(student, stage=2, batch_bytes=1).score([Request(CONTEXT, 4), Request(b"ab", 1)] * 3)
    assert again == once * 3 and sum(seen) == 2 * read


def test_a_shared_context_is_encoded_once(student, monkeypatch):
    seen = []
    student.byte_embedding.register_forward_hook(lambda module, given, out: seen.append(given[0].numel()))
    answers = (b" Oslo", b" Rome", b" Bern")
    Scorer(student, stage=2).score([Request(CONTEXT + answer, len(CONTEXT)) for answer in answers])
    assert sum(seen) == 1 + len(CONTEXT) + 1 + 3 * 4  # BOS, the context, the space, the names
