"""A picture of what `tidegate top` prints."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tidegate.serving import top

_TITLE = "What tidegate top shows of two batchers under load"
_DESCRIPTION = (
    "A table with a line for each batcher: requests and errors per second, quantiles of request, "
    "queue and model durations, rows per batch, why batches went, what waits, and instances."
)


def draw_screen(path: Path, url: str, seconds: float) -> None:
    """Watch the server for an interval, and draw the table as on a terminal."""
    console = Console(record=True, width=132, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ tidegate top --once", style="green"))
    if not top.run(top.Options(urls=[url], interval=seconds, once=True), console):
        raise RuntimeError(f"{url} did not answer")
    svg = console.export_svg(title="tidegate top", unique_id="top")
    # Its fonts are on somebody else's server, where a picture in a page may not look.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, 'DejaVu Sans Mono', monospace")
    path.write_text(described(svg, _TITLE, _DESCRIPTION))


def described(svg: str, title: str, description: str) -> str:
    """An SVG that says what it shows, without blanks at the ends of lines."""
    start = svg.index(">", svg.index("<svg")) + 1
    told = f"\n<title>{title}</title>\n<desc>{description}</desc>"
    lines = (svg[:start] + told + svg[start:]).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"
