"""Streams: the same batches for any number of processes, resumed bit for bit without reading what came before."""

import gc
import json
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets.packaged_modules.parquet.parquet import Parquet

from dbyte.distill.loader import StreamFeed, made_ahead
from dbyte.text.corpus import of_split
from dbyte.text.hub import commit
from dbyte.text.packing import cut, document
from dbyte.text.spans import BOS
from dbyte.text.stream import Lane, source_of

ROW_BYTES, BATCH_ROWS, LANES, UPDATES = 128, 8, 4, 14
TEXTS = [f"Document {number}: {'the cat sat on the mat, ' * (number % 7)}{number + 1}." + "\u4eba" * (number % 3)
         for number in range(480)] + ["long " * 90, "a long word " * 60]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch, tmp_path):
    monkeypatch.setattr("dbyte.text.stream.GROUP_ROWS", 10)
    monkeypatch.setattr("dbyte.text.stream.FIRST_GROUP_ROWS", 3)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def shards(folder: Path, kind: str, count: int, texts=TEXTS, row_group: int = 25) -> str:
    """A dataset in the hub's layout; returns its corpus name."""
    (folder / "data").mkdir(parents=True)
    for shard in range(count):
        frame = pd.DataFrame({"text": pd.Series(texts[shard::count], dtype=str), "id": range(len(texts[shard::count]))})
        path = folder / "data" / f"train-{shard:05}-of-{count:05}.{kind}"
        if kind == "parquet":
            frame.to_parquet(path, row_group_size=row_group)
        else:
            frame.to_json(path, orient="records", lines=True)
    return f"hub:{folder}"


@pytest.fixture
def corpus(tmp_path):
    return shards(tmp_path / "set", "parquet", 6)


@pytest.fixture
def feed_of(token_bytes):
    """Makes feeds and closes them."""
    made = []

    def make(*corpora, seed=0, lanes=LANES, **sizes):
        sizes = dict(row_bytes=ROW_BYTES, batch_rows=BATCH_ROWS) | sizes
        made.append(StreamFeed([(each, 100) if isinstance(each, str) else each for each in corpora], token_bytes,
                               seed=seed, lanes=lanes, **sizes))
        return made[-1]

    yield make
    for feed in made:
        feed.close()


def lane_of(name, token_bytes, lane, lanes=LANES, seed=0):
    return Lane([source_of(name, seed=seed)], [1], lane=lane, lanes=lanes, token_bytes=token_bytes,
                row_bytes=ROW_BYTES, seed=seed, announced=set())


def content(batch):
    """Rows as bytes, without what depends on the longest row of a batch."""
    for b in range(len(batch.byte_ids_BL)):
        tokens = batch.token_mask_BM[b]
        yield b"|".join(each.numpy().tobytes() for each in (
            batch.byte_ids_BL[b], batch.boundary_BL[b], batch.document_BL[b], batch.mask_BL[b],
            batch.token_ids_BM[b][tokens], batch.token_document_BM[b][tokens]))


def same(one, two):
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in vars(one))


def pieces_of(rows, index):
    """The bytes of each document in a row."""
    row = rows.byte_ids[index][rows.document[index] >= 0]
    return [part.tobytes() for part in np.split(row, np.flatnonzero(row == BOS)[1:])]


def whole_pass(lane):
    """All rows of a lane's first pass: the bytes of their documents."""
    found = []
    while True:
        pieces = pieces_of(*lane.next_row())
        # The state of an unfinished group is that of its beginning, after a group's last row it is that of the next.
        began, row = lane.state()["positions"][0]["pass"], lane.state()["row"]
        found += pieces if began == 0 or row == 0 else []
        if began:
            return found


def expected_pieces(texts, token_bytes):
    return Counter(piece.byte_ids.tobytes() for aligned in token_bytes.align_batch(texts)
                   for piece in cut(document(aligned, token_bytes), row_bytes=ROW_BYTES))


