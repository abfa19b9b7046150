"""Corpora: disjoint splits, one copy of a document, the same result for the same input, errors that say what to do."""

import json
from pathlib import Path

import pandas as pd
import pytest

from dbyte.text import files, pydocs
from dbyte.text.corpus import HELDOUT_PERCENT, load_corpus
from dbyte.text.files import DOCUMENT_CHARACTERS, file_documents

TEXTS = [f"Document {number} says that {number} plus one is {number + 1}." for number in range(1000)]


@pytest.fixture(scope="module")
def jsonl(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": 7}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return f"file:{path}"


@pytest.mark.parametrize("name", ["world", "pydocs", "file"])
def test_splits_cover_a_corpus_and_never_overlap(name, jsonl, tmp_path, monkeypatch):
    monkeypatch.setattr(pydocs, "PACKAGES", {"numpy": "numpy"})
    monkeypatch.setattr(pydocs, "roots", lambda versions: [Path(json.__file__).parents[1] / "asyncio"])
    monkeypatch.setattr(pydocs.paths, "RUNS", tmp_path)
    name = f"file:{jsonl}" if name == "file" else name
    train = load_corpus(name, split="train", max_bytes=100_000)
    other_seed = load_corpus(name, split="heldout", seed=1, max_bytes=100_000)
    heldout = load_corpus(name, split="heldout", max_bytes=100_000)
    collapsed = [{" ".join(text.split()) for text in each.documents} for each in (train, heldout, other_seed)]
    assert not collapsed[0] & collapsed[1] and not collapsed[0] & collapsed[2]
    for each, marks in zip((train, heldout, other_seed), collapsed, strict=True):
        assert len(marks) == len(each) > 0, "deduplicated"
        assert each.text_bytes == sum(len(text.encode()) for text in each.documents) <= 100_000


def test_the_splits_of_a_finite_corpus_are_all_of_it(jsonl):
    train, heldout = (load_corpus(f"file:{jsonl}", split=split) for split in ("train", "heldout"))
    assert sorted(train.documents + heldout.documents) == sorted(TEXTS)
    assert 0.3 * HELDOUT_PERCENT < 100 * len(heldout) / len(TEXTS) < 3 * HELDOUT_PERCENT


def test_a_documents_split_depends_on_its_words_alone(jsonl, tmp_path):
    heldout = load_corpus(f"file:{jsonl}", split="heldout").documents
    respaced = "".join(json.dumps({"text": "\n  " + text.replace(" ", "  ")}) + "\n" for text in reversed(TEXTS))
    again = load_corpus(write(tmp_path / "other.jsonl", respaced.encode()), split="heldout", seed=5).documents
    assert {" ".join(text.split()) for text in again} == set(heldout)


def test_the_seed_orders_and_the_source_order_does_not_matter(jsonl, tmp_path):
    name = f"file:{jsonl}"
    first, same, other = (load_corpus(name, seed=seed) for seed in (0, 0, 1))
    assert first == same and first.content_hash == same.content_hash
    assert sorted(first.documents) == sorted(other.documents) and first.documents != other.documents
    assert first.content_hash != other.content_hash
    lines = jsonl.read_text().splitlines(keepends=True)
    reversed_ = write(tmp_path / "reversed.jsonl", "".join(lines[::-1]).encode())
    assert load_corpus(reversed_).documents == first.documents


def test_more_bytes_give_the_same_documents_and_more(jsonl):
    whole = load_corpus(f"file:{jsonl}")
    some, more = (load_corpus(f"file:{jsonl}", max_bytes=size) for size in (5_000, 20_000))
    for part, size in ((some, 5_000), (more, 20_000)):
        assert part.documents == whole.documents[:len(part)]
        assert part.text_bytes <= size < part.text_bytes + len(whole.documents[len(part)].encode())


def test_duplicates_and_blank_documents_go(tmp_path):
    rows = ["one and two", "one  and\ntwo ", "", " \n\t", "three"]
    content = "".join(json.dumps({"text": text}) + "\n" for text in rows * 3).encode()
    assert sorted(load_corpus(write(tmp_path / "a.jsonl", content)).documents) == ["one and two", "three"]


def test_a_txt_is_split_at_blank_lines_and_keeps_every_byte_inside(tmp_path):
    paragraphs = [f"{number}: {'word ' * 100}\r\n  indented\tline \x00 é\u2028" for number in range(40)]
    text = "\n\n".join(paragraphs)
    found = list(file_documents(write(tmp_path / "a.txt", text.encode()).removeprefix("file:")))
    assert "\n\n".join(found) == text
    assert 1 < len(found) and max(map(len, found)) <= DOCUMENT_CHARACTERS
    assert all(len(one) + len(two) > DOCUMENT_CHARACTERS - 600 for one, two in zip(found, found[1:], strict=False))
    long = "x" * (3 * DOCUMENT_CHARACTERS)
    write(tmp_path / "b.txt", f"\n\na\r\n \r\n{long}\n\n\nb\n".encode())
    assert list(file_documents(tmp_path / "b.txt")) == ["a", long, "b"]


def test_a_folder_is_its_files_by_path(tmp_path):
    (tmp_path / "deep").mkdir()
    names = [f"deep/{number}.txt" for number in range(9)]
    for name in names[::2] + names[1::2]:
        write(tmp_path / name, name.encode())
    write(tmp_path / "a.jsonl", b'{"text": "first"}\n\n')
    write(tmp_path / "z.md", b"not read")
    assert list(file_documents(tmp_path)) == ["first", *names]


def test_a_jsonl_is_split_at_line_feeds_alone(tmp_path):
    text = "a\u2028b\x85c\u2029d"
    write(tmp_path / "a.jsonl", (json.dumps({"text": text}, ensure_ascii=False) + "\r\n").encode())
    assert list(file_documents(tmp_path)) == [text]


@pytest.mark.parametrize("name, content, told", [
    ("bad.txt", b"good \xfe\xff", r"bad\.txt is not UTF-8: byte 0xFE at offset 5"),
    ("bad.txt", b"end\xc3", r"bad\.txt is not UTF-8: byte 0xC3 at offset 3"),
    ("empty.txt", b" \n\n\t\n", "holds no text"),
    ("other.md", b"text", r"holds no \.txt or \.jsonl file"),
    *(("bad.jsonl", b'{"text": "fine"}\n' + line + b"\n", r'bad\.jsonl, line 2: expected \{"text": "\.\.\."\}')
      for line in (b"{", b"[]", b'{"body": "a"}', b'{"text": 3}', b'{"text": "\\ud800"}', b"null")),
])
def test_bad_files_are_named_with_the_place(tmp_path, name, content, told):
    with pytest.raises(ValueError, match=told):
        load_corpus(write(tmp_path / name, content))


def test_a_relative_path_is_looked_for_at_the_root_too(tmp_path, monkeypatch):
    here, root = tmp_path / "notebooks", tmp_path / "root"
    for folder in (here, root / "text"):
        folder.mkdir(parents=True)
    (root / "text" / "a.txt").write_text("at the root")
    monkeypatch.chdir(here)
    monkeypatch.setattr(files, "ROOT", root)
    assert list(file_documents("text")) == ["at the root"]
    (here / "text").mkdir()
    (here / "text" / "a.txt").write_text("here")
    assert list(file_documents("text")) == ["here"]
    with pytest.raises(FileNotFoundError, match=f"working directory {here}, root {root}"):
        list(file_documents("absent"))


def test_missing_and_too_little_input_say_what_to_do(tmp_path):
    for name, told in (("file:{}/absent.txt", "no file or folder .*absent.*check the path after file:"),
                       ("hub:{}/absent", "no folder .*absent")):
        with pytest.raises(FileNotFoundError, match=told):
            load_corpus(name.format(tmp_path), max_bytes=1000)
    one = write(tmp_path / "one.jsonl", json.dumps({"text": TEXTS[0]}).encode())
    with pytest.raises(ValueError, match="the heldout split of corpus .* is empty: give more text"):
        load_corpus(one, split="heldout")
    with pytest.raises(ValueError, match="max_bytes=3 is less than the first document"):
        load_corpus(one, max_bytes=3)


UNKNOWN = "unknown corpus .*expected one of world, world_full, echoes, lookups, one_person, pydocs, file:PATH, hub:NAME"


@pytest.mark.parametrize("name, options, told", [
    *((name, {"max_bytes": 1000}, UNKNOWN)
      for name in ("wikipedia", "", "file:", "hub:", "world:2", "pydocs:x", "http://a")),
    ("world", {"max_bytes": 1000, "split": "test"}, "split must be one of"),
    ("world", {"max_bytes": 0}, "max_bytes must be positive"),
    ("world", {}, "say how much to read, e.g. max_bytes="), ("hub:a/b", {}, "say how much to read, e.g. max_bytes="),
])
def test_bad_arguments_are_refused(name, options, told):
    with pytest.raises(ValueError, match=told):
        load_corpus(name, **options)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_local_folder_in_the_hubs_layout_streams(kind, tmp_path, jsonl, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for shard in range(2):
        frame = pd.DataFrame({"text": TEXTS[shard * 500:][:500], "id": range(500)})
        path = tmp_path / "data" / f"train-0000{shard}-of-00002.{kind}"
        frame.to_parquet(path) if kind == "parquet" else frame.to_json(path, orient="records", lines=True)
    name = f"hub:{tmp_path}"
    assert set(load_corpus(name, max_bytes=1_000_000).documents) == set(load_corpus(f"file:{jsonl}").documents)
    some = load_corpus(name, max_bytes=2_000)
    assert some.text_bytes <= 2_000 and set(some.documents) <= set(TEXTS[:60]), "a stream is read from its start"


def test_no_network_is_one_clear_error():
    with pytest.raises(ConnectionError, match="dataset 'owner/name' cannot be read from the hub.*use the corpus "
                                              "pydocs, file:PATH or hub:FOLDER"):
        load_corpus("hub:owner/name:part@v1", max_bytes=1000)


PROSE = "This sentence explains at some length what the function does and why a reader would want to call it. " * 3


def source(tmp_path: Path) -> Path:
    """A package with documentation strings worth taking and others that are not."""
    session = PROSE + "\n>>> import this and some other words\nanswer" * 20
    table = PROSE[:100] + "\n" + "| 12 | 34 | 56 |\n" * 60
    code = f'''"""Module. {PROSE}"""
raise SystemExit("this must be parsed, never imported")
class A:
    """Class. {PROSE}"""
    async def f(self):
        """Method. {PROSE}

            indented
        back
        """
def short():
    """Too short."""
def same():
    """Module.   {PROSE}"""
def session():
    """{session}"""
def table():
    """{table}"""
def surrogate():
    """Surrogate \\ud800 {PROSE}"""
not_documentation = """Not. {PROSE}"""
'''
    for folder in ("", "tests", "site-packages", "__pycache__"):
        (tmp_path / "package" / folder).mkdir(exist_ok=True, parents=True)
        marker = code if not folder else f'"""{folder} must be skipped. {PROSE}"""'
        (tmp_path / "package" / folder / "module.py").write_text(marker)
    (tmp_path / "package" / "broken.py").write_text("def (:")
    (tmp_path / "package" / "null.py").write_bytes(b'"""' + PROSE.encode() + b'\x00"""')
    return tmp_path / "package"


def test_pydocs_takes_prose_once_from_parsed_sources(tmp_path):
    found = list(pydocs.docstrings(source(tmp_path)))
    texts = pydocs.unique(iter(found))
    assert texts == pydocs.unique(iter(found[::-1])), "the order of files does not matter"
    assert [text.split()[0] for text in texts] == ["Class.", "Method.", "Module."]
    assert texts == sorted(texts) and texts[1].endswith("\n\n    indented\nback")


def test_pydocs_is_cached_and_a_damaged_file_is_made_again(tmp_path, monkeypatch):
    folder, calls = source(tmp_path), []
    monkeypatch.setattr(pydocs, "roots", lambda versions: calls.append(versions) or [folder])
    kept = tmp_path / "kept"
    first = pydocs.load_pydocs(folder=kept)
    assert pydocs.load_pydocs(folder=kept) == first and len(calls) == 1
    path, = kept.iterdir()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.warns(UserWarning, match=f"{path.name} is damaged.*extracting"):
        assert pydocs.load_pydocs(folder=kept) == first
    assert len(calls) == 2 and pydocs.load_pydocs(folder=kept) == first and len(calls) == 2
    monkeypatch.setattr(pydocs, "installed_versions", lambda: {"python": "another"})
    pydocs.load_pydocs(folder=kept)
    assert len(calls) == 3 and len([*kept.iterdir()]) == 2, "other versions, other file"
