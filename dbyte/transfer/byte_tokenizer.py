"""A tokenizer whose tokens are the 256 bytes, BOS and EOS, in transformers' format."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dbyte.distill.teacher_source import teacher_folder
from dbyte.model.teacher import has_tokenizer, load_tokenizer
from dbyte.text.exact import byte_of_character

BYTES = "bytes"  # its name, where a folder or hub name may stand


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte b has the id b, BOS is 256 and EOS 257; it is a byte-level BPE without merges, so any text has its bytes."""
    backend = Tokenizer(models.BPE(vocab=byte_of_character(), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|bos|>", "<|eos|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|eos|>")


def open_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer "bytes", or that of a folder, a hub name or a teacher's name; FileNotFoundError if it has none."""
    if name == BYTES:
        return byte_tokenizer()
    place = teacher_folder(name)
    try:
        if not has_tokenizer(place):
            raise OSError("the folder holds no tokenizer.json")
        return load_tokenizer(place)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"no tokenizer could be read from {name!r} ({reason}): give {BYTES!r}, a folder with a "
                                "tokenizer.json, or a hub name that can be reached") from error
