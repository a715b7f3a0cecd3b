"""A figure's SVG made small for a page: few digits, each style and shape once, no group or clipping without effect."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from html import escape
from typing import NamedTuple

from robusteval.report.figures.terse import NUMBER, overlaid, short, terse_path, tight

_REFERENCE = re.compile(r"#([^)]+)")


def compacted(document: str, prefix: str, themed: Callable[[str], str], *, title: str, description: str) -> str:
    """The document as an element of a page, which looks the same to a tenth of a point.

    Args:
        document: an SVG document as matplotlib writes it.
        prefix: of its ids; the class under which its styles hold.
        themed: rewrites a style, such as ``fill: #ffffff; stroke: none``.
        title: escaped already, what it is called.
        description: escaped already, what it shows; may be empty.
    """
    root = ET.fromstring(document)
    small = _Compactor(root, prefix, themed)
    body = "".join(map(_element, _merged(small.flat(root, None))))
    rules = "".join(f".{prefix} .{name}{{{style}}}" for style, name in small.classes.items())
    shapes = "".join(f'<path id="{name}" d="{d}"/>' for d, name in small.shapes.items())
    ids = f"{prefix}-title" + (f" {prefix}-desc" if description else "")
    words = f'<title id="{prefix}-title">{title}</title>'
    words += f'<desc id="{prefix}-desc">{description}</desc>' if description else ""
    # Not a rule for all elements, as matplotlib writes it: that would hold for the whole page.
    head = f'<svg viewBox="{root.get("viewBox")}" class="{prefix}" stroke-linejoin="round" role="img"'
    return (
        f'{head} aria-labelledby="{ids}">{words}<style>{rules}</style>'
        f"<defs>{shapes}{''.join(small.others)}</defs>{body}</svg>\n"
    )


class _Piece(NamedTuple):
    """An element as it will be written; ``drawn`` where its path may join that of its neighbour."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    joins: bool = False


def _element(piece: _Piece) -> str:
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in piece.attributes.items())
    head = f"<{piece.tag}{attributes}"
    return f"{head}>{piece.text}</{piece.tag}>" if piece.text else f"{head}/>"


def _merged(pieces: Iterator[_Piece]) -> Iterator[_Piece]:
    """The pieces, neighbours that differ in their path alone as one."""
    last: _Piece | None = None
    for piece in pieces:
        if last is not None and piece.joins and last.joins:
            ours, theirs = dict(piece.attributes), dict(last.attributes)
            d = theirs.pop("d") + ours.pop("d")
            if ours == theirs:
                last = last._replace(attributes={"d": d} | theirs)
                continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last


