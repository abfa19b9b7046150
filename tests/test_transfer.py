"""Transfer to another tokenizer: bytes line up, heads see what they may, losses reduce, vocabularies begin as told."""

from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from conftest import make_teacher
from tiny_tokenizers import KINDS, TEXTS
from transformers import AutoModelForCausalLM, AutoTokenizer

from dbyte.byte_probabilities import ByteTeacher, within_token
from dbyte.distill import sliced_losses
from dbyte.distill.losses import forward_kl
from dbyte.distill.teacher import train_tokenizer
from dbyte.distill.terms import language_model, predicted_tokens
from dbyte.model.adapters import ADAPTER, merged_state
from dbyte.text.byte_tokenizer import ByteTokenizer
from dbyte.text.spans import BOS, EOS, TokenBytes
from dbyte.transfer.byte_targets import ByteTargets, Shards, byte_table
from dbyte.transfer.heads import END, HEADS, LONGEST, SYMBOLS
from dbyte.transfer.methods import (
    PairedForward,
    byte_divergence,
    chunk_ends,
    chunk_log_probs,
    chunk_loss,
    starts_a_word,
    token_spans,
)
from dbyte.transfer.paired import paired_documents, paired_rows
from dbyte.transfer.plan import Transfer
from dbyte.transfer.student import TransferStudent
from dbyte.transfer.vocabulary import INITS, averaged, old_tokens, with_vocabulary

WORD = "donaudampfschiff"  # a token of `long_words`
HARD = [text for name, text in TEXTS.items() if not name.startswith("long")] + [WORD * 40, " " * 150]
PROSE = ["All human beings are born free. They're endowed with reason.", "naïve café 😀 中文", "1 + 2 = 3. " * 4]
ROW = 256


@cache
def long_words():
    return train_tokenizer([f"{WORD} " * 9], vocabulary=258 + len(WORD) - 1)


LOCAL = {**KINDS, "bytes": ByteTokenizer, "long words": long_words}


@cache
def tokens(kind):
    return TokenBytes.from_tokenizer(LOCAL[kind]())


@cache
def rows(student, teacher):
    return paired_rows(PROSE, tokens(student), tokens(teacher), row_bytes=ROW)


def whole(pair):
    batch = rows(*pair)
    return batch.batch(range(len(batch)))


def forward(student, teacher, batch, **parts):
    return PairedForward(TransferStudent(student, **parts), teacher, batch)


def method(name, student, teacher, **weights):
    return Transfer("a teacher", method=name, **weights).objective(tokens(student), tokens(teacher))


def targets(folder, pair, kind, reading="joint"):
    make_teacher(vocabulary=500).save_pretrained(folder)
    KINDS[kind]().save_pretrained(folder)
    return ByteTargets(folder, pair.teacher, reading)


def with_targets(folder, student, teacher, times=1):
    pair = paired_rows(PROSE * times, tokens(student), tokens(teacher), row_bytes=ROW)
    return replace(pair, targets=targets(folder, pair, teacher)).batch(range(len(pair)))


# -- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("student", "teacher"), list(product(LOCAL, LOCAL)))
def test_tokens_of_both_stand_for_the_same_bytes_piece_by_piece(student, teacher):
    own, other = tokens(student), tokens(teacher)
    pieces = list(paired_documents(HARD, own, other, row_bytes=ROW))
    text = b"".join(bytes(piece.byte_ids[1:]).removesuffix(bytes([EOS])) for piece, _ in pieces)
    assert text == "".join(own.normalise(other.normalise(each)) for each in HARD).encode()
    for piece, twin in pieces:
        assert piece.byte_ids.tolist() == twin.byte_ids.tolist() and len(piece) <= ROW and piece.byte_ids[0] == BOS
        for each, table in ((piece, own), (twin, other)):
            ends = each.boundary.nonzero()[0]
            starts = [0, *(ends[:-1] + 1)]
            spelled = [bytes(each.byte_ids[start : end + 1]) for start, end in zip(starts, ends, strict=True)]
            known = {bytes([BOS]): table.bos_token_id, bytes([EOS]): table.eos_token_id}
            for token, text in zip(each.token_ids.tolist(), spelled, strict=True):
                assert known[text] == token if text in known else table.token_bytes[token] == text


@pytest.mark.parametrize(("student", "teacher"), list(product(LOCAL, LOCAL)))
def test_rows_of_targets_lie_at_the_bytes_of_the_students_tokens(student, teacher):
    """The j-th head of a token reads the target of its j-th byte, and nothing beyond its end or the last head."""
    longest = LONGEST if student == "long words" else 3  # the others have few tokens of over ten bytes
    batch = paired_rows(HARD, tokens(student), tokens(teacher), row_bytes=ROW)
    batch = batch.batch(range(len(batch)))
    where_BM = predicted_tokens(batch).roll(1, 1)
    texts = [tokens(student).token_bytes[token] for token in batch.token_ids_BM[where_BM].tolist()]
    assert student == "bytes" or any(len(text) > longest for text in texts)
    flat = batch.byte_ids_BL.flatten().tolist()
    ends = []
    spans = [each.tolist() for each in token_spans(batch, where_BM, longest=longest)]
    for text, places, mask, symbols in zip(texts, *spans, strict=True):
        size = min(max(len(text), 1), longest)
        assert mask == [j < size for j in range(longest)] and not any(symbols[size:])
        assert symbols[:size] == (list(text[:size]) or [END])
        assert places[:size] == list(range(places[0], places[0] + size))
        assert [flat[place] for place in places[:size]] == (list(text[:size]) or [EOS])
        ends.append(places[0] + max(len(text), 1))
    boundary_BL = batch.boundary_BL & (batch.byte_ids_BL != BOS)
    assert [end - 1 for end in ends] == boundary_BL.flatten().nonzero()[:, 0].tolist()


