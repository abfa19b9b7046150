"""A tokenizer that has no tokens: for code that insists on one, the ids of a text are BOS and its UTF-8 bytes.

It is a fast tokenizer of transformers without merges. Saved, it is an ordinary tokenizer.json, which AutoTokenizer
reads where dbyte is not installed.
"""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dbyte.text.exact import byte_of_character
from dbyte.text.spans import BOS, EOS

BOS_TOKEN, EOS_TOKEN = "<|bos|>", "<|eos|>"


class ByteTokenizer(PreTrainedTokenizerFast):
    """Text to bytes and back: ids below 254 are bytes, 254 (BOS) begins each text, 255 (EOS) also pads.

    Of a padded batch, `input_ids` are a student's byte_ids_BL and `attention_mask` is its mask_BL. A written-out
    "<|bos|>" is plain text. Decoding gives U+FFFD for bytes that are no UTF-8. It has no settings: what from_pretrained
    passes is what every saved one says.
    """

    def __init__(self, **saved):
        vocabulary = {character: byte for character, byte in byte_of_character().items() if byte not in (BOS, EOS)}
        backend = Tokenizer(models.BPE(vocab=vocabulary | {BOS_TOKEN: BOS, EOS_TOKEN: EOS}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.post_processor = processors.TemplateProcessing(single=f"{BOS_TOKEN} $A",
                                                               special_tokens=[(BOS_TOKEN, BOS)])
        super().__init__(tokenizer_object=backend, bos_token=BOS_TOKEN, eos_token=EOS_TOKEN, pad_token=EOS_TOKEN,
                         split_special_tokens=True, clean_up_tokenization_spaces=False, padding_side="right")
