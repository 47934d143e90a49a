"""A chart as SVG: panels one below the other, each with one line a server, all over the same axis.

Both axes are logarithmic: a ratio is a distance, the same anywhere on the chart. Colours and
background follow the reader's light or dark scheme (CSS Color Adjustment, prefers-color-scheme).
"""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Line = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 720, 300  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 80, 150, 40, 45
# For light and for dark, told apart without red and green.
COLOURS = (
    ("#0060c0", "#6cb4ff"),
    ("#c45500", "#ffa94d"),
    ("#6b6b6b", "#a8a8a8"),
    ("#8a2be2", "#c9a0ff"),
    ("#00807a", "#4fd1c5"),
    ("#a8005c", "#ff8ac4"),
)


def chart(across: str, panels: Mapping[str, Mapping[str, Line]]) -> str:
    """The document. `across`: what x says; each panel: its title, and the line of each name."""
    height = len(panels) * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f"<style>{_style()}</style>",
        '<rect class="paper" width="100%" height="100%"/>',
    ]
    for number, (title, lines) in enumerate(panels.items()):
        parts += [f'<g transform="translate(0 {number * HEIGHT})">', *_panel(title, across, lines)]
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _style() -> str:
    def colours(dark: bool) -> str:
        return "".join(
            f".s{number}{{stroke:{pair[dark]};fill:{pair[dark]}}}"
            for number, pair in enumerate(COLOURS)
        )

    return (
        "text{fill:#222;stroke:none}.paper{fill:#fff}.grid{stroke:#ddd}polyline{fill:none!important;"
        f"stroke-width:2}}{colours(False)}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}.paper{fill:#111}.grid{stroke:#333}"
        f"{colours(True)}}}"
    )


def _panel(title: str, across: str, lines: Mapping[str, Line]) -> list[str]:
    points = [point for line in lines.values() for point in line]
    left, right = math.log(min(x for x, _ in points)), math.log(max(x for x, _ in points))
    low = math.floor(math.log10(min(y for _, y in points)))
    high = math.ceil(math.log10(max(y for _, y in points)))
    high = max(high, low + 1)

    def across_at(x: float) -> float:
        share = (math.log(x) - left) / (right - left) if right > left else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up_at(y: float) -> float:
        share = (math.log10(y) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    end = WIDTH - RIGHT
    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">{escape(title)}</text>']
    for power in range(low, high + 1):
        y = up_at(10**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10**power:,}</text>')
    base = HEIGHT - BOTTOM
    for x in sorted({x for x, _ in points}):
        at = across_at(x)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{base}"/>')
        parts.append(f'<text x="{at:.1f}" y="{base + 16}" text-anchor="middle">{x:,}</text>')
    middle = (LEFT + end) / 2
    parts.append(f'<text x="{middle}" y="{base + 34}" text-anchor="middle">{escape(across)}</text>')
    labels = _apart([(up_at(line[-1][1]), name) for name, line in lines.items()])
    for number, (name, line) in enumerate(lines.items()):
        kind = f"s{number % len(COLOURS)}"
        at = [(across_at(x), up_at(y)) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline class="{kind}" points="{path}"/>')
        parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in at]
        label = labels[name]
        parts.append(f'<circle class="{kind}" cx="{end + 14}" cy="{label:.1f}" r="4"/>')
        parts.append(f'<text x="{end + 24}" y="{label + 4:.1f}">{escape(name)}</text>')
    return parts


def _apart(labels: Sequence[tuple[float, str]], least: float = 16) -> dict[str, float]:
    """Where the name of each line stands: at its end, but no two on each other."""
    placed: dict[str, float] = {}
    last = -math.inf
    for y, name in sorted(labels):
        placed[name] = last = max(y, last + least)
    return placed