def test_the_batch_does_not_depend_on_the_number_of_processes(corpus, feed_of):
    whole = feed_of(corpus)
    batches = [whole.batch(update) for update in range(UPDATES)]
    assert batches[0].byte_ids_BL.shape == (BATCH_ROWS, ROW_BYTES)
    for parts in (2, 4):
        feeds = [feed_of(corpus) for _ in range(parts)]
        for update, expected in enumerate(batches):
            shares = [feed.batch(update, part=part, parts=parts) for part, feed in enumerate(feeds)]
            assert {len(share.byte_ids_BL) for share in shares} == {BATCH_ROWS // parts}
            assert Counter(row for share in shares for row in content(share)) == Counter(content(expected))


@pytest.mark.parametrize("kind, parts", [
    ("parquet", 4), ("jsonl", 1), pytest.param("jsonl.gz", 4, marks=pytest.mark.exhaustive)])
def test_a_run_resumes_bit_for_bit_after_any_update_with_any_number_of_processes(tmp_path, feed_of, kind, parts):
    corpus = shards(tmp_path / "set", kind, 6)
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"text": f"more {text}"}) + "\n" for text in TEXTS))
    mixture = corpus, (f"file:{tmp_path}/more.jsonl", 50)
    whole = feed_of(*mixture)
    batches = [whole.batch(update) for update in range(UPDATES)]
    assert all(state["positions"][0]["place"] for state in whole.state().values()), "every lane is inside a file"
    feeds = [feed_of(*mixture) for _ in range(parts)]
    for last in range(UPDATES - 1):
        for part, feed in enumerate(feeds):
            feed.batch(last, part=part, parts=parts)
        merged = {}
        for feed in feeds:
            merged |= feed.state()
        assert sorted(merged) == [str(lane) for lane in range(LANES)]
        resumed = feed_of(*mixture)
        resumed.restore(json.loads(json.dumps(merged)), last + 1)
        until = UPDATES if last % 5 == 0 else last + 2
        assert all(same(resumed.batch(update), batches[update]) for update in range(last + 1, until)), last
        other = feed_of(*mixture)
        other.restore(merged, last + 1)
        half = Counter(content(other.batch(last + 1, part=1, parts=2)))
        assert half == half & Counter(content(batches[last + 1]))
        resumed.close()
        other.close()


def test_the_state_is_that_of_the_batch_handed_out_and_small(corpus, feed_of):
    feed = feed_of(corpus)
    feed.batch(0)
    state = feed.state()
    time.sleep(0.3)  # the thread reads ahead meanwhile
    assert feed.state() == state and len(json.dumps(state)) < 1000 * LANES
    fresh = feed_of(corpus)
    assert fresh.state() == {}
    fresh.restore(state, 1)
    assert fresh.state() == state and same(fresh.batch(1), feed.batch(1))


def test_resuming_parquet_reads_from_the_row_group_of_its_group(tmp_path, token_bytes, monkeypatch):
    decoded = []

    def counted(self, *args, **kwargs):
        for key, table in original(self, *args, **kwargs):
            decoded.extend(table["text"].to_pylist())
            yield key, table

    original = Parquet._generate_tables
    monkeypatch.setattr(Parquet, "_generate_tables", counted)
    name = shards(tmp_path / "set", "parquet", 2, row_group=10)
    lane = lane_of(name, token_bytes, 0, lanes=2)
    boundaries = []  # (documents decoded when a group began, its state)
    while lane.state()["positions"][0]["pass"] == 0:
        state = json.loads(json.dumps(lane.state()))
        if state["row"] == 0:
            boundaries.append(len(decoded))
        elif state["row"] % 3 == 1:
            before = len(decoded)
            resumed = lane_of(name, token_bytes, 0, lanes=2)
            resumed.restore(state)
            resumed.next_row()
            # The group of the row and no more: but for row groups that it begins and ends in the middle of.
            assert decoded[before:] and len(decoded) - before <= before - boundaries[-1] + 2 * 16 + 2 * 10
            del decoded[before:]
        lane.next_row()
    assert len(boundaries) > 5 and len(decoded) >= 0.9 * len(TEXTS) / 2


