"""Prompts without answers: how MiniBench asks on items that no column measures, and requests written here."""

import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from dbyte_tasks import minibench

WRITTEN = Path(__file__).with_name("instructions.toml")


def of_minibench(corpora: Iterable[str], *, measured: int, most: int) -> Iterator[str]:
    """One prompt of each column in turn, as the harness asks; of its items `most` at most behind the first `measured`.

    corpora: names, which decide the columns. A column without further items has none.
    """
    from jinja2 import Template

    asked = []
    for column in minibench.taught_by(corpora).values():
        if column.available > measured and isinstance(column.harness["doc_to_text"], str):
            template = Template(column.harness["doc_to_text"], keep_trailing_newline=True)
            items = column.items(min(column.available, measured + most))[measured:]
            asked.append([template.render(**item) for item in items])
    for place in range(max(map(len, asked), default=0)):
        yield from (prompts[place] for prompts in asked if place < len(prompts))


def instructions() -> Iterator[str]:
    """Each request of instructions.toml about each of its topics, or once if it names none."""
    written = tomllib.loads(WRITTEN.read_text(encoding="utf-8"))
    for request in written["requests"]:
        yield from (request.format(topic=topic) for topic in written["topics"]) if "{topic}" in request else [request]