def test_a_text_without_common_ends_is_left_out_and_said(capsys):
    spaces = " " * 150
    kept = list(paired_documents([spaces, "abc"], tokens("bytes"), tokens("gpt2"), row_bytes=40))
    longest = max(map(len, tokens("gpt2").align(spaces).byte_ids.split(1)))
    assert longest == 1 and b"".join(bytes(own.byte_ids) for own, _ in kept).count(b"abc") == 1
    found = capsys.readouterr().out
    assert ("1 documents are left out" in found) == (len(kept) == 1)


def test_tokenizers_that_normalise_differently_are_refused():
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    backend = KINDS["gpt2"]().backend_tokenizer.to_str()
    other = PreTrainedTokenizerFast(tokenizer_object=type(KINDS["gpt2"]().backend_tokenizer).from_str(backend),
                                    bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    other.backend_tokenizer.normalizer = normalizers.NFD()
    with pytest.raises(ValueError, match="normalise the same text differently"):
        paired_rows(["caf\u00e9"], tokens("qwen"), TokenBytes.from_tokenizer(other), row_bytes=ROW)


def test_splitting_a_batch_keeps_both_sides_and_targets_together():
    pair = paired_rows(PROSE * 6, tokens("bytes"), tokens("qwen"), row_bytes=ROW)
    symbol = torch.arange(len(pair))[:, None, None].expand(-1, ROW, 2).short()
    pair = replace(pair, targets=lambda rows: (symbol[list(rows)], symbol[list(rows)].half()))
    batch = pair.batch(range(len(pair)))
    assert len(pair) > 2
    for number, part in enumerate(batch.split(1)):
        alone = pair.batch([number])
        assert torch.equal(part.teacher.byte_ids_BL, part.byte_ids_BL)
        assert all(torch.equal(getattr(part, name), getattr(alone, name)) for name in ("token_ids_BM", "symbol_BLK"))
        assert torch.equal(part.teacher.token_ids_BM, alone.teacher.token_ids_BM)


# -- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_a_head_reads_the_bytes_before_only_and_the_parallel_one_none(name):
    torch.manual_seed(0)
    head = HEADS[name](32)
    hidden_TE, symbol_TJ = torch.randn(3, 32), torch.randint(0, 256, (3, LONGEST))
    logits = head(hidden_TE, symbol_TJ)
    assert logits.shape == (3, LONGEST, SYMBOLS)
    changed = symbol_TJ.clone()
    changed[:, 4] += 1
    differs_J = (head(hidden_TE, changed) - logits).abs().amax((0, 2)) > 1e-6
    assert not differs_J[:5].any() and differs_J[5].item() == (name != "parallel")
    assert ((head(hidden_TE + 1, symbol_TJ) - logits).abs().amax((0, 2)) > 1e-6).all()


@pytest.mark.parametrize("name", HEADS)
def test_no_head_changes_a_token_logit_and_none_is_saved(name, tmp_path):
    plain = make_teacher(vocabulary=500)
    student = TransferStudent(make_teacher(vocabulary=500), head=name)
    tokens_1M = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.equal(student.student(tokens_1M).logits, plain(tokens_1M).logits)
        student.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(loaded(tokens_1M).logits, plain(tokens_1M).logits)
    assert loaded.state_dict().keys() == plain.state_dict().keys()


def test_what_lies_beyond_a_tokens_end_changes_no_loss(tmp_path):
    torch.manual_seed(0)
    batch = with_targets(tmp_path, "qwen", "llama3")
    head = torch.nn.Module()
    head.forward = lambda hidden_TE, symbol_TJ: logits_TJS
    model = TransferStudent(make_teacher(vocabulary=500))
    model.byte_head = head
    way = PairedForward(model, None, batch)
    logits_TJS = torch.randn(*way.spans.mask_TJ.shape, SYMBOLS, requires_grad=True)
    for weight, term in method("bld", "qwen", "llama3").terms[1:]:
        logits_TJS.grad = None
        term.loss(PairedForward(model, None, batch), term.where(batch))[0].backward()
        moved_TJ = logits_TJS.grad.abs().sum(-1) > 0
        assert weight and torch.equal(moved_TJ, way.spans.mask_TJ) and not moved_TJ.all()


# -- losses -----------------------------------------------------------------------------------------------------------


def test_the_divergence_of_kept_symbols_by_hand_and_never_above_the_whole():
    torch.manual_seed(0)
    logits_NS, whole_NS = torch.randn(5, SYMBOLS), torch.randn(5, END + 1).mul(4).softmax(-1)
    full = (whole_NS * (whole_NS.log() - logits_NS.log_softmax(-1)[:, : END + 1])).sum()
    found = [byte_divergence(logits_NS, *reversed(whole_NS.topk(kept))).item() for kept in (2, 16, END + 1)]
    assert found[0] < found[1] < found[2] == pytest.approx(full.item(), rel=1e-4)
    prob_NK, symbol_NK = whole_NS.topk(2)
    student_NK = logits_NS.softmax(-1).gather(1, symbol_NK)
    p, q = (torch.cat([each, 1 - each.sum(1, keepdim=True)], 1) for each in (prob_NK, student_NK))
    assert found[0] == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-4)
    same_NS = torch.nn.functional.pad(whole_NS.log(), (0, SYMBOLS - END - 1), value=-1e4)
    assert byte_divergence(same_NS, *reversed(whole_NS.topk(16))) == pytest.approx(0, abs=1e-5)


