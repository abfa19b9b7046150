"""dbyte turns token-trained language models into byte-level ones (arXiv 2602.01007).

The public names load on first use, so that `import dbyte` is quick and needs neither a GPU nor a network.
"""

from importlib import import_module

from dbyte.memory import ask_for_huge_pages

__version__ = "0.1.0"

_HOMES = {
    "Aligned": "dbyte.text.spans", "TokenBytes": "dbyte.text.spans",
    "ByteStudent": "dbyte.model.student", "StudentConfig": "dbyte.model.student",
    "StudentOutput": "dbyte.model.student",
    "ssd": "dbyte.model.ssd", "generate": "dbyte.decode.generate", "generate_stream": "dbyte.decode.generate",
    "losses": "dbyte.distill", "perturb": "dbyte.text.perturb",
}
__all__ = ["__version__", *_HOMES]


ask_for_huge_pages()


def __getattr__(name: str):
    if name == "losses":  # a module: importing its package alone would not load it
        return import_module("dbyte.distill.losses")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"dbyte has no {name!r}; its names are {', '.join(_HOMES)}")


def __dir__() -> list[str]:
    return sorted(__all__)
