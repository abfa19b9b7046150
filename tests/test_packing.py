"""Packing: packed content == separate content, no token split, nothing lost, and files that are complete or refused."""

import random

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tiny_tokenizers import EDGES, SCRIPTS, TEXTS, llama3, qwen

from dbyte.text.packing import Batch, Document, Rows, cut, document, pack
from dbyte.text.spans import BOS, EOS, Aligned, TokenBytes

ROW_BYTES = 512


@pytest.fixture(scope="module", params=[llama3, qwen])
def token_bytes(request):
    return TokenBytes.from_tokenizer(request.param())


@pytest.fixture(scope="module")
def documents(token_bytes):
    """Documents of many lengths, some much longer than a row."""
    random_ = random.Random(0)
    sentences = [*SCRIPTS.values()]
    texts = ["\n".join(random_.choices(sentences, k=random_.randint(1, 6))) for _ in range(200)]
    return [document(aligned, token_bytes) for aligned in token_bytes.align_batch([*TEXTS.values(), *texts])]


@pytest.fixture(scope="module")
def rows(documents):
    return pack(documents, row_bytes=ROW_BYTES)


def pieces(rows):
    """Every document of every row, read back from the arrays: (bytes, boundaries, tokens)."""
    for r in range(len(rows)):
        tokens_left = rows.token_ids[r][rows.token_ids[r] >= 0].tolist()
        for index in range(rows.document[r].max() + 1):
            inside = rows.document[r] == index
            boundary = rows.boundary[r][inside]
            tokens, tokens_left = tokens_left[:boundary.sum()], tokens_left[boundary.sum():]
            yield rows.byte_ids[r][inside].tobytes(), tuple(boundary.tolist()), tuple(tokens)
        assert tokens_left == []


def text_bytes(rows):
    return int(((rows.document >= 0) & (rows.byte_ids < BOS)).sum())


def content(each):
    return each.byte_ids.tobytes(), tuple(each.boundary.tolist()), tuple(each.token_ids.tolist())


def made(text: bytes, ends: list[int]) -> Document:
    """A document whose tokens end before the given places of its text; token ids count up from 10."""
    boundary = np.zeros(len(text) + 2, dtype=bool)
    boundary[[0, *ends, -1]] = True
    tokens = np.arange(10, 12 + len(ends), dtype=np.int32)
    return Document(np.frombuffer(bytes([BOS]) + text + bytes([EOS]), dtype=np.uint8), boundary, tokens)


def test_a_document_is_bos_text_eos(token_bytes):
    for text in TEXTS.values():
        aligned = token_bytes.align(text)
        each = document(aligned, token_bytes)
        assert each.byte_ids.tobytes() == bytes([BOS]) + token_bytes.normalise(text).encode() + bytes([EOS])
        assert each.boundary.tolist() == [True, *aligned.boundary.tolist(), True]
        expected = [token_bytes.bos_token_id, *aligned.token_ids.tolist(), token_bytes.eos_token_id]
        assert each.token_ids.tolist() == expected


def test_packed_is_separate_and_every_short_document_is_in_one_row(rows, documents):
    short = sorted(content(each) for each in documents if len(each) <= ROW_BYTES)
    packed = sorted(pieces(rows))
    remaining = list(packed)
    for each in short:
        remaining.remove(each)  # ValueError if it is missing, or there too seldom
    long = [each for each in documents if len(each) > ROW_BYTES]
    assert long, "some documents must be cut"
    assert len(packed) - len(short) == len(remaining) > len(long)