def one_chunk_loss(log_p, log_q, temperature, monkeypatch):
    """ALM's divergence of chunks of these log-probabilities, of which words follow for sure."""
    chunks = iter([(log_q, torch.zeros_like(log_q)), (log_p, torch.zeros_like(log_p))])
    monkeypatch.setattr("dbyte.transfer.methods.chunk_log_probs", lambda *arguments: next(chunks))
    batch = whole(("qwen", "qwen"))
    way = forward(make_teacher(vocabulary=500), make_teacher(vocabulary=500), batch)
    return chunk_loss(way, chunk_ends(batch), starts=(None, None), temperature=temperature, gamma=0.0)[0]


def test_the_binarised_divergence_is_that_of_two_coins_and_keeps_its_size(monkeypatch):
    log_p, log_q = torch.tensor([-0.5, -3.0, -40.0]), torch.tensor([-1.0, -3.0, -2.0])
    p, q = log_p.double().exp(), log_q.double().exp()
    coins = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    limit = (log_p - log_q) + log_p * (log_q / log_p).log()
    for place in range(3):
        pair = log_p[place, None], log_q[place, None]
        found = one_chunk_loss(*pair, 1.0, monkeypatch)
        torch.testing.assert_close(found.double(), coins[place], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one_chunk_loss(*pair, 1e4, monkeypatch), limit[place], rtol=0.05, atol=1e-3)


def test_with_equal_tokenizers_chunks_are_tokens_and_alm_compares_their_probabilities():
    teacher, student = make_teacher(vocabulary=500), make_teacher("qwen3", vocabulary=500)
    batch = whole(("qwen", "qwen"))
    assert chunk_ends(batch).sum() == predicted_tokens(batch).sum()
    anywhere = torch.ones(500, dtype=torch.bool)  # a word may begin with any token: nothing is weighed
    settings = dict(starts=(anywhere, anywhere), temperature=1.0, gamma=0.0)
    found, count = chunk_loss(forward(student, teacher, batch), chunk_ends(batch), **settings)
    predicts_BM = predicted_tokens(batch)
    next_T1 = batch.token_ids_BM.roll(-1, 1)[predicts_BM][:, None]
    log_p, log_q = (model.get_output_embeddings()(language_model(model, batch))[predicts_BM].log_softmax(-1)
                    .gather(1, next_T1).double() for model in (teacher, student))
    p, q = log_p.exp(), log_q.exp()
    coins = p * (log_p - log_q) + (1 - p) * torch.log((1 - p) / (1 - q))
    torch.testing.assert_close(found.double(), coins.sum(), rtol=1e-3, atol=1e-3)
    assert count == predicts_BM.sum()
    same = chunk_loss(forward(teacher, teacher, batch), chunk_ends(batch), **settings)[0]
    assert abs(same) < 1e-4 < found


