"""Tokens against bytes: exact for every text, one boundary a token, and no tokenizer that cannot be exact."""

import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_tokenizers import KINDS, SCRIPTS, TEXTS, byte_level_bpe, llama3, olmo2, qwen
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from dbyte.text.exact import UTF8_BYTES, byte_of_character
from dbyte.text.spans import BOS, EOS, TokenBytes

UDHR = Path(os.environ.get("DBYTE_SHARED", Path(__file__).parents[2] / "shared")) / "data/text/nltk_udhr2"


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind):
    return KINDS[kind]()


@pytest.fixture(scope="module")
def token_bytes(tokenizer):
    return TokenBytes.from_tokenizer(tokenizer)


def assert_exact(token_bytes, text, aligned):
    """The contract, checked the slow way: token after token."""
    target = token_bytes.normalise(text).encode()
    pieces = [token_bytes.token_bytes[token_id] for token_id in aligned.token_ids.tolist()]
    expected = [place == len(piece) - 1 for piece in pieces for place in range(len(piece))]
    assert b"".join(pieces) == bytes(aligned.byte_ids.tolist()) == target
    assert aligned.boundary.tolist() == expected
    assert aligned.boundary.sum() == len(aligned.token_ids)
    assert (aligned.token_ids.dtype, aligned.byte_ids.dtype) == (torch.int64, torch.int64)
    assert aligned.boundary.dtype == torch.bool


def test_every_text_is_exact_in_the_tokenizers_own_tokens(token_bytes, tokenizer, kind):
    alone = {text: token_bytes.align(text) for text in TEXTS.values()}
    many = [*TEXTS.values(), *SCRIPTS.values(), ""] + [*SCRIPTS.values(), ""] * 12  # more than one call of the backend
    for text, aligned in zip(many, token_bytes.align_batch(many), strict=True):
        assert all(torch.equal(getattr(aligned, name), getattr(alone[text], name)) for name in vars(aligned))
    for text, aligned in alone.items():
        assert_exact(token_bytes, text, aligned)
        target = unicodedata.normalize("NFC", text) if kind == "qwen" else text
        assert token_bytes.normalise(text) == target
        assert token_bytes.decode(aligned.token_ids) == target.encode()
        own = tokenizer(target, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert aligned.token_ids.tolist() == own
    assert token_bytes.align_batch([]) == []
    empty = token_bytes.align("")
    assert empty.token_ids.shape == empty.byte_ids.shape == empty.boundary.shape == (0,)


def test_random_texts_are_exact(token_bytes):
    random_ = random.Random(0)
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    texts = ["".join(chr(random_.randint(*random_.choice(ranges))) for _ in range(40)) for _ in range(300)]
    for text, aligned in zip(texts, token_bytes.align_batch(texts), strict=True):
        assert_exact(token_bytes, text, aligned)


def test_special_tokens_written_out_are_plain_text(token_bytes, tokenizer, tmp_path):
    text = "".join(f"a{special}b {special}" for special in tokenizer.all_special_tokens)
    assert set(tokenizer(text)["input_ids"]) & set(tokenizer.all_special_ids), "the text must tempt the tokenizer"
    assert not set(token_bytes.align(text).token_ids.tolist()) & set(np.flatnonzero(token_bytes.lengths == 0))
    tokenizer.save_pretrained(tmp_path)
    for split in (False, True):
        loaded = TokenBytes.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path, split_special_tokens=split))
        assert torch.equal(loaded.align(text).token_ids, token_bytes.align(text).token_ids)
        assert loaded.content_hash == token_bytes.content_hash


def test_building_and_aligning_leave_the_callers_tokenizer_alone(tmp_path):
    llama3().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    token_bytes = TokenBytes.from_tokenizer(tokenizer)
    before = tokenizer("a<|end_of_text|>")["input_ids"]
    whole = token_bytes.align("a<|end_of_text|> and more")
    assert tokenizer("a<|end_of_text|>")["input_ids"] == before
    tokenizer("a b c d e f", truncation=True, max_length=2)
    assert torch.equal(token_bytes.align("a<|end_of_text|> and more").token_ids, whole.token_ids)
    rebuilt = TokenBytes.from_tokenizer(tokenizer)  # while truncation is still switched on in the caller's backend
    assert_exact(rebuilt, "a b c d e f", rebuilt.align("a b c d e f"))