@pytest.mark.parametrize("positions", [None, 3, 50])
def test_pieces_of_a_long_document_join_to_it_split_no_token_and_fit_the_row_and_the_core(documents, positions):
    documents = sorted(documents, key=len)[: 60 if positions else None]
    for each in documents:
        parts = [content(part) for part in cut(each, row_bytes=ROW_BYTES, positions=positions)]
        sizes = [len(tokens) for _, _, tokens in parts]
        assert max(sizes) <= (positions or ROW_BYTES)
        for byte_ids, boundary, _ in parts:
            assert byte_ids[0] == BOS and boundary[0] and boundary[-1] and len(byte_ids) <= ROW_BYTES
            assert set(byte_ids) - {BOS, EOS} or len(each) == 2
        assert b"".join(byte_ids[1:] for byte_ids, _, _ in parts) == each.byte_ids[1:].tobytes()
        assert [flag for _, boundary, _ in parts for flag in boundary[1:]] == each.boundary[1:].tolist()
        assert [token for _, _, tokens in parts for token in tokens[1:]] == each.token_ids[1:].tolist()
        assert [EOS in byte_ids for byte_ids, _, _ in parts] == [False] * (len(parts) - 1) + [True]
        assert {tokens[0] for _, _, tokens in parts} == {each.token_ids[0]}
        if len(each) <= ROW_BYTES:  # cut as late as possible: all but the last two are full
            assert all(size == positions for size in sizes[:-2]) and (positions or len(parts) == 1)
    rows = pack(documents, row_bytes=ROW_BYTES, positions=positions)
    assert not positions or max(len(tokens) for _, _, tokens in pieces(rows)) == positions
    assert text_bytes(rows) == sum(len(each) - 2 for each in documents)


def test_padding_is_a_silent_tail(rows):
    padded = rows.document < 0
    assert padded.any() and (np.diff(padded.astype(int), axis=1) >= 0).all(), "padding is a tail"
    assert not rows.byte_ids[padded].any() and not rows.boundary[padded].any()
    steps = np.diff(rows.document, axis=1)[~padded[:, 1:]]
    assert set(steps.tolist()) <= {0, 1} and (rows.document[:, 0] == 0).all()
    opens = np.pad(np.diff(rows.document, axis=1), ((0, 0), (1, 0)), constant_values=1) == 1
    assert np.array_equal(opens, rows.byte_ids == BOS), "BOS and only BOS opens a document"


def test_best_fit_fills_rows(rows):
    assert (rows.document >= 0).mean() > 0.95
    # A case that first come, first served cannot fill: 60 + 40 in every row.
    halves = [made(b"x" * (size - 2), [size - 2]) for size in [40] * 50 + [60] * 50]
    assert (pack(halves, row_bytes=100).document >= 0).all()
    assert len(pack([made(b"x" * 30, [30])], row_bytes=32)) == 1, "a token fits with BOS and EOS, or without EOS"
    assert len(pack([made(b"x" * 31, [30, 31])], row_bytes=32)) == 2


def test_windows_bound_the_disorder_and_lose_nothing(monkeypatch):
    monkeypatch.setattr("dbyte.text.packing.WINDOW", 16)
    monkeypatch.setattr("dbyte.text.packing.OPEN_ROWS", 4)
    random_ = random.Random(1)
    sizes = [random_.randint(1, 50) for _ in range(500)]
    many = [made(b"%06d" % number + b"x" * size, [6, 6 + size]) for number, size in enumerate(sizes)]
    rows = pack(many, row_bytes=128)
    assert sorted(pieces(rows)) == sorted(map(content, many))
    first = [int(byte_ids[1:7]) for byte_ids in (row.tobytes() for row in rows.byte_ids)]
    assert first == sorted(first)


def test_packing_is_deterministic_and_the_hash_sees_everything(rows, documents):
    assert pack(documents, row_bytes=ROW_BYTES).hash == rows.hash
    for name in ("byte_ids", "boundary", "document", "token_ids"):
        arrays = {each: getattr(rows, each).copy() for each in ("byte_ids", "boundary", "document", "token_ids")}
        arrays[name][0] = np.roll(arrays[name][0], 1)
        assert Rows(**arrays).hash != rows.hash, name
    assert pack(documents[::-1], row_bytes=ROW_BYTES).hash != rows.hash


@pytest.mark.parametrize("documents, sizes, told", [
    ([], {"row_bytes": 64}, "no documents"),
    ([made(b"a", [1])], {"row_bytes": 2}, "row_bytes must lie in"),
    ([made(b"a", [1])], {"row_bytes": 65535}, "row_bytes must lie in"),
    ([made(b"a", [1])], {"row_bytes": 64, "positions": 2}, "at least 3"),
    ([made(b"x" * 30, [30])], {"row_bytes": 31}, "a token of 30 bytes.*set row_bytes to 32 or more"),
])
def test_what_cannot_be_packed_is_refused_with_the_remedy(documents, sizes, told):
    with pytest.raises(ValueError, match=told):
        pack(documents, **sizes)