def test_the_byte_terms_add_up_to_plain_distillation_over_tokens():
    """With equal tokenizers: the divergence of tokens is that of their bytes, each after the bytes before it."""
    vocabulary = ByteTeacher(make_teacher(vocabulary=500), KINDS["qwen"]()).vocabulary
    hidden = {name: torch.randn(1, 32) for name in ("teacher", "student")}
    head_VE = torch.randn(500, 32)
    sorted_VE = head_VE[vocabulary.id_V]
    spelled = [token for token in range(500) if vocabulary.text_of[token]]
    rows = {name: within_token.log_probs(each.expand(len(spelled), -1), sorted_VE, spelled, vocabulary)
            for name, each in hidden.items()}
    sizes = [len(vocabulary.text_of[token]) for token in spelled]
    by_row = (torch.xlogy(rows["teacher"].exp(), rows["teacher"].exp())
              - rows["teacher"].exp() * rows["student"].clamp(min=-1e4)).sum(1)
    by_token = torch.stack([each.sum() for each in by_row.split(sizes)])
    log_V = {name: (each @ head_VE.T)[0].log_softmax(0) for name, each in hidden.items()}
    stop = [token for token in range(500) if not vocabulary.text_of[token]]
    stop_p, stop_q = (log_V[name][stop].logsumexp(0) for name in ("teacher", "student"))
    # the bytes do not tell special tokens apart: they are one symbol, which has its first byte's row alone
    grouped_p, grouped_q = (torch.cat([log_V[name][spelled], each[None]])[None]
                            for name, each in (("teacher", stop_p), ("student", stop_q)))
    expected = forward_kl(grouped_q, grouped_p)[0]
    end = within_token.log_probs(hidden["teacher"], sorted_VE, stop[:1], vocabulary)
    other = within_token.log_probs(hidden["student"], sorted_VE, stop[:1], vocabulary)
    of_end = (torch.xlogy(end.exp(), end.exp()) - end.exp() * other.clamp(min=-1e4)).sum()
    found = (log_V["teacher"][spelled].exp() * by_token).sum() + stop_p.exp() * of_end
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_sft_is_next_token_cross_entropy_and_bld_adds_its_bytes(tmp_path):
    student = make_teacher("qwen3", vocabulary=500)
    batch = with_targets(tmp_path, "qwen", "llama3")
    both = "qwen", "llama3"
    model = TransferStudent(student, head="parallel")
    sums = {name: method(name, *both).sums(model, None, batch) for name in ("sft", "byte_ce", "bld")}
    mask = predicted_tokens(batch)
    expected, _ = sliced_losses.next_token(language_model(student, batch)[mask], student.lm_head.weight,
                                           batch.token_ids_BM.roll(-1, 1)[mask])
    assert sums["sft"][0] == expected and len(sums["sft"]) == 1
    assert sums["bld"][:2] == sums["byte_ce"] and sums["bld"][2] > 0
    halved = method("bld", *both, byte_weight=0.5, kl_weight=1.0).sums(model, None, batch)
    torch.testing.assert_close(torch.stack(halved), torch.stack(sums["bld"]) * torch.tensor([1, 0.5, 10]))
    assert {count.item() for count in method("bld", *both).counts(batch)} == {mask.sum().item()}


def tokens_of(batch, row):
    """(number of the token before it, places of its bytes) of each token that is predicted."""
    ends = batch.boundary_BL[row].nonzero()[:, 0].tolist()
    return [(number, range(first + 1, last + 1)) for number, (first, last) in enumerate(pairwise(ends))
            if batch.document_BL[row, first] == batch.document_BL[row, last]]


