"""The dashboard drawn as one plain HTML page: its panels, where its JSON puts them, with what a Prometheus answers.

This is not Grafana. It draws what can be wrong with a dashboard: titles, places, queries, units, legends, thresholds.
"""

import time
from collections.abc import Mapping
from html import escape
from typing import Any

from tests.support.dashboard_data import Line, Span
from tests.support.dashboard_plots import heatmap, plot, timeline, worded

CELL_PX, GAP_PX = 30, 8
"""Grafana's own: height of a unit of the grid, and the space between two."""
STYLE = f"""
* {{ box-sizing: border-box }}
body {{ margin: 0; padding: 12px; background: #111217; color: #ccccdc; font: 12px/1.4 sans-serif }}
header {{ display: flex; gap: 16px; align-items: baseline; padding: 0 4px 12px }}
h1 {{ font-size: 18px; font-weight: 500; margin: 0 }} header span {{ color: #8e8e9f }}
main {{ display: grid; grid-template-columns: repeat(24, 1fr); grid-auto-rows: {CELL_PX}px; gap: {GAP_PX}px }}
h2 {{ font-size: 15px; font-weight: 500; margin: 0; align-self: center; color: #fff }}
section {{ background: #181b1f; border: 1px solid #2b2d34; border-radius: 2px; padding: 6px 8px; overflow: hidden;
  display: flex; flex-direction: column; min-width: 0; min-height: 0 }}
h3 {{ font-size: 13px; font-weight: 500; margin: 0 0 4px; white-space: nowrap }}
.plot {{ flex: 1; min-height: 0 }} svg {{ width: 100%; height: 100%; display: block }}
.legend {{ white-space: nowrap; overflow: hidden; color: #9fa7b3; font-size: 11px }}
.legend i {{ display: inline-block; width: 12px; height: 3px; margin: 0 4px 3px 0 }}
.legend span {{ margin-right: 10px }}
.stats {{ display: flex; flex: 1; gap: 4px; min-height: 0 }}
.stats div {{ flex: 1; border-radius: 2px; color: #fff; text-align: center; display: flex; flex-direction: column;
  justify-content: center; min-width: 0 }}
.stats b {{ font-size: 22px; font-weight: 500; white-space: nowrap }}
table {{ border-collapse: collapse; font-size: 11px; white-space: nowrap }}
th, td {{ text-align: left; padding: 3px 10px 3px 0; border-bottom: 1px solid #2b2d34 }} th {{ color: #6e9fff }}
.none {{ margin: auto; color: #6b6b7b }} svg text {{ fill: #9fa7b3; font-size: 10px }}
"""


def page(made: Mapping[str, Any], drawn: Mapping[int, list[Line]], span: Span) -> str:
    """The whole page; `drawn` has the series of each panel by its id."""
    blocks = [_block(panel, drawn.get(panel["id"], []), span) for panel in made["panels"]]
    minutes = round((span.end - span.start) / 60)
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(span.end))
    names = " ".join(f"[{one['label']}: all]" for one in made["templating"]["list"] if one["type"] == "query")
    return (
        f"<!doctype html><meta charset=utf-8><title>{escape(made['title'])}</title><style>{STYLE}</style>"
        f"<header><h1>{escape(made['title'])}</h1><span>{escape(names)}</span>"
        f"<span>{minutes} min until {at}, drawn from the dashboard's JSON, not by Grafana</span></header>"
        f"<main>{''.join(blocks)}</main>"
    )


def _block(panel: Mapping[str, Any], shown: list[Line], span: Span) -> str:
    place = panel["gridPos"]
    style = f"grid-area:{place['y'] + 1}/{place['x'] + 1}/span {place['h']}/span {place['w']}"
    if panel["type"] == "row":
        return f'<h2 style="{style}">▾ {escape(panel["title"])}</h2>'
    inside = _inside(panel, shown, span) if shown else '<div class="none">No data</div>'
    told = escape(panel["description"])
    return f'<section style="{style}" title="{told}"><h3>{escape(panel["title"])}</h3>{inside}</section>'


def _inside(panel: Mapping[str, Any], shown: list[Line], span: Span) -> str:
    place = panel["gridPos"]
    # About as wide as it is going to be, so that letters are not stretched; for a page of 1600 pixels.
    size = (place["w"] * 65 - 24, place["h"] * (CELL_PX + GAP_PX) - 62)
    match panel["type"]:
        case "stat":
            return _stats(panel, shown)
        case "table":
            return _table(panel, shown)
        case "state-timeline":
            return f'<div class="plot">{timeline(panel, shown, span, size)}</div>'
        case "heatmap":
            return f'<div class="plot">{heatmap(panel, shown, span, size)}</div>'
        case _:
            colors, svg = plot(panel, shown, span, size)
            legend = "".join(f'<span><i style="background:{color}"></i>{escape(name)}</span>' for name, color in colors)
            return f'<div class="plot">{svg}</div><div class="legend">{legend}</div>'


def _stats(panel: Mapping[str, Any], shown: list[Line]) -> str:
    cells = []
    for line in shown:
        text, color = worded(panel, line.points[-1][1])
        name = f"<small>{escape(line.name)}</small>" if len(shown) > 1 else ""
        cells.append(f'<div style="background:{color}">{name}<b>{escape(text)}</b></div>')
    return f'<div class="stats">{"".join(cells)}</div>'


def _table(panel: Mapping[str, Any], shown: list[Line]) -> str:
    told = panel["transformations"][0]["options"]
    names = {name for line in shown for name in line.labels} - {
        name for name, hidden in told["excludeByName"].items() if hidden
    }
    order = sorted(names, key=lambda name: (told["indexByName"].get(name, len(names) + 9), name))
    head = "".join(f"<th>{escape(name)}</th>" for name in order)
    rows = ("".join(f"<td>{escape(line.labels.get(name, '')[:40])}</td>" for name in order) for line in shown)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