def test_what_opens_and_closes_a_document():
    llama, without_bos = TokenBytes.from_tokenizer(llama3()), TokenBytes.from_tokenizer(olmo2())
    assert llama.bos_token_id == llama3().bos_token_id != llama.eos_token_id == llama3().eos_token_id
    assert without_bos.bos_token_id == without_bos.eos_token_id == olmo2().eos_token_id
    for token_bytes in (llama, without_bos):
        assert token_bytes.token_bytes[token_bytes.eos_token_id] == b""


def test_a_chat_tokenizer_without_bos_opens_documents_with_endoftext(tmp_path):
    qwen().save_pretrained(tmp_path)
    chat = AutoTokenizer.from_pretrained(tmp_path, eos_token="<|im_end|>")
    token_bytes = TokenBytes.from_tokenizer(chat)
    assert token_bytes.bos_token_id == chat.convert_tokens_to_ids("<|endoftext|>")
    assert token_bytes.eos_token_id == chat.convert_tokens_to_ids("<|im_end|>")


def test_the_byte_map_is_that_of_the_tokenizers_library():
    assert sorted(byte_of_character()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_of_character().values()) == list(range(256))
    for byte, character in ((0x20, "Ġ"), (0x0A, "Ċ"), (0xC3, "Ã"), (0xAD, "Ń")):
        assert byte_of_character()[character] == byte


def test_bos_and_eos_are_no_bytes_of_utf8():
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)])).encode()
    assert set(everything) == set(UTF8_BYTES) and not {BOS, EOS} & set(UTF8_BYTES)


def test_what_is_no_text_is_named(token_bytes):
    for text in ("a\ud800b", "\udfff"):
        with pytest.raises(ValueError, match=r"lone surrogate \(U\+D"):
            token_bytes.align(text)
    with pytest.raises(ValueError, match="expected a str, found bytes"):
        token_bytes.align(b"abc")


def test_a_table_without_its_tokenizer_decodes_but_cannot_align(token_bytes):
    table = TokenBytes(token_bytes.token_bytes, token_bytes.bos_token_id, token_bytes.eos_token_id)
    assert table == token_bytes and table.content_hash == token_bytes.content_hash
    for call in (table.align, table.normalise):
        with pytest.raises(ValueError, match="has no tokenizer"):
            call("text")
    for wrong in (-1, len(token_bytes)):
        with pytest.raises(ValueError, match=f"token id {wrong} is outside"):
            token_bytes.decode([0, wrong])
    with pytest.raises(ValueError, match="eos_token_id 9999 is not an id"):
        TokenBytes(token_bytes.token_bytes, 0, 9999)


def test_the_hash_sees_every_part(token_bytes):
    table = list(token_bytes.token_bytes)
    longest = max(range(len(table)), key=lambda token_id: len(table[token_id]))
    moved = [*table]
    moved[longest], moved[longest - 1] = table[longest - 1], table[longest]
    hashes = {
        TokenBytes(tuple(pieces), bos_token_id=bos, eos_token_id=eos).content_hash
        for pieces, bos, eos in [(table, 0, 1), (moved, 0, 1), (table, 1, 1), (table, 0, 2)]
    }
    assert len(hashes) == 4


def fast(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>", name_or_path="culprit"
    )


def altered(**parts) -> PreTrainedTokenizerFast:
    backend = byte_level_bpe(pattern=None)
    for name, part in parts.items():
        setattr(backend, name, part)
    return fast(backend)


def unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("▁", -1.0)], unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return fast(backend)


def sentence_piece() -> PreTrainedTokenizerFast:
    """Llama 2 and Gemma: BPE over characters with byte fallback."""
    vocabulary = {"<unk>": 0, "▁": 1, "a": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return fast(backend)


def without_alphabet() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.train_from_iterator([SCRIPTS["english"]], trainers.BpeTrainer(vocab_size=100, show_progress=False))
    return fast(backend)


def with_greedy_token() -> PreTrainedTokenizerFast:
    backend = byte_level_bpe(pattern=None)
    backend.add_tokens([AddedToken("<mask>", lstrip=True)])
    return fast(backend)


def with_special_text() -> PreTrainedTokenizerFast:
    """A special token that the model itself emits."""
    backend = byte_level_bpe(pattern=None, ignore_merges=True)
    backend.add_special_tokens([max(filter(str.isascii, backend.get_vocab()), key=len)])
    return fast(backend)


def pre(*steps) -> PreTrainedTokenizerFast:
    return altered(pre_tokenizer=pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)]))


