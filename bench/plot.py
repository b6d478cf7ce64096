"""Horizontal bars as SVG. Knows nothing of what they stand for, and needs nothing but text."""

from collections.abc import Sequence
from html import escape

import msgspec

_WIDTH, _LABELS, _BARS = 760, 250, 400
_BAR, _GAP, _HEAD = 20, 14, 56
# Text that is readable on white and on black; colours that are told apart without seeing red and green.
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.title{font-size:16px;font-weight:600}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}}"
)
_COLOURS = ("#2f81f7", "#9198a1", "#d29922", "#6e7681")


class Bar(msgspec.Struct, frozen=True):
    """`value` decides the length, `text` is written behind it; bars of one `series` have one colour."""

    series: str
    value: float
    text: str


class Group(msgspec.Struct, frozen=True):
    """Bars that share a label. `mark` is where a line goes across them: a target."""

    label: str
    bars: Sequence[Bar]
    mark: float | None = None


def bars(title: str, groups: Sequence[Group]) -> str:
    """The whole file. All groups have one scale, so what has several units takes several plots, or ratios."""
    longest = max(value for group in groups for value in (*(bar.value for bar in group.bars), group.mark or 0.0))
    names = list(dict.fromkeys(bar.series for group in groups for bar in group.bars))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    parts = [_text(10, 24, title, "title"), *_legend(colours)]
    top = float(_HEAD)
    for group in groups:
        height = len(group.bars) * _BAR
        parts.append(_text(_LABELS - 10, top + height / 2 + 4, group.label, anchor="end"))
        for number, bar in enumerate(group.bars):
            y, length = top + number * _BAR, bar.value / longest * _BARS
            parts.append(_rectangle(_LABELS, y + 2, max(length, 1.0), _BAR - 4, colours[bar.series]))
            parts.append(_text(_LABELS + length + 6, y + 14, bar.text))
        if group.mark is not None:
            x = _LABELS + group.mark / longest * _BARS
            parts.append(f'<path d="M{x:.1f} {top - 3:.1f}v{height + 6}" stroke="#cf222e" stroke-dasharray="4 3"/>')
        top += height + _GAP
    box = f'width="{_WIDTH}" height="{top:.0f}" viewBox="0 0 {_WIDTH} {top:.0f}"'
    body = "\n".join([f"<style>{_STYLE}</style>", *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {box}>\n{body}\n</svg>\n'


def _legend(colours: dict[str, str]) -> list[str]:
    parts = []
    x = 10.0
    for name, colour in colours.items():
        parts += [_rectangle(x, 36, 12, 12, colour), _text(x + 17, 46, name)]
        x += 40 + 7.5 * len(name)
    return parts


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    attributes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{attributes}>{escape(text)}</text>'


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" fill="{colour}"/>'
