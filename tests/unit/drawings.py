"""What is in an SVG file, read back."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

_SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Drawn:
    kind: str
    row: int
    x: float
    width: float
    label: str
    lines: list[str]

    @property
    def name(self) -> str:
        return self.lines[0]


@dataclass(frozen=True)
class Drawing:
    head: list[str]
    frames: list[Drawn]
    height: float

    def named(self, name: str) -> Drawn:
        (found,) = (frame for frame in self.frames if frame.name == name)
        return found


def read(text: str) -> Drawing:
    root = ET.fromstring(text)  # noqa: S314 - our own
    head = ["".join(node.itertext()) for node in root.findall(f"{_SVG}text")]
    chart = next(node for node in root.findall(f"{_SVG}svg") if node.get("class") == "chart")
    return Drawing(head, [_drawn(node) for node in chart], float(root.attrib["data-height"]))


def _drawn(node: ET.Element) -> Drawn:
    label = node.find(f"{_SVG}text")
    return Drawn(
        kind=node.attrib["class"].removeprefix("f "),
        row=int(node.attrib["y"]) // 18,
        x=float(node.attrib["x"].removesuffix("%")),
        width=float(node.attrib["width"].removesuffix("%")),
        label="" if label is None else label.text or "",
        lines=(node.findtext(f"{_SVG}title") or "").split("\n"),
    )
