"""Draws the pictures of these pages: `python docs/pictures.py` writes docs/pictures/*.svg.

Each picture has a light and a dark look and its own background, so it is readable on any page.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent / "pictures"
STYLE = """
.ground { fill: #f7f9f9 } .box { fill: #ffffff; stroke: #5c6b6b } .free { fill: #e6ecec; stroke: #5c6b6b }
.full { fill: #80cbc4; stroke: #5c6b6b } .flag { fill: #ffd180; stroke: #5c6b6b }
.line { stroke: #37474f; fill: none } .thin { stroke: #90a4a4; fill: none } .tip { fill: #37474f }
text { fill: #1f2a2a; font: 14px system-ui, sans-serif } .small { font-size: 11px }
.load { stroke: #37474f; fill: none; stroke-dasharray: 5 4 } .code { font: 13px ui-monospace, monospace }
.name { font-weight: 600 } .soft { fill: #52605f }
@media (prefers-color-scheme: dark) {
.ground { fill: #22262e } .box { fill: #2c313c; stroke: #8fa3a3 } .free { fill: #363d4a; stroke: #8fa3a3 }
.full { fill: #00796b; stroke: #8fa3a3 } .flag { fill: #8d5a00; stroke: #8fa3a3 }
.line, .load { stroke: #cfd8d8 } .thin { stroke: #607575 } .tip { fill: #cfd8d8 }
text { fill: #eef3f3 } .soft { fill: #b3c2c2 }
}
"""


class Picture:
    """SVG elements, in the order in which they are drawn: the later ones are on top."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'role="img">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>',
            f'<rect class="ground" width="{width}" height="{height}" rx="10"/>',
        ]

    def box(self, x: int, y: int, width: int, height: int, look: str = "box", corner: int = 4) -> None:
        self.parts.append(
            f'<rect class="{look}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{corner}"/>'
        )

    def text(self, x: int, y: int, words: str, look: str = "", anchor: str = "middle") -> None:
        self.parts.append(
            f'<text class="{look}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def line(self, *points: tuple[int, int], look: str = "line") -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(f'<polyline class="{look}" points="{path}"/>')

    def arrow(self, *points: tuple[int, int], look: str = "line") -> None:
        """A line along these points, with a tip at the last; its last piece is level or upright."""
        (x0, y0), (x, y) = points[-2:]
        self.line(*points, look=look)
        if x0 == x:
            back = -9 if y > y0 else 9
            tip = f"{x},{y} {x - 4},{y + back} {x + 4},{y + back}"
        else:
            back = -9 if x > x0 else 9
            tip = f"{x},{y} {x + back},{y - 4} {x + back},{y + 4}"
        self.parts.append(f'<polygon class="tip" points="{tip}"/>')

    def svg(self) -> str:
        return "\n".join([*self.parts, "</svg>", ""])


def rings() -> str:
    """A channel: two ports, a ring each way, and the two semaphores of each ring."""
    picture = Picture(760, 400, "Two ports, the two rings between them, and the semaphores of each ring")
    for x, name in ((20, "Port 0"), (620, "Port 1")):
        picture.box(x, 70, 120, 260, corner=8)
        picture.text(x + 60, 58, name, "name")
    picture.box(200, 70, 360, 260, corner=8)
    picture.text(380, 58, "the segment, in shared memory", "name")
    for index, top in enumerate((80, 220)):
        _ring(picture, index, top)
    picture.text(380, 362, "The writer stores TAIL after the frame, the reader HEAD after the copy.", "soft")
    picture.text(380, 384, "A semaphore is posted only when the other side has said that it sleeps.", "soft")
    return picture.svg()


def _ring(picture: Picture, index: int, top: int) -> None:
    """Ring ``index``: port ``index`` writes into it, the other port reads."""
    rightward = index == 0
    left, cell, cells = 220, 40, 8
    filled = range(2, 6)
    for number in range(cells):
        picture.box(left + number * cell, top + 26, cell, 40, "full" if number in filled else "free", 0)
    low, high = left + filled.start * cell, left + filled.stop * cell
    tail, head = (low, high) if rightward else (high, low)  # the oldest are next to the reader
    picture.text(380, top + 18, f"ring {index}: frames on their way", "soft")
    for x, name in ((head, "HEAD"), (tail, "TAIL")):
        picture.arrow((x, top + 86), (x, top + 68))
        picture.text(x, top + 100, name, "code")
    producer, consumer = ("write", "read") if rightward else ("read", "write")
    picture.text(80, top + 51, producer, "code")
    picture.text(680, top + 51, consumer, "code")
    for start in (140, 540):
        ends = (start, start + 80) if rightward else (start + 80, start)
        picture.arrow((ends[0], top + 46), (ends[1], top + 46))
    space, items = (80, 680) if rightward else (680, 80)
    for x, name, when in ((space, "space", "full"), (items, "items", "empty")):
        picture.box(x - 52, top + 64, 104, 40, "flag", 20)
        picture.text(x, top + 81, name, "code name")
        picture.text(x, top + 97, f"sleeps if {when}", "small")


def wake() -> str:
    """What a reader that goes to sleep and a writer that wakes it store, and in which order."""
    picture = Picture(760, 490, "A reader goes to sleep, a writer wakes it")
    picture.text(380, 476, "solid: a store; dashed: what a load finds", "soft")
    reader, words, writer = 130, 380, 630
    for x, name in ((reader, "reader"), (words, "shared memory"), (writer, "writer")):
        picture.text(x, 34, name, "name")
        picture.line((x, 46), (x, 450), look="thin")
    _note(picture, reader, 56, "ring empty: spins ≤ 150 µs")
    _store(picture, reader, words, 108, "READER_SLEEPS = 1")
    _note(picture, reader, 122, "fence", "flag")
    _load(picture, words, reader, 180, "TAIL: still empty")
    _note(picture, reader, 194, "sleeps on items, ≤ 100 ms", "free", height=176)
    _store(picture, writer, words, 230, "frame, then TAIL")
    _note(picture, writer, 244, "fence", "flag")
    _load(picture, words, writer, 302, "READER_SLEEPS: 1")
    _store(picture, writer, words, 332, "READER_SLEEPS = 0")
    picture.arrow((writer, 364), (reader + 100, 364))
    picture.text(words, 358, "posts the semaphore items", "code")
    _load(picture, words, reader, 404, "TAIL: a frame")
    _store(picture, reader, words, 434, "copies it out, then HEAD")
    return picture.svg()


def _note(picture: Picture, x: int, y: int, words: str, look: str = "box", height: int = 28) -> None:
    picture.box(x - 100, y, 200, height, look)
    picture.text(x, y + 19, words)


def _store(picture: Picture, side: int, words: int, y: int, what: str) -> None:
    picture.arrow((side, y), (words, y))
    picture.text((side + words) // 2, y - 6, what, "code")


def _load(picture: Picture, words: int, side: int, y: int, what: str) -> None:
    picture.arrow((words, y), (side, y), look="load")
    picture.text((side + words) // 2, y - 6, what, "code")


def icon() -> str:
    """Two arrows past each other."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="#00897b">\n'
        '<path d="M3 7h12V3l6 6-6 6v-4H3z" transform="translate(0 -2)"/>\n'
        '<path d="M21 17H9v-4l-6 6 6 6v-4h12z" transform="translate(0 -3)"/>\n</svg>\n'
    )


PICTURES = {"rings.svg": rings, "wake.svg": wake, "icon.svg": icon}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw())