REFUSED = {
    "unigram": (unigram, "model is Unigram"),
    "sentence_piece": (sentence_piece, "0 ByteLevel steps"),
    "prefix space": (lambda: altered(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
                     "add_prefix_space"),
    "nfkc": (lambda: altered(normalizer=normalizers.NFKC()), "NFKC"),
    "accents": (lambda: altered(normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
                r"\(StripAccents\)"),
    "white space": (lambda: pre(pre_tokenizers.WhitespaceSplit()), "WhitespaceSplit"),
    "removing split": (lambda: pre(pre_tokenizers.Split(" ", behavior="removed")), "removes what it splits at"),
    "decoder": (lambda: altered(decoder=decoders.WordPiece()), "decoder is"),
    "dropout": (lambda: fast(byte_level_bpe(pattern=None, dropout=0.1)), "dropout"),
    "special text": (with_special_text, "from byte 0"),
    "greedy token": (with_greedy_token, "'<mask>' swallows"),
}


def test_a_tokenizer_that_lacks_bytes_is_accepted_and_only_text_with_them_is_refused(capsys):
    with pytest.warns(UserWarning, match="tokenizer has no token for 0x00, 0x01, .* and .* more: a text with such"):
        table = TokenBytes.from_tokenizer(without_alphabet())
    text = SCRIPTS["english"]
    assert ord("~") in table.missing_bytes and not set(text.encode()) & set(table.missing_bytes)
    assert table.decode(table.align(text).token_ids) == text.encode()
    for call in (table.align, table.normalise):
        with pytest.raises(ValueError, match=f"holds the byte 0x7E at byte {len(text)}, which tokenizer 'culprit'"):
            call(text + "~")
    assert table.spelled([text, "a~", text]) == [text, text]
    assert "1 of 3 documents hold a byte that tokenizer 'culprit'" in capsys.readouterr().out


def test_a_tokenizer_that_cannot_be_exact_is_refused_by_name():
    for build, reason in REFUSED.values():
        with pytest.raises(ValueError, match=f"'culprit' .*not byte-exact.*: .*{reason}"):
            TokenBytes.from_tokenizer(build())


def test_a_tokenizer_without_backend_or_eos_is_refused_by_name():
    endless = PreTrainedTokenizerFast(tokenizer_object=byte_level_bpe(pattern=None), name_or_path="no-end")
    for tokenizer, reason in ((ByT5Tokenizer(), "ByT5Tokenizer.* no fast backend"),
                              (endless, "'no-end' .*has no EOS token")):
        with pytest.raises(ValueError, match=reason):
            TokenBytes.from_tokenizer(tokenizer)


def test_a_text_that_the_tokenizer_drops_is_caught_and_located():
    drops_digits = pre_tokenizers.Split(Regex("[^0-9]+"), behavior="removed", invert=True)
    token_bytes = TokenBytes.from_tokenizer(pre(drops_digits))
    assert token_bytes.decode(token_bytes.align("abc").token_ids) == b"abc"
    with pytest.raises(ValueError, match="'culprit' .*from byte 2 its tokens join to b'cd', the text has b'7cd'"):
        token_bytes.align_batch(["fine", "ab7cd"])


@pytest.mark.exhaustive
def test_the_declaration_of_human_rights_is_exact_in_every_language(token_bytes):
    files = sorted(UDHR.glob("*.txt"))
    if not files:
        pytest.skip(f"SKIPPED LOUDLY: no texts in {UDHR}; set DBYTE_SHARED to a folder with data/text/nltk_udhr2")
    texts = [path.read_bytes().decode() for path in files]
    for text, aligned in zip(texts, token_bytes.align_batch(texts), strict=True):
        assert_exact(token_bytes, text, aligned)


@pytest.mark.parametrize("content", ["<added>", "e\u0301"])
def test_normalised_text_is_encoded_as_the_tokenizer_itself_encodes_it(content):
    """With an added token too that NFC changes: only where the backend normalises once more is it found."""
    tokenizer = qwen.__wrapped__()  # one of its own: the cached one is everybody's
    tokenizer.add_tokens([AddedToken(content, normalized=True, special=False)])
    table = TokenBytes.from_tokenizer(tokenizer)
    texts = [text + f"{content}x {content}" for text in [*TEXTS.values(), *SCRIPTS.values(), "e\u0301", "\u1100\u1161"]]
    own = table.backend.encode_batch([table.normalise(text) for text in texts], add_special_tokens=False)
    assert [aligned.token_ids.tolist() for aligned in table.align_batch(texts)] == [one.ids for one in own]
    assert all(table.normalise(text) == unicodedata.normalize("NFC", text) for text in texts)
