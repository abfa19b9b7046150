"""The tokenizer of a student, by name."""

from transformers import PreTrainedTokenizerBase

from dbyte.distill.teacher_source import teacher_folder
from dbyte.model.teacher import has_tokenizer, load_tokenizer
from dbyte.text.byte_tokenizer import ByteTokenizer

BYTES = "bytes"  # the name of `ByteTokenizer`, where a folder or hub name may stand


def open_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer "bytes", or that of a folder, a hub name or a teacher's name; FileNotFoundError if it has none."""
    if name == BYTES:
        return ByteTokenizer()
    place = teacher_folder(name)
    try:
        if not has_tokenizer(place):
            raise OSError("the folder holds no tokenizer.json")
        return load_tokenizer(place)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"no tokenizer could be read from {name!r} ({reason}): give {BYTES!r}, a folder with a "
                                "tokenizer.json, or a hub name that can be reached") from error
