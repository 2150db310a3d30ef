"""Reader of the WIPO-Alpha collection: a folder of XML records, one file a patent.

A record looks like `<record pn="WO…"><ipcs mc="A01B00100"><ipc ic="B62D00500"/></ipcs> <ti>…</ti> <ab>…</ab>
<cl>…</cl> <txt>…</txt></record>`: `mc` is the main IPC code, each `ic` a secondary one, and the texts are title,
abstract, claims and description, at any depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from transformers.utils import logging

logger = logging.get_logger(__name__)

LEVELS = {"section": 1, "class": 3, "subclass": 4}  # leading characters of an IPC code
FIELDS = ("ti", "ab", "cl", "txt")


def read_wipo(folder: Path, *, level: str = "section", fields: Sequence[str] = ("ti", "ab")) -> list[dict[str, Any]]:
    """Read all records below a folder, in the order of their paths.

    Files that are no proper record are named and counted in a warning, and left out.

    Args:
        folder: Folder with `.xml` files at any depth.
        level: Level of the IPC that labels are cut to: `"section"`, `"class"` or `"subclass"`.
        fields: Texts to join, in this order: `"ti"`, `"ab"`, `"cl"`, `"txt"`.

    Returns:
        Rows with `id` (publication number), `text` and `label` (list of codes, the main one first).

    Raises:
        ValueError: If `level` or `fields` are not known, or the folder has no readable record.
    """
    check_wipo(level, fields)
    rows, bad = {}, []
    for path in sorted(folder.rglob("*.xml")):
        try:
            row = _read_record(path, LEVELS[level], fields)
            if row["id"] in rows:
                raise ValueError(f"publication number {row['id']!r} occurs twice")
            rows[row["id"]] = row
        except (ElementTree.ParseError, ValueError, UnicodeDecodeError) as error:
            bad.append(f"{path.relative_to(folder)}: {error}")
    if bad:
        shown = "; ".join(bad[:10]) + (" …" if len(bad) > 10 else "")
        logger.warning(f"{len(bad)} of {len(bad) + len(rows)} files in {folder} are left out: {shown}")
    if not rows:
        reason = f": {bad[0]}" if bad else "."
        raise ValueError(f"{str(folder)!r} has no readable WIPO-Alpha record (*.xml){reason}")
    return list(rows.values())


def check_wipo(level: str, fields: Sequence[str]) -> None:
    """Raise a `ValueError` for a level or a field that is not known."""
    if level not in LEVELS:
        raise ValueError(f"ipc_level must be one of {list(LEVELS)}, got {level!r}.")
    unknown = [name for name in fields if name not in FIELDS]
    if unknown or not fields:
        raise ValueError(f"ipc_fields must be some of {list(FIELDS)}, got {list(fields)}.")


def _read_record(path: Path, length: int, fields: Sequence[str]) -> dict[str, Any]:
    raw = path.read_bytes()
    if b"<!ENTITY" in raw:
        raise ValueError("declares entities")
    record = ElementTree.fromstring(raw)
    if record.tag != "record" or not record.get("pn"):
        raise ValueError("no <record> with a publication number (pn)")
    codes = record.find(".//ipcs")
    main = "" if codes is None else codes.get("mc", "").strip()
    if codes is None or len(main) < length:
        raise ValueError(f"no main IPC code (mc) of {length} characters or more")
    found = [main, *(code.get("ic", "").strip() for code in codes.iter("ipc"))]
    labels = dict.fromkeys(code[:length].upper() for code in found if len(code) >= length)
    texts = (" ".join("".join(element.itertext()).split()) for name in fields for element in record.iter(name))
    text = ". ".join(part for part in texts if part)
    if not text:
        raise ValueError(f"no text in {', '.join(fields)}")
    return {"id": record.get("pn"), "text": text, "label": list(labels)}