class _Compactor:
    """Walks a document, and gathers what its elements share."""

    def __init__(self, root: ET.Element, prefix: str, themed: Callable[[str], str]) -> None:
        self.prefix = prefix
        self.themed = themed
        self.classes: dict[str, str] = {}
        self.shapes: dict[str, str] = {}
        self.others: list[str] = []
        self._names: dict[str, str] = {}
        self._markers: dict[str, tuple[str, str]] = {}
        self._clips: dict[str, tuple[float, float, float, float]] = {}
        for element in root.iter():
            name = element.get("id", "")
            if _tag(element) == "clipPath":
                rect = element[0]
                x, y, width, height = (float(rect.get(key, "nan")) for key in ("x", "y", "width", "height"))
                self._clips[name] = (x, y, x + width, y + height)
                self._names[name] = f"{prefix}-c{len(self._names)}"
            elif _tag(element) == "defs":
                for shape in element:
                    if _tag(shape) == "path":
                        self._markers[shape.get("id", "")] = shape.get("d", ""), shape.get("style", "")
        self._clipped: set[str] = set()
        self._terse: dict[str, str] = {}
        self._styled: dict[str, str] = {}
        self._shapes = {element: self._shape(element) for element in root.iter()}
        self._counts = Counter(self._shapes.values())
        del self._counts[""]

    def flat(self, element: ET.Element, clip: str | None) -> Iterator[_Piece]:
        """The pieces below an element, without the groups around them."""
        for child in element:
            tag = _tag(child)
            within = _REFERENCE.search(child.get("clip-path", ""))
            inner = within[1] if within else clip
            if tag == "g":
                assert not {"transform", "style"} & {*child.keys()}, "a group that moves or paints its parts"
                yield from self.flat(child, inner)
            elif tag in ("path", "use", "text"):
                yield self._piece(child, tag, inner)

    def _piece(self, element: ET.Element, tag: str, clip: str | None) -> _Piece:
        style, d, attributes = element.get("style", ""), element.get("d", ""), {}
        shape = self._shapes[element]
        if self._counts[shape] > 1:
            # A marker that was written out each time it is drawn.
            x, y = (short(float(number), 1) for number in d.split(maxsplit=3)[1:3])
            tag, attributes = "use", {"href": self._shared(shape), "x": x, "y": y}
        elif tag == "path":
            attributes["d"] = terse_path(d, 1)
        elif tag == "use":
            marker, own = self._marker(element)
            style = overlaid(own, style)
            attributes["href"] = self._shared(terse_path(marker, 2))
        if tag != "path" and "x" not in attributes:
            attributes |= {key: short(float(element.get(key, "0")), 1) for key in ("x", "y")}
        turned = element.get("transform", "")
        if turned and not turned.startswith("rotate(-0 "):
            attributes["transform"] = NUMBER.sub(lambda number: short(float(number[0]), 1), turned)
        if style:
            attributes["class"] = self._class(style)
        text = escape("".join(element.itertext()), quote=False) if tag == "text" else ""
        piece = _Piece(tag, attributes, text, joins=tag == "path" and "fill: none" in style)
        if clip is None or self._inside(element, clip):
            return piece
        # Around it, since what clips a copy moves with it.
        return _Piece("g", {"clip-path": f"url(#{self._clip(clip)})"}, _element(piece))

    def _class(self, style: str) -> str:
        """The class of a style."""
        if style not in self._styled:
            self._styled[style] = self.classes.setdefault(tight(self.themed(style)), f"s{len(self.classes)}")
        return self._styled[style]

    def _shared(self, shape: str) -> str:
        """The reference to a path that is defined once."""
        return "#" + self.shapes.setdefault(shape, f"{self.prefix}-{len(self.shapes)}")

    def _shape(self, element: ET.Element) -> str:
        """A filled path as if it began at the origin; empty for other elements."""
        d = element.get("d", "")
        if _tag(element) != "path" or "fill: none" in element.get("style", "") or len(d) < 60:
            return ""
        words = d.split()
        origin = float(words[1]), float(words[2])
        moved, odd = "", 1
        for word in words:
            if word.isalpha():
                moved += word
            else:
                odd = 1 - odd
                moved += f" {float(word) - origin[odd]:.4f} "
        if moved not in self._terse:
            self._terse[moved] = terse_path(moved, 2)
        return self._terse[moved]

    def _inside(self, element: ET.Element, clip: str) -> bool:
        """Whether clipping has no effect, or would cut a marker whose centre is inside: it is shown whole."""
        if _tag(element) == "text":
            return False
        x0, y0, x1, y1 = self._clips[clip]
        left, top, d = 0.0, 0.0, element.get("d", "")
        if _tag(element) == "use":
            left, top, d = float(element.get("x", "0")), float(element.get("y", "0")), self._marker(element)[0]
            if x0 - 0.1 < left < x1 + 0.1 and y0 - 0.1 < top < y1 + 0.1:
                return True
        numbers = [float(number) for number in NUMBER.findall(d)]
        xs, ys = [left + x for x in numbers[::2]], [top + y for y in numbers[1::2]]
        return not xs or (min(xs) > x0 - 0.1 and max(xs) < x1 + 0.1 and min(ys) > y0 - 0.1 and max(ys) < y1 + 0.1)

    def _marker(self, element: ET.Element) -> tuple[str, str]:
        """Path and style of what is used."""
        return self._markers[next(value for name, value in element.attrib.items() if name.endswith("href"))[1:]]

    def _clip(self, name: str) -> str:
        """The new name of a rectangle that clips something."""
        new = self._names[name]
        if name not in self._clipped:
            self._clipped.add(name)
            x0, y0, x1, y1 = self._clips[name]
            sides = zip(("x", "y", "width", "height"), (x0, y0, x1 - x0, y1 - y0), strict=True)
            rect = _element(_Piece("rect", {key: short(value, 1) for key, value in sides}))
            self.others.append(f'<clipPath id="{new}">{rect}</clipPath>')
        return new


def _tag(element: ET.Element) -> str:
    return str(element.tag).rpartition("}")[2]