def test_a_record_without_text_and_a_damaged_file_are_named(tmp_path, feed_of):
    path = tmp_path / "set" / "train.jsonl"
    path.parent.mkdir()
    no_text = "a record of dataset .* has no text under 'text', its columns are "
    for line, error, told in (
        (b'{"text": null}', ValueError, rf"{no_text}\['text'\]"), (b'{"body": "x"}', ValueError, no_text),
        (b'{"text": "half', ConnectionError, "JSON"), (b'{"text": "\xff"}', ConnectionError, "byte 0xff"),
    ):
        path.write_bytes(b'{"text": "first"}\n' + line + b"\n")
        with pytest.raises(error, match=told):
            feed_of(f"hub:{path.parent}").batch(0)


@pytest.mark.parametrize("kind, count, lanes", [
    ("parquet", 6, 4), ("parquet", 1, 4), ("jsonl", 3, 8), ("jsonl", 8, 2),
    pytest.param("parquet", 1000, 16, marks=pytest.mark.exhaustive)])  # half of which are empty
def test_a_pass_holds_every_byte_of_every_training_document_once(kind, count, lanes, tmp_path, token_bytes, capsys):
    name = shards(tmp_path / "set", kind, count)
    found = Counter()
    for lane in range(lanes):
        found.update(whole_pass(lane_of(name, token_bytes, lane, lanes)))
    assert found == expected_pieces([*of_split(TEXTS, "train")], token_bytes)
    heldout = {bytes([BOS]) + text.encode() for text in of_split(TEXTS, "heldout")}
    assert heldout and not any(piece.rstrip(b"\xff") in heldout for piece in found)
    assert ("fewer shards" in capsys.readouterr().out) == (kind == "jsonl" and count < lanes)


def test_copies_inside_a_group_are_dropped(tmp_path, token_bytes):
    name = shards(tmp_path / "set", "jsonl", 1, texts=[text for text in TEXTS[:60] for _ in range(2)])
    found = Counter(whole_pass(lane_of(name, token_bytes, 0, 1)))
    assert found == expected_pieces([*of_split(TEXTS[:60], "train")], token_bytes)


def test_a_held_corpus_is_split_into_lanes_and_begins_again_in_another_order(tmp_path, token_bytes, feed_of, capsys):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    lanes = [lane_of(f"file:{path}", token_bytes, lane) for lane in range(LANES)]
    firsts = [whole_pass(lane) for lane in lanes]
    assert sum(map(Counter, firsts), Counter()) == expected_pieces([*of_split(TEXTS, "train")], token_bytes)
    second = [piece for _ in range(5) for piece in pieces_of(*lanes[0].next_row())]
    assert second != firsts[0][: len(second)]
    assert capsys.readouterr().out.count("pass 2 begins") == LANES  # lanes on their own; a feed says it once
    feed = feed_of(f"file:{path}")
    for update in range(100):
        feed.batch(update)
    assert max(state["positions"][0]["pass"] for state in feed.state().values()) >= 1
    feed.close()
    assert capsys.readouterr().out.count("pass 2 begins") == 1


def test_corpora_are_mixed_in_proportion_to_their_bytes(tmp_path, feed_of):
    name = shards(tmp_path / "set", "parquet", 4, texts=[f"=== {text}" for text in TEXTS])
    feed = feed_of((name, 250), ("world", 750), batch_rows=16, row_bytes=1024)
    sizes = Counter()
    for update in range(8):
        batch = feed.batch(update)
        for row, documents in zip(batch.byte_ids_BL.numpy(), batch.document_BL.numpy(), strict=True):
            for index in range(documents.max() + 1):
                text = row[documents == index].astype(np.uint8).tobytes()[1:]
                sizes["set" if text.startswith(b"===") else "world"] += len(text)
    assert sizes["set"] / sizes.total() == pytest.approx(0.25, abs=0.06)


def test_seed_and_configuration_decide_the_rows(corpus, feed_of):
    one, other = feed_of(corpus), feed_of(corpus, seed=1)
    assert Counter(content(one.batch(0))) != Counter(content(other.batch(0)))
    assert one.describe() == feed_of(corpus).describe() != other.describe()
    with pytest.raises(ValueError, match="state of lane 0 was taken with other corpora"):
        other.restore(one.state(), 1)
    json.dumps(one.describe())


