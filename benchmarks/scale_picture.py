"""Draw docs/pictures/scale.png: a simulated day with a flood, of one cell of ten billion flows a day.

Plotly draws it; Chromium, which must be on the path, takes the picture.

Usage: python -m benchmarks.scale_picture
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.result_files import read_result
from benchmarks.scale import Assumed, Measured, Planner
from benchmarks.scale_model import Day

FLOWS = 1e10
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "scale.png"
WIDTH, HEIGHT = 1_000, 780
FLOOD_H = (13.75, 14.75)


def draw(day: Day) -> go.Figure:
    """Return the day: flows a second, what waits and how busy stages are, the last two around the flood."""
    hours = (np.arange(len(day.arrived)) + 1) * day.step_s / 3600
    titles = (
        "flows a second, the whole day",
        "flows that wait in the broker, around the flood",
        "busy, around the flood",
    )
    figure = make_subplots(rows=3, cols=1, subplot_titles=titles, vertical_spacing=0.1)
    lines = [
        (1, "flows that come", day.arrived / day.step_s, "#9aa5b1"),
        (1, "verdicts in the store", day.scored / day.step_s, "#1f5fa8"),
        (2, "waiting", day.queued, "#b3541e"),
        (3, "busiest process", day.process, "#1f5fa8"),
        (3, "broker", day.broker, "#b3541e"),
        (3, "store", day.store, "#3b7d4f"),
    ]
    for row, name, values, colour in lines:
        line = go.Scatter(x=hours, y=values, name=name, line={"width": 1.6, "color": colour}, legend=f"legend{row}")
        figure.add_trace(line, row=row, col=1)
    places = {f"legend{row}": {"x": 0.01, "y": y, "orientation": "h"} for row, y in ((1, 1.0), (2, 0.64), (3, 0.27))}
    figure.update_layout(template="plotly_white", width=WIDTH, height=HEIGHT, margin={"t": 40, "b": 50}, **places)
    for row in (2, 3):
        figure.update_xaxes(range=FLOOD_H, row=row, col=1)
    figure.update_yaxes(tickformat=".0%", range=[0, 1.25], row=3, col=1)
    figure.update_xaxes(title_text="hour of the day", row=3, col=1)
    return figure


def main() -> None:
    """Simulate, draw and take the picture."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not on the path; install it (tests/install_servers.sh)")
    [plan] = [of for of in read_result("scale")["plans"] if of["flows_a_day"] == FLOWS]
    planner = Planner(Measured.read(), Assumed())
    _, flooded = planner.days(FLOWS, plan["cells"], plan["processes"] // plan["cells"])
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "scale.html")
        draw(flooded).write_html(page, include_plotlyjs=True, config={"staticPlot": True})
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=5000"]
        size = f"--window-size={WIDTH + 16},{HEIGHT + 16}"
        command = [chromium, *options, f"--user-data-dir={folder}/user", f"--screenshot={PICTURE}", size, page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
