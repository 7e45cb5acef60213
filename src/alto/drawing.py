"""A pipeline's graph as text, as a Mermaid diagram, and as an SVG picture.

Boxes are stages and operators, from left to right in the order in which data flows; the level of
each says for what it runs. An arrow with `*` carries everything below the item it goes to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from .annotations import type_name
from .core.graph import Flow, Gather, Graph, Kind, Level, Use
from .stages import LM

BOX_W, BOX_H, GAP_X, GAP_Y, MARGIN = 168, 54, 72, 26, 24


def level_name(level: Level) -> str:
    """For what a use on this level runs, in words."""
    if level.opener is None:
        return "once per request"
    return f"for each item of {level.opener.name}"


def _arrow(flow: Flow, gather: Gather | None) -> str:
    name = flow.name
    return f"{name}*" if gather is not None else name


def _inputs(use: Use) -> Iterator[tuple[str | None, Flow, Gather | None]]:
    for name, flow in use.items:
        yield name, flow, None
    for gather in use.gathers:
        yield gather.parameter, gather.flow, gather


def _gives(use: Use) -> str:
    shown = type_name(use.out.type)
    return f"Stream[{shown}]" if use.opens is not None else shown


def as_text(graph: Graph) -> str:
    """One line for each use: what it takes, what it gives, how often it runs."""
    lines = [f"pipeline {graph.name}({', '.join(graph.parameters)})"]
    for use in graph.uses:
        takes = ", ".join(
            f"{name}={_arrow(flow, gather)}" if name else _arrow(flow, gather)
            for name, flow, gather in _inputs(use)
        )
        kind = "lm" if isinstance(use.stage, LM) else use.kind.value
        lines.append(f"  {use.name}({takes}) -> {_gives(use)}   [{kind}, {level_name(use.level)}]")
    for output in graph.outputs:
        how = "one value" if output.flow.level is graph.root else "a list, in path order"
        name = "result" if graph.single else f"result[{output.name!r}]"
        lines.append(f"  {name} = {output.flow.name}   [{how}]")
    lines.extend(f"  warning: {warning}" for warning in graph.warnings)
    return "\n".join(lines) + "\n"


def _id(name: str) -> str:
    return re.sub(r"\W", "_", name)


def as_mermaid(graph: Graph) -> str:
    """A Mermaid flowchart."""
    lines = ["flowchart LR"]
    for parameter in graph.parameters:
        lines.append(f'  in_{_id(parameter)}(["{parameter}"])')
    for use in graph.uses:
        left, right = ("[[", "]]") if isinstance(use.stage, LM) else ("[", "]")
        if use.kind is not Kind.STAGE:
            left, right = "{{", "}}"
        lines.append(
            f'  {_id(use.name)}{left}"{use.name}<br/><i>{level_name(use.level)}</i>"{right}'
        )
    for use in graph.uses:
        for name, flow, gather in _inputs(use):
            label = "" if name is None else f"|{name}|"
            line = "==>" if gather is not None else "-->"
            lines.append(f"  {_source_id(flow)} {line}{label} {_id(use.name)}")
    for output in graph.outputs:
        lines.append(f'  out_{_id(output.name)}(["{output.name}"])')
        lines.append(f"  {_source_id(output.flow)} --> out_{_id(output.name)}")
    return "\n".join(lines) + "\n"


def _source_id(flow: Flow) -> str:
    return _id(flow.name) if flow.origin is not None else f"in_{_id(flow.name)}"


def _ranks(graph: Graph) -> dict[str, tuple[int, int]]:
    """Each box's column and row: a column to the right of all that it takes."""
    column: dict[str, int] = {f"in_{name}": 0 for name in graph.parameters}
    for use in graph.uses:
        sources = [_key(flow) for _, flow, _ in _inputs(use)]
        column[f"use_{use.name}"] = max((column[key] + 1 for key in sources), default=1)
    last = max(column.values(), default=0)
    for output in graph.outputs:
        column[f"out_{output.name}"] = last + 1
    rows: dict[int, int] = {}
    places = {}
    for key, place in column.items():
        places[key] = (place, rows.get(place, 0))
        rows[place] = rows.get(place, 0) + 1
    return places


def _key(flow: Flow) -> str:
    return f"in_{flow.name}" if flow.origin is None else f"use_{flow.origin.name}"


def as_svg(graph: Graph) -> str:
    """A picture of its own, readable on light and on dark ground."""
    places = _ranks(graph)
    width = MARGIN * 2 + (max(c for c, _ in places.values()) + 1) * (BOX_W + GAP_X) - GAP_X
    height = MARGIN * 2 + (max(r for _, r in places.values()) + 1) * (BOX_H + GAP_Y) - GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="ui-sans-serif, system-ui, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#8a94a6"/></marker></defs>',
    ]
    for use in graph.uses:
        for _, flow, gather in _inputs(use):
            parts.append(_edge(places[_key(flow)], places[f"use_{use.name}"], gather is not None))
    for output in graph.outputs:
        parts.append(_edge(places[_key(output.flow)], places[f"out_{output.name}"], False))
    for name, flow in graph.parameters.items():
        parts.append(_box(places[f"in_{name}"], name, type_name(flow.type), "#eef1f6", 27))
    for use in graph.uses:
        colour = "#dbe7ff" if isinstance(use.stage, LM) else "#e3f4e6"
        if use.kind is not Kind.STAGE:
            colour = "#fdf0d5"
        parts.append(_box(places[f"use_{use.name}"], use.name, level_name(use.level), colour, 8))
    for output in graph.outputs:
        parts.append(_box(places[f"out_{output.name}"], output.name, "output", "#eef1f6", 27))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    return MARGIN + place[0] * (BOX_W + GAP_X), MARGIN + place[1] * (BOX_H + GAP_Y)


def _box(place: tuple[int, int], title: str, below: str, colour: str, radius: int) -> str:
    x, y = _corner(place)
    middle = x + BOX_W // 2
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_W}" height="{BOX_H}" rx="{radius}" fill="{colour}" '
        f'stroke="#8a94a6"/><text x="{middle}" y="{y + 23}" text-anchor="middle" font-size="14" '
        f'font-weight="600" fill="#1d2433">{escape(title)}</text><text x="{middle}" y="{y + 41}" '
        f'text-anchor="middle" font-size="10.5" fill="#4a5568">{escape(_short(below))}</text>'
    )


def _short(text: str) -> str:
    return text if len(text) <= 30 else text[:29] + "…"


def _edge(source: tuple[int, int], target: tuple[int, int], gathered: bool) -> str:
    x1, y1 = _corner(source)
    x2, y2 = _corner(target)
    x1, y1, y2 = x1 + BOX_W, y1 + BOX_H // 2, y2 + BOX_H // 2
    bend = max(30, (x2 - x1) // 2)
    thick = 3 if gathered else 1.4
    return (
        f'<path d="M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2 - 2} {y2}" fill="none" '
        f'stroke="#8a94a6" stroke-width="{thick}" marker-end="url(#tip)"/>'
    )