def test_a_corpus_is_described_by_its_content(tmp_path, feed_of):
    name = shards(tmp_path / "set", "jsonl", 2)
    before = feed_of(name).describe()
    (tmp_path / "set" / "data" / "train-00002-of-00003.jsonl").write_text('{"text": "more"}\n')
    assert feed_of(name).describe() != before
    assert commit("owner/name@" + "0123456789" * 4) == "0123456789" * 4, "a commit in full needs no network"
    with pytest.raises(ConnectionError, match="dataset 'owner/name' cannot be read from the hub"):
        commit("owner/name@main")


def test_updates_and_parts_are_asked_for_in_order(corpus, feed_of):
    feed = feed_of(corpus)
    with pytest.raises(ValueError, match="the next is 0, asked for was 3"):
        feed.batch(3)
    for part, parts in ((0, 3), (2, 2), (0, 0)):
        with pytest.raises(ValueError, match="parts must divide the lanes"):
            feed.batch(0, part=part, parts=parts)
    feed.batch(0, part=1, parts=2)
    with pytest.raises(ValueError, match="this feed reads part 1 of 2"):
        feed.batch(1)
    with pytest.raises(ValueError, match="lanes must divide batch_rows"):
        feed_of(corpus, lanes=3)
    with pytest.raises(ValueError, match="positive number of bytes"):
        feed_of((corpus, 0))


def test_a_corpus_without_training_text_is_named(tmp_path, feed_of):
    heldout = [*of_split(TEXTS, "heldout")]
    cases = {"empty": [], "heldout": heldout, "blank": [" ", "\n"] * 10, "few": TEXTS[:2]}
    for label, texts in cases.items():
        name = shards(tmp_path / label, "parquet", 1, texts=texts)
        for corpora in ((name,), (name, "world")):
            with pytest.raises(ValueError, match=f"a pass over corpus 'hub:.*{label}' gave lane .* no training"):
                feed = feed_of(*corpora)
                for update in range(60):
                    feed.batch(update)
    with pytest.raises(ValueError, match="unknown corpus 'wikipedia'"):
        feed_of("wikipedia").batch(0)


def test_what_goes_wrong_ahead_is_raised_with_its_cause_and_can_be_tried_again(tmp_path, feed_of):
    name = shards(tmp_path / "set", "parquet", LANES)
    paths = sorted((tmp_path / "set" / "data").iterdir())
    sound = [path.read_bytes() for path in paths]
    feed = feed_of(name)
    feed.describe()
    for path in paths[1:]:
        path.write_bytes(b"PAR1 damaged")
    for _ in range(2):
        with pytest.raises(ConnectionError, match="cannot be read from the hub") as caught:
            feed.batch(0)
        assert caught.value.__cause__ is not None
    for path, whole in zip(paths, sound, strict=True):
        path.write_bytes(whole)
    feed.batch(0)
    bodies = tmp_path / "bodies"
    bodies.mkdir()
    pd.DataFrame({"body": TEXTS[:8]}).to_parquet(bodies / "train.parquet")
    with pytest.raises(ValueError, match=r"no text under 'text', its columns are \['body'\]"):
        feed_of(f"hub:{bodies}").batch(0)


def test_the_thread_ends_with_its_feed(corpus, token_bytes):
    before = threading.active_count()
    feed = StreamFeed([(corpus, 1)], token_bytes, row_bytes=ROW_BYTES, batch_rows=4, seed=0)
    feed.batch(0)
    assert threading.active_count() > before
    del feed
    gc.collect()
    assert threading.active_count() <= before


def test_no_more_is_made_than_there_is_room_for():
    made = []
    ahead = made_ahead((made.append(number) or number for number in range(100)), depth=3)
    assert next(ahead) == 0
    time.sleep(0.2)
    assert made == [0, 1, 2, 3] and [next(ahead) for _ in range(90)] == [*range(1, 91)]
    ahead.close()
    assert len(made) <= 95
