"""Batches to report on: hostile ones, and what a page says when it is read as HTML."""

import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from audit.pair import BatchId
from db.engine import Database
from tests.support.ledger_rows import a_pair, add_batch, add_chunk, add_pair
from tests.support.manifests import draw

SCRIPT = "<script>document.title='owned'</script><img src=http://127.0.0.1:9/x onerror=\"document.title='owned'\">"
HOSTILE = (
    SCRIPT,
    f"</style></title></textarea>{SCRIPT}",
    '"><svg onload="document.title=\'owned\'">',
    "{{ 7 * 7 }}{% raw %}${7*7}",
    "\u202egnp.exe\u2066 \u200b\x1b[2J\x00\x7f\ud800",
    "مرحبا <b>bold</b> ＝1",
    "x" * 1_000_000,
    "]]>--><!--<?php ?>&#60;script&#62;",
    "javascript:document.title='owned'",
    "Z\u0351" * 400,
)


def hostile_batch(database: Database, folder: Path) -> BatchId:
    """Every text that somebody else may choose tries to be markup; pictures are good, damaged, changed and missing."""
    batch = add_batch(database, name=f"{SCRIPT}\u202e", model=f"{SCRIPT}", tenant=SCRIPT, image_root=str(folder))
    count = len(HOSTILE)
    add_chunk(
        database, batch, 0, "done", pairs=2 * count, no=count, failed=count, flagged=count, claimed_at=1, done_at=2
    )
    draw(folder / "fine.png", size=(900, 500))
    (folder / "damaged.png").write_bytes((folder / "fine.png").read_bytes()[:60])
    draw(folder / '"><img src=http:' / "127.0.0.1:9" / "x>.png")
    images = ("fine.png", '"><img src=http://127.0.0.1:9/x>.png', "damaged.png", "missing.png", "../out.png")
    for row, text in enumerate(HOSTILE):
        pair = a_pair(row, id=f"{row}{text}", caption=text, premise=text, image=images[row % len(images)])
        add_pair(database, batch, pair, **no(1 - row / 100), model_revision=SCRIPT, image_sha256="0" * 64, flags=SCRIPT)
        failed = a_pair(count + row, id=f"f{text}", image=text, caption=text)
        detail = text.replace("\0", "").encode("utf-8", "replace").decode()
        add_pair(database, batch, failed, failure_code=f"code{row}<b>", failure_detail=detail)
    return batch


def mixed_batch(database: Database, *, pairs: int, seed: int = 1, **columns: Any) -> BatchId:
    """Random outcomes with probabilities at the edges of bins, some cached, some flagged with several names."""
    rng = random.Random(seed)
    batch = add_batch(database, created_at=1000.0, **columns)
    labels: list[str] = []
    for row in range(pairs):
        labels.append(rng.choice(["Yes", "No", "Maybe", "failed"]))
        add_pair(database, batch, a_pair(row), **_outcome(labels[-1], rng))
    counts = {name.lower(): labels.count(name) for name in ("Yes", "No", "Maybe", "failed")}
    times = {"claimed_at": 1010.0, "done_at": 1012.0}
    add_chunk(database, batch, 0, "done", pairs=pairs, flagged=labels.count("No"), **counts, **times)
    return batch


def no(p_no: float) -> dict[str, Any]:
    return {"label": "No", "p_no": p_no, "p_yes": (1 - p_no) / 2, "p_maybe": (1 - p_no) / 2, "flagged": True}


def _outcome(label: str, rng: random.Random) -> dict[str, Any]:
    decode = {"decode_ms": rng.choice([None, 0.05, 0.1, 1, 1.5, 70_000.0, 123.456, rng.uniform(0, 900)])}
    if label == "failed":
        code = rng.choice(["image_empty", "file_missing", "caption_empty"])
        return {"failure_code": code, "failure_detail": "why", **decode}
    p = rng.choice([0.35, 0.4, 0.55, 0.95, 1.0, rng.uniform(0.34, 1)])
    scores = {f"p_{name}": p if name == label.lower() else (1 - p) / 2 for name in ("yes", "no", "maybe")}
    flags = " ".join(rng.sample(["animated", "caption_truncated", "format_mismatch"], rng.randrange(4)))
    cached = rng.random() < 0.3
    model = {"model_ms": None if cached else rng.uniform(5, 90), "model_revision": rng.choice(["r1", "r2"])}
    return {"label": label, **scores, **decode, **model, "flags": flags, "cached": cached, "flagged": label == "No"}


class Page(HTMLParser):
    """What a page consists of: its elements with their attributes, its text, and the SQL that it shows."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.sql: dict[str, str] = {}
        self.style = ""
        self.text = ""
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        self._inside = given.get("data-sql", "") if tag == "code" else "style" if tag == "style" else ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("code", "style"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.style += data
            return
        if self._inside:
            self.sql[self._inside] = self.sql.get(self._inside, "") + data
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


__all__ = ["HOSTILE", "SCRIPT", "Page", "hostile_batch", "mixed_batch", "no"]
