"""Tiny byte-level BPE tokenizers of the kinds that teachers have, trained in a blink, and texts that are hard for them.

The pre-tokenizer patterns are those of the published tokenizers; the vocabularies are small, so characters are split
over tokens often. (The module is not called tokenizers.py: in a test folder that name would hide the library.)
"""

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
VOCABULARY = 480

SCRIPTS = {
    "english": "All human beings are born free and equal in dignity and rights. They're endowed with reason.",
    "french": "Tous les êtres humains naissent libres et égaux en dignité et en droits — où l'œuvre naïve s'élève.",
    "vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. İstanbul, ığdır.",
    "russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "armenian": "Բոլոր մարդիկ ծնվում են ազատ ու հավասար իրենց արժանապատվությամբ ու իրավունքներով։",
    "georgian": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. שָׁלוֹם",
    "hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "tamil": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "khmer": "មនុស្សទាំងអស់កើតមកមានសេរីភាពនិងសមភាពក្នុងសេចក្ដីថ្លៃថ្នូរនិងសិទ្ធិ",
    "amharic": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።",
    "chinese": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
}
EDGES = {
    "empty": "",
    "one byte": "a",
    "nul": "a\x00b\x00\x00",
    "crlf": "one\r\ntwo\r\n\r\n\tthree\rfour\n",
    "spaces": "   a  \t  b \u00a0\u3000c   ",
    "emoji": "🙂👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿🜁 flag 🇺🇳",
    "combining": "e\u0301 a\u0323\u0302 \u0301 q\u0307\u0323 \u1100\u1161\u11a8 \u212b \u2126",
    "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f\ufeff\ufffe\uffff",
    "last planes": "\U0001f9ff\U000e0001\U0010ffff\U000f0000",
    "line separators": "a\u2028b\u2029c\x85d\x0be",
    "long word": "donaudampfschiff" * 6250,
    "long run": "\u4eba" * 2000 + " " * 3000 + "7" * 1000,
    "special tokens": "a<|endoftext|>b <|begin_of_text|><|im_start|> <|end_of_text|>",
    "added tokens": "x<think>y</think> <think>\u0338 <tool_call>",
}
TEXTS = SCRIPTS | EDGES


def byte_level_bpe(*, pattern: str | None, vocabulary: int = VOCABULARY, **model) -> Tokenizer:
    """A byte-level BPE trained on SCRIPTS; `pattern` None means GPT-2's own."""
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SCRIPTS.values(), trainer)
    assert tokenizer.get_vocab_size() == vocabulary
    return tokenizer


@cache
def llama3() -> PreTrainedTokenizerFast:
    """Llama 3: digits in threes, whole words before merges, BOS put in front by the tokenizer itself."""
    backend = byte_level_bpe(pattern=LLAMA3_PATTERN, ignore_merges=True)
    backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    bos = ("<|begin_of_text|>", backend.token_to_id("<|begin_of_text|>"))
    backend.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", name_or_path="tiny-llama3"
    )


@cache
def qwen() -> PreTrainedTokenizerFast:
    """Qwen 2 and 3: single digits, NFC, no BOS, and added tokens some of which are not special."""
    backend = byte_level_bpe(pattern=QWEN_PATTERN)
    backend.normalizer = normalizers.NFC()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.add_tokens([AddedToken(each, normalized=False) for each in ("<tool_call>", "<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>", name_or_path="tiny-qwen"
    )


@cache
def olmo2() -> PreTrainedTokenizerFast:
    """OLMo 2: the pattern of cl100k, no normaliser, one token for the start and the end of documents."""
    backend = byte_level_bpe(pattern=LLAMA3_PATTERN)
    backend.add_special_tokens(["<|endoftext|>", "<|pad|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|pad|>", name_or_path="tiny-olmo2"
    )


@cache
def gpt2() -> PreTrainedTokenizerFast:
    """GPT-2: the pattern inside the byte level, BOS and EOS the same token."""
    backend = byte_level_bpe(pattern=None)
    backend.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>", name_or_path="tiny-gpt2"
    )


KINDS = {"llama3": llama3, "qwen": qwen, "olmo2": olmo2, "gpt2": gpt2}