def test_reserved_bytes_are_no_text(token_bytes):
    for byte in (BOS, EOS, 256 + ord("a")):
        aligned = Aligned(torch.tensor([5]), torch.tensor([byte]), torch.tensor([True]))
        with pytest.raises(ValueError, match="cannot be text"):
            document(aligned, token_bytes)


def test_rows_that_contradict_themselves_are_refused(rows):
    arrays = {name: getattr(rows, name) for name in ("byte_ids", "boundary", "document", "token_ids")}
    for name, array, told in (("token_ids", rows.token_ids[:, :-1], "one boundary a token"),
                              ("byte_ids", rows.byte_ids.astype(np.int64), "found byte_ids int64"),
                              ("document", rows.document[:, :-1], "of one shape")):
        with pytest.raises(ValueError, match=told):
            Rows(**arrays | {name: array})


def test_a_batch_is_its_rows(rows):
    indices = [3, 0, len(rows) - 1, 3]
    batch = rows.batch(indices)
    most = max((rows.token_ids[index] >= 0).sum() for index in indices)
    assert batch.token_ids_BM.shape == (4, most) and batch.byte_ids_BL.shape == (4, ROW_BYTES)
    for b, index in enumerate(indices):
        mask, tokens = batch.mask_BL[b].numpy(), batch.token_mask_BM[b].numpy()
        assert np.array_equal(batch.byte_ids_BL[b].numpy(), rows.byte_ids[index])
        assert np.array_equal(batch.document_BL[b].numpy(), rows.document[index])
        assert np.array_equal(mask, rows.document[index] >= 0)
        assert np.array_equal(batch.token_ids_BM[b].numpy()[tokens], rows.token_ids[index][rows.token_ids[index] >= 0])
        assert batch.token_document_BM[b][tokens].tolist() == rows.document[index][rows.boundary[index]].tolist()
        assert set(batch.token_document_BM[b][~tokens].tolist()) <= {-1}
        assert set(batch.token_ids_BM[b][~tokens].tolist()) <= {0}
        assert tokens.sum() == batch.boundary_BL[b].sum()
    dtypes = {name: getattr(batch, name).dtype for name in Batch.__dataclass_fields__}
    flags = {name for name, dtype in dtypes.items() if dtype == torch.bool}
    assert flags == {"boundary_BL", "mask_BL", "token_mask_BM"} and set(dtypes.values()) == {torch.bool, torch.int64}


def test_a_batch_moves_and_splits_as_a_whole(rows):
    batch = rows.batch(np.array([1, 2, 0]))
    moved = batch.to("meta")
    assert {getattr(moved, name).device.type for name in Batch.__dataclass_fields__} == {"meta"}
    for part, indices in zip(batch.split(2), ([1, 2], [0]), strict=True):
        alone = rows.batch(indices)
        assert all(torch.equal(getattr(part, name), getattr(alone, name)) for name in Batch.__dataclass_fields__)
    assert batch.split(None) == [batch]
    with pytest.raises(ValueError, match="at least one row"):
        batch.split(0)


def test_rows_survive_their_file(rows, tmp_path):
    path = tmp_path / "deep" / "rows.safetensors"
    rows.save(path)
    rows.save(path)  # over an existing file
    assert [each.name for each in path.parent.iterdir()] == ["rows.safetensors"]
    loaded = Rows.load(path)
    assert loaded.hash == rows.hash and (len(loaded), loaded.row_bytes) == (len(rows), ROW_BYTES)
    assert np.array_equal(loaded.token_ids, rows.token_ids)


def test_a_damaged_or_foreign_file_is_named(rows, tmp_path):
    path = tmp_path / "rows.safetensors"
    rows.save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    save_file({"weight": np.zeros(3)}, path)
    for damaged in (whole[:-100], b"", b"no safetensors at all", bytes(flipped), path.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"rows\.safetensors is damaged or .*pack again"):
            Rows.load(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        Rows.load(tmp_path / "absent")


def test_the_empty_text_is_a_document_of_two_bytes(token_bytes):
    rows = pack([document(token_bytes.align(EDGES["empty"]), token_bytes)] * 3, row_bytes=8)
    assert len(rows) == 1 and text_bytes(rows) == 0
    assert rows.document.tolist() == [[0, 0, 1, 1, 2, 2, -1, -1]]
    assert rows.boundary.tolist() == [[True] * 6 + [False] * 2]
