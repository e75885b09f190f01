"""Matplotlib's SVG, reduced to shapes and words that take the page's own colours and fonts.

What Matplotlib writes is styled by `style` attributes, which the page's Content-Security-Policy forbids, in fixed
colours, which a dark page makes unreadable, and with ids that would clash in a page of several figures.
"""

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

SVG = "{http://www.w3.org/2000/svg}"
KEPT = ("stroke-width", "font-size", "text-anchor")
_NUMBER = re.compile(r"-?\d+\.\d+")


def flattened(svg: str, *, classes: Mapping[str, str], title: str) -> str:
    """The drawing as an <svg> element: paths and texts alone, in painting order, without ids and styles.

    `classes` maps each colour that was drawn with to a class of the page's style sheet. `title` is read to those who
    cannot see it.
    """
    drawn = ET.fromstring(svg)  # noqa: S314 - Matplotlib's own output, not a stranger's
    made = ET.Element("svg", {"viewBox": drawn.attrib["viewBox"], "role": "img", "class": "plot"})
    ET.SubElement(made, "title").text = title
    for group in drawn.iter(f"{SVG}g"):
        for part in group:
            kind = part.tag.removeprefix(SVG)
            if kind in ("path", "text"):
                _copy(part, kind, made, classes)
    return ET.tostring(made, encoding="unicode")


def _copy(part: ET.Element, kind: str, made: ET.Element, classes: Mapping[str, str]) -> None:
    style = dict(_declarations(part.attrib.get("style", "")))
    names = [f"{role}-{classes[style[role]]}" for role in ("fill", "stroke") if style.get(role) in classes]
    if not names:
        return  # a frame that is not painted
    attributes = {name: style[name] for name in KEPT if name in style} | {"class": " ".join(names)}
    if kind == "path":
        path = " ".join(part.attrib["d"].split())
        if style.get("fill") not in classes:
            attributes["fill"] = "none"
        attributes["d"] = _NUMBER.sub(lambda found: f"{float(found[0]):.1f}", path)
    else:
        attributes |= {name: part.attrib[name] for name in ("x", "y")}
        if not part.attrib.get("transform", "rotate(-0 ").startswith("rotate(-0 "):
            attributes["transform"] = part.attrib["transform"]
    copied = ET.SubElement(made, kind, attributes)
    copied.text = part.text if kind == "text" else None


def _declarations(style: str) -> list[tuple[str, str]]:
    pairs = [declaration.partition(":") for declaration in style.split(";")]
    return [(name.strip(), value.strip()) for name, _, value in pairs if name.strip()]