@torch.no_grad()
def test_the_byte_terms_of_bld_by_hand(tmp_path):
    """Eq. 5: map j reads the state that predicts a token, and says its byte j, up to the tenth."""
    pair = paired_rows([f"{WORD}s {WORD} be", "naïve 😀"], tokens("long words"), tokens("qwen"), row_bytes=64)
    batch = replace(pair, targets=targets(tmp_path, pair, "qwen")).batch(range(len(pair)))
    model = TransferStudent(make_teacher("qwen3", vocabulary=500), head="parallel")
    sums = method("bld", "long words", "qwen").sums(model, None, batch)
    hidden_BME, maps = language_model(model.student, batch), model.byte_head.maps
    assert maps.weight.shape == (10 * 260, 32)
    token, ce, kl, sizes = 0.0, 0.0, 0.0, []
    for row in range(len(pair)):
        for number, places in tokens_of(batch, row):
            state_E = hidden_BME[row, number]
            token -= (model.student.lm_head.weight @ state_E).log_softmax(0)[batch.token_ids_BM[row, number + 1]]
            sizes.append(len(places))
            for j, place in enumerate(places[:10]):
                rows = slice(260 * j, 260 * (j + 1))
                log_S = (maps.weight[rows] @ state_E + maps.bias[rows]).log_softmax(0)
                byte = int(batch.byte_ids_BL[row, place])
                ce -= log_S[256 if byte == EOS else byte]
                symbol_K, prob_K = batch.symbol_BLK[row, place].long(), batch.prob_BLK[row, place].double()
                rest, other = 1 - prob_K.sum(), 1 - log_S[symbol_K].double().exp().sum()
                kl += (torch.xlogy(prob_K, prob_K) - prob_K * log_S[symbol_K]).sum()
                kl += torch.xlogy(rest, rest / other) if rest > 0 else 0
    assert max(sizes) > 10 and min(sizes) == 1
    expected = torch.stack([token, ce, 0.1 * kl]).double()
    torch.testing.assert_close(torch.stack(sums).double(), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_terms_of_alm_by_hand():
    """A chunk and a word after it are one event; those that no word may follow count as zero; states are compared."""
    temperature = 5.0
    batch = paired_rows(PROSE, tokens("olmo2"), tokens("llama3"), row_bytes=ROW)
    batch = batch.batch(range(len(batch)))
    models = make_teacher("qwen3", vocabulary=500), make_teacher(vocabulary=500)
    student = TransferStudent(models[0], teacher_width=32)
    student.projection.weight.normal_()
    for model in models:
        torch.nn.init.uniform_(model.model.norm.weight, 0, 3)  # so that states differ in size
    sides = []
    for model, kind, side in zip(models, ("olmo2", "llama3"), (batch, batch.teacher), strict=True):
        table = tokens(kind).token_bytes
        starts_V = torch.tensor([not text or text[:1].isspace() for text in table] + [True] * (500 - len(table)))
        hidden_BME = language_model(model, side)
        log_BMV = model.lm_head(hidden_BME).double().log_softmax(-1)
        chunks, log = {}, 0.0
        for row in range(len(batch.byte_ids_BL)):
            for number, places in tokens_of(side, row):
                log = log + log_BMV[row, number, side.token_ids_BM[row, number + 1]]
                end = places[-1]
                if batch.boundary_BL[row, end] and batch.teacher.boundary_BL[row, end]:
                    closed = batch.byte_ids_BL[row, end] == EOS
                    word = torch.zeros(()) if closed else log_BMV[row, number + 1, starts_V].logsumexp(0)
                    chunks[row, end] = log, word, hidden_BME[row, number + 1].double()
                    log = 0.0
        sides.append(chunks)
    assert sides[0].keys() == sides[1].keys()
    words = sorted(word.exp().item() for _, word, _ in sides[1].values())
    gamma = sum(words[len(words) // 2 - 1 : len(words) // 2 + 1]) / 2  # half of the chunks count, not their ends alone
    found = method("alm", "olmo2", "llama3", temperature=temperature, gamma=gamma).sums(student, models[1], batch)
    divergence, distance, dropped = 0.0, 0.0, 0
    for (log_q, word_q, student_E), (log_p, word_p, teacher_E) in zip(*(each.values() for each in sides), strict=True):
        p, q = ((log + word).div(temperature).exp() for log, word in ((log_p, word_p), (log_q, word_q)))
        counted = word_p.exp() > gamma
        dropped += not counted
        divergence += counted * temperature * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
        difference_E = student.projection.weight.double() @ student_E - teacher_E
        distance += difference_E.square().sum() / teacher_E.square().sum()
    assert 0 < dropped < 0.6 * len(sides[0])
    torch.testing.assert_close(torch.stack(found).double(), torch.stack([divergence, distance]), rtol=1e-3, atol=1e-3)


def test_alm_counts_chunks_and_drops_those_before_no_word():
    teacher, student = make_teacher(vocabulary=500), make_teacher("qwen3", vocabulary=500)
    batch = whole(("bytes", "llama3"))
    model = TransferStudent(with_vocabulary(student, tokens("qwen"), ByteTokenizer()), teacher_width=32)
    found = {gamma: method("alm", "bytes", "llama3", gamma=gamma).sums(model, teacher, batch)
             for gamma in (0.0, 0.1, 0.999)}
    assert found[0.0][0] > found[0.1][0] > found[0.999][0] >= 0
    assert (chunk_ends(batch).sum() == torch.stack(method("alm", "bytes", "llama3").counts(batch))).all()
    assert chunk_ends(batch).sum() < predicted_tokens(batch).sum()


@pytest.mark.parametrize("name", ["bld", "alm_sft", "gold"])
def test_a_loss_is_that_of_its_micro_batches(name, tmp_path):
    torch.manual_seed(0)
    batch = with_targets(tmp_path, "bytes", "llama3", times=6)
    teacher, student = make_teacher(vocabulary=500), make_teacher("qwen3", vocabulary=500)
    model = TransferStudent(with_vocabulary(student, tokens("qwen"), ByteTokenizer()), head="parallel",
                            teacher_width=32)
    torch.nn.init.uniform_(teacher.model.norm.weight, 0, 3)  # so that its states differ in size
    objective = method(name, "bytes", "llama3")
    parts = [torch.stack(objective.sums(model, teacher, part)) for part in batch.split(1)]
    assert len(parts) > 1
    torch.testing.assert_close(sum(parts), torch.stack(objective.sums(model, teacher, batch)), rtol=1e-4, atol=1e-4)


def spans_of(sides):
    """By the place of its end: for each side (state before its first token, its log-probability, its tokens)."""
    found = []
    for model, side, ends_BL in sides:
        hidden_BME = language_model(model, side)
        log_BMV = model.get_output_embeddings()(hidden_BME).double().log_softmax(-1)
        spans, open_span = {}, []
        for row in range(len(side.byte_ids_BL)):
            for number, places in tokens_of(side, row):
                open_span.append((row, number))
                if ends_BL[row, places[-1]]:
                    log = sum(log_BMV[row, each, side.token_ids_BM[row, each + 1]] for row, each in open_span)
                    spans[row, places[-1]] = log_BMV[open_span[0]], log, len(open_span)
                    open_span = []
        found.append(spans)
    assert found[0].keys() == found[1].keys()
    return list(zip(*(each.values() for each in found), strict=True))


@pytest.mark.parametrize("pair", [("long words", "llama3"), ("qwen", "qwen"), ("bytes", "llama3")])
def test_gold_compares_common_tokens_in_full_and_merged_spans_by_their_probability(pair):
    """And the gradient is that of this sum, where tokens that one side lacks are one event."""
    batch = whole(pair)
    teacher, student = make_teacher(vocabulary=500), make_teacher("qwen3", vocabulary=500)
    for model in (teacher, student):
        torch.nn.init.normal_(model.get_output_embeddings().weight)  # so that distributions are far from even
    table, other = map(tokens, pair)
    closing = {b"": table.eos_token_id}, {b"": other.eos_token_id}
    own, ids = ({text: number for number, text in enumerate(each.token_bytes) if text} | last
                for each, last in zip((table, other), closing, strict=True))
    common = list(zip(*((own[text], ids[text]) for text in own.keys() & ids.keys()), strict=True))
    found, count = method("gold", *pair).terms[0][1].loss(forward(student, teacher, batch), chunk_ends(batch))
    spans = spans_of([(student, batch, chunk_ends(batch)), (teacher, batch.teacher, chunk_ends(batch))])
    expected, merged = 0.0, 0
    for (own_V, log_q, number), (other_V, log_p, other_number) in spans:
        merged += not number == other_number == 1
        likely, contrary = zip(*(
            (each_V.exp()[list(known)], each_V.exp().index_fill(0, torch.tensor(known), 0).sum())
            if number == other_number == 1 else (log.exp()[None], -torch.expm1(log))
            for each_V, log, known in zip((own_V, other_V), (log_q, log_p), common, strict=True)), strict=True)
        q, p = (torch.cat([one, rest[None].clamp(min=1e-6)]) for one, rest in zip(likely, contrary, strict=True))
        mean = (p + q) / 2
        expected = expected + (torch.xlogy(p, p / mean) + torch.xlogy(q, q / mean)).sum() / 2
    assert count == len(spans) and (merged > 0) == (pair[0] != pair[1]) and merged < len(spans)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(each, list(student.parameters()), retain_graph=True) for each in (found, expected)]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3 * two.abs().max().item())


def test_gold_of_a_teacher_by_itself_is_nothing():
    teacher = make_teacher(vocabulary=500)
    batch = whole(("qwen", "qwen"))
    assert abs(method("gold", "qwen", "qwen").sums(TransferStudent(teacher), teacher, batch)[0]) < 1e-4


def test_a_word_may_follow_where_a_document_is_cut_and_nothing_follows_its_end():
    teacher = make_teacher(vocabulary=500)
    batch = paired_rows(["All human beings are born free."], tokens("qwen"), tokens("qwen"), row_bytes=20)
    batch = batch.batch(range(len(batch)))
    starts_V = starts_a_word(tokens("qwen"))
    ends_BL = chunk_ends(batch)
    with torch.no_grad():
        hidden_BME = language_model(teacher, batch)
        _, word_C = chunk_log_probs(batch, ends_BL, hidden_BME, teacher, starts_V)
        padded_V = F.pad(starts_V, (0, 500 - len(starts_V)), value=True)
        plain_BM = teacher.lm_head(hidden_BME).log_softmax(-1)[..., padded_V].logsumexp(-1)
    last_BM = batch.token_mask_BM & ~predicted_tokens(batch)
    cut_B, closed_B = plain_BM[last_BM], batch.byte_ids_BL[ends_BL] == EOS
    assert len(cut_B) > 1 and closed_B.sum() == 1 and closed_B[-1] and word_C[-1] == 0
    assert all(torch.isclose(word_C, each).any() for each in cut_B[:-1]), "the last row ends with the document"


def test_alm_alone_teaches_a_student_what_its_teacher_says():
    teacher, student = make_teacher(vocabulary=500), make_teacher("qwen3", vocabulary=500)
    batch = whole(("bytes", "llama3"))
    objective = method("alm", "bytes", "llama3", gamma=0.0)
    model = TransferStudent(with_vocabulary(student, tokens("qwen"), ByteTokenizer()), teacher_width=32)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses_by_step = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = objective(model, teacher, batch)
        loss.backward()
        optimiser.step()
        losses_by_step.append(loss.item())
    assert losses_by_step[-1] < 0.6 * losses_by_step[0]


# -- the teacher's bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", ["coverings", "beam", "joint"])
def test_a_rows_targets_are_the_teachers_readings_of_its_documents(reading):
    teacher = ByteTeacher(make_teacher(vocabulary=500), KINDS["llama3"]())
    row = rows("bytes", "llama3").teacher.batch([0])
    table_LS = byte_table(teacher, row, reading)
    data = [bytes(row.byte_ids_BL[0, row.document_BL[0] == number].tolist()) for number in row.document_BL[0].unique()
            if number >= 0]
    expected = [teacher.read(each[1:-1], reading).log_prob_RS if reading != "joint" else None for each in data]
    assert data[0].endswith(bytes([EOS])) and len(data) > 1
    for number, one in enumerate(expected):
        found = table_LS[row.document_BL[0] == number]
        assert (found[0] == -torch.inf).all()
        torch.testing.assert_close(found[1:].exp().sum(1), torch.ones(len(found) - 1), rtol=0, atol=1e-5)
        if one is not None:
            torch.testing.assert_close(found[1:].exp(), one.exp(), rtol=0, atol=1e-5)
        else:  # along tokens, a token's first byte is as likely as all tokens that begin with it
            log_V = teacher.model(row.token_ids_BM).logits[0, 0].log_softmax(-1)
            starts = torch.tensor([text[:1] == data[0][1:2] for text in teacher.vocabulary.text_of])
            if number == 0:
                assert found[1, data[0][1]] == pytest.approx(log_V[starts].logsumexp(0).item(), abs=1e-4)


@pytest.mark.parametrize("reading", ["coverings", "beam", "joint"])
def test_precomputed_targets_are_those_on_the_fly_and_an_interrupted_call_goes_on_to_the_same_bits(
        reading, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dbyte.transfer.byte_targets.SHARD_ROWS", 1)
    pair = paired_rows(["All human beings", "naïve 😀", "1 + 2 = 3."], tokens("bytes"), tokens("qwen"), row_bytes=24)
    assert len(pair) == 3
    now = targets(tmp_path / "teacher", pair, "qwen", reading)

    def shards(name):
        monkeypatch.setattr("dbyte.transfer.byte_targets.RUNS", tmp_path / name)
        return Shards(replace(now))  # one of its own, since it remembers its folder

    def contents(shards):
        return {path.relative_to(shards.folder): path.read_bytes() for path in shards.folder.rglob("*.*")}

    whole, read, asked = shards("whole").complete(), ByteTargets._of_row, []
    assert "teacher" not in vars(whole.targets), "its weights are let go"

    def twice(self, number):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(number)
        return read(self, number)

    monkeypatch.setattr(ByteTargets, "_of_row", twice)
    with pytest.raises(KeyboardInterrupt):
        (broken := shards("broken")).complete()
    monkeypatch.setattr(ByteTargets, "_of_row", read)
    kept, damaged = sorted(broken.folder.rglob("targets.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x7f")
    before = kept.stat().st_mtime_ns
    broken.complete()
    assert kept.stat().st_mtime_ns == before
    assert "00001/targets.safetensors is damaged; 00001 is not used" in capsys.readouterr().err
    assert contents(whole) == contents(broken) and len(contents(whole)) == 6
    monkeypatch.setattr(ByteTargets, "_of_row", lambda self, number: pytest.fail("nothing is missing"))
    again = shards("broken").complete()
    assert "teacher" not in vars(again.targets), "it is not even loaded"
    monkeypatch.setattr(ByteTargets, "_of_row", read)
    for one, other in zip(again([2, 0, 1]), now([2, 0, 1]), strict=True):
        assert torch.equal(one, other) and one.any()


# -- LoRA and vocabularies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_merged_adapters_say_what_applied_ones_say(tied, tmp_path):
    plain = make_teacher(vocabulary=500, tied=tied)
    student = TransferStudent(make_teacher(vocabulary=500, tied=tied), rank=4, head="parallel")
    adapters = {name: weight for name, weight in student.named_parameters() if ADAPTER in name}
    tokens_1M = torch.arange(24)[None]
    with torch.no_grad():
        for weight in adapters.values():
            weight.normal_(0, 0.2)
        applied = student.student(tokens_1M).logits
        student.save_pretrained(tmp_path, state_dict=merged_state(student))
        flat = AutoModelForCausalLM.from_pretrained(tmp_path)
        torch.testing.assert_close(flat(tokens_1M).logits, applied, rtol=1e-4, atol=1e-4)
        assert torch.equal(student.student(tokens_1M).logits, applied)
        assert not torch.allclose(applied, plain(tokens_1M).logits, atol=1e-2)
    assert flat.state_dict().keys() == plain.state_dict().keys()
    assert len(adapters) == 2 * 2 * 2, "query and value of two layers, two matrices each"
    assert all(".q_proj." in name or ".v_proj." in name for name in adapters)


@pytest.mark.parametrize("init", ["mean", "fvt", "mined"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_with_its_own_tokenizer_again_says_the_same(init, tied):
    model = make_teacher(vocabulary=500, tied=tied)
    again = with_vocabulary(model, tokens("qwen"), KINDS["qwen"](), init=init)
    spelled = torch.tensor([token for token, text in enumerate(tokens("qwen").token_bytes) if text])
    with torch.inference_mode():
        found, expected = (each(spelled[None, :60]).logits[..., spelled] for each in (again, model))
        assert torch.equal(found, expected)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied


def test_new_tokens_begin_as_the_mean_of_what_spells_them():
    old, new = tokens("qwen"), tokens("llama3")
    for init in ("mean", "fvt"):
        for token, found in enumerate(old_tokens(new, old, init)):
            if new.token_bytes[token]:
                assert b"".join(old.token_bytes[each] for each in found) == new.token_bytes[token]
    found = old_tokens(new, old, "mean")
    assert (found[new.bos_token_id], found[new.eos_token_id]) == ([old.bos_token_id], [old.eos_token_id])
    table = torch.randn(len(old), 8)
    rows = averaged(table, [[3, 5], [], [7]])
    torch.testing.assert_close(rows, torch.stack([table[[3, 5]].mean(0), table.mean(0), table[7]]))


def test_fast_vocabulary_transfer_splits_a_token_as_the_text_that_it_is():
    old = TokenBytes.from_tokenizer(train_tokenizer(["b    b"] * 9, vocabulary=258 + 2))  # two spaces, then space and b
    new = TokenBytes((b"  b", b"", b""), bos_token_id=1, eos_token_id=2)
    pieces = {init: [old.token_bytes[token] for token in old_tokens(new, old, init)[0]] for init in ("mean", "fvt")}
    assert pieces == {"mean": [b"  ", b"b"], "fvt": [b" ", b" b"]}


@pytest.mark.parametrize("init", ["mean", "fvt", "mined"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_token_that_is_both_begins_as_the_old_bos_where_texts_open_and_as_the_old_eos_where_they_end(init, tied):
    old, new, plain = tokens("llama3"), tokens("gpt2"), make_teacher(vocabulary=500, tied=tied)
    assert old.bos_token_id != old.eos_token_id and new.bos_token_id == (both := new.eos_token_id)
    model = with_vocabulary(make_teacher(vocabulary=500, tied=tied), old, KINDS["gpt2"](), init=init)
    read_VE, written_VE = (part().weight for part in (model.get_input_embeddings, model.get_output_embeddings))
    if tied:
        bos_E, eos_E = plain.get_input_embeddings().weight[[old.bos_token_id, old.eos_token_id]]
        assert torch.equal(read_VE[both], (bos_E + eos_E) / 2) and written_VE is read_VE
        return
    assert torch.equal(read_VE[both], plain.get_input_embeddings().weight[old.bos_token_id])
    assert torch.equal(written_VE[both], plain.get_output_embeddings().weight[old.eos_token_id])
    with torch.inference_mode():  # so an empty text is as likely as it was
        found, wanted = (each(torch.tensor([[bos]])).logits[0, 0, eos] for each, bos, eos in (
            (model, both, both), (plain, old.bos_token_id, old.eos_token_id)))
    torch.testing.assert_close(found, wanted)  # a table of another size may be multiplied in another order


def test_fresh_embeddings_are_those_of_their_seed():
    def begun(seed):
        model = with_vocabulary(make_teacher(vocabulary=500), tokens("qwen"), ByteTokenizer(), init="fresh", seed=seed)
        return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()

    one, again, other = begun(1), begun(1), begun(2)
    assert all(map(torch.equal, one, again)) and not any(map(torch.equal, one, other)) and not torch.equal(*one)
    assert all(table.std().item() == pytest.approx(0.2, rel=0.05) for table in one), "the model's own initial spread"


def test_mined_takes_the_token_with_the_smallest_edit_distance():
    def distance(one, two):
        row = list(range(len(two) + 1))
        for i, a in enumerate(one, start=1):
            before, row[0] = row[0], i
            for j, b in enumerate(two, start=1):
                before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
        return row[-1]

    old, new = tokens("qwen"), tokens("llama3")
    found = old_tokens(new, old, "mined")
    texts = [text for text in old.token_bytes if text]
    for token in range(300, 340):
        (chosen,) = found[token]
        least = min(distance(new.token_bytes[token], text) for text in texts)
        assert distance(new.token_bytes[token], old.token_bytes[chosen]) == least


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("kind", ["bytes", "gpt2"])
def test_a_new_vocabulary_is_saved_as_any_model_and_loaded_with_its_tokenizer(init, kind, tmp_path):
    model = with_vocabulary(make_teacher(vocabulary=500), tokens("qwen"), LOCAL[kind](), init=init)
    model.save_pretrained(tmp_path)
    LOCAL[kind]().save_pretrained(tmp_path)
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("naïve 中文", add_special_tokens=False).input_ids
    assert tokens(kind).decode(ids) == "naïve 中文".encode() and len(tokenizer) == model.config.vocab_size
    with torch.inference_mode():
        assert torch.equal(loaded(torch.tensor([ids])).logits, model(torch.tensor([ids])).logits)
    assert loaded.config.eos_token_id == tokenizer.eos_token_id and isinstance(loaded, type(model))


def test_the_byte_tokenizer_spells_any_text_with_its_bytes():
    table = tokens("bytes")
    for text in HARD:
        assert table.align(text).token_ids.tolist() == list(text.encode())
    assert (table.bos_token_id, table.eos_token_id, len(table)) == (254, 255, 256)


@pytest.mark.parametrize(("wrong", "match"), [
    (lambda: with_vocabulary(make_teacher(), tokens("qwen"), ByteTokenizer(), init="best"), "unknown init"),
    (lambda: Transfer("t", reading="exact"), "unknown reading 'exact': choose one of coverings, beam, joint"),
    (lambda: Transfer("t", init="best"), "unknown init"),
    (lambda: Transfer("t", method="dskd"), "choose one of sft, byte_ce, bld, alm, alm_sft"),
    (lambda: Transfer("t", kl_weight=-1), "must be at least 0"),
    (lambda: Transfer("t", temperature=0), "temperature above 0"),
    (lambda: Transfer("t", gamma=1), "gamma in"),
])
def test_wrong_settings_are_errors(wrong, match):
    with pytest.raises(ValueError, match=match):
        wrong()
