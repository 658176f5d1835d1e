"""Interactive figures of events: a map of directions, a sphere, and a timeline, all in the colours of the picture.

`page.js` moves a time through them: it reads the traces whose `meta` is "path" and fills the one that is "now".
"""

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from modeling_pseldnet.events import Events, direction_to_vector
from modeling_pseldnet.tools.plots import COLOURS


# Marker symbols that Plotly has in two and in three dimensions, and the characters that look like them.
SYMBOLS = {"circle": "●", "diamond": "◆", "square": "■", "cross": "✚", "x": "✖"}
TEXT, GRID = "#475569", "#e2e8f0"
LAYOUT = {
    "template": "none",
    "showlegend": False,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, sans-serif", "size": 12, "color": TEXT},
    "hoverlabel": {"font": {"family": "system-ui, sans-serif", "size": 13}},
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#94a3b8", "activecolor": TEXT},
    # A finger that moves over a figure scrolls the page.
    "dragmode": False,
}
AXIS = {"gridcolor": GRID, "zeroline": False, "ticks": "", "automargin": True}
NOW = {"meta": "now", "hoverinfo": "skip", "marker": {"line": {"color": "white", "width": 1}}}


class Style(NamedTuple):
    """How the events of a class are drawn; `symbol` is a key of `SYMBOLS`."""

    colour: str
    symbol: str


def class_styles(events: Events, id2label: dict[int, str]) -> dict[str, Style]:
    """A style for each class that occurs, by its label; colours are those of [`plot_events`]."""
    symbols = list(SYMBOLS)
    return {
        id2label[int(class_id)]: Style(COLOURS[number % len(COLOURS)], symbols[number // len(COLOURS) % len(symbols)])
        for number, class_id in enumerate(np.unique(events.class_id))
    }


def display_name(label: str) -> str:
    """A label as people read it."""
    return label.replace("_", " ")


def direction_map(records: list[dict], styles: dict[str, Style]) -> go.Figure:
    """Azimuth against elevation as the listener sees them: front in the middle, left on the left.

    Args:
        records: as [`to_records`] gives them.
        styles: of each label in them.
    """
    figure = go.Figure()
    for label, style in styles.items():
        points = _path(records, label)
        hover = "%{customdata[0]:.1f} s: azimuth %{x:.0f}°, elevation %{y:.0f}°"
        figure.add_scatter(x=_column(points, 1), y=_column(points, 2), **_path_style(label, style, points, hover, 6))
    names = {"color": "#0f172a", "size": 13}
    figure.add_scatter(x=[], y=[], mode="markers+text", textfont=names, cliponaxis=False, **NOW)
    figure.update_layout(
        LAYOUT,
        title=_title("Directions, as the listener sees them"),
        height=400,
        margin={"l": 8, "r": 28, "t": 40, "b": 8},
        xaxis=AXIS
        | {
            "ticklabelstandoff": 8,
            "range": [180, -180],
            "tickvals": [180, 90, 0, -90, -180],
            "ticktext": ["180°<br>back", "90°<br>left", "0°<br>front", "-90°<br>right", "-180°<br>back"],
        },
        yaxis=AXIS
        | {"range": [-90, 90], "tickvals": [-90, -45, 0, 45, 90], "ticksuffix": "°", "title": {"text": "elevation"}},
    )
    return figure


def sphere(records: list[dict], styles: dict[str, Style]) -> go.Figure:
    """The same on a sphere around the listener, seen from behind and above; arguments as for [`direction_map`]."""
    figure = go.Figure()
    for lines, width, colour in ((_graticule(), 1, "#cbd5e1"), (_circle(elevation=0), 3, "#94a3b8")):
        x, y, z = lines.T
        style = {"color": colour, "width": width}
        figure.add_scatter3d(x=x, y=y, z=z, mode="lines", line=style, hoverinfo="skip", connectgaps=False)
    # A veil over what is behind the sphere.
    grid = np.meshgrid(np.linspace(-180, 180, 37), np.linspace(-90, 90, 19))
    x, y, z = np.moveaxis(0.97 * direction_to_vector(*grid), -1, 0)
    figure.add_surface(
        x=x, y=y, z=z, opacity=0.5, showscale=False, hoverinfo="skip",
        colorscale=[[0, "#f8fafc"], [1, "#f8fafc"]], lighting={"ambient": 1, "diffuse": 0, "specular": 0},
    )  # fmt: skip
    places = {"front": (1.25, 0, 0), "left": (0, 1.2, 0), "back": (-1.2, 0, 0), "right": (0, -1.2, 0)}
    x, y, z = np.array([*places.values(), (0, 0, 1.2)]).T
    figure.add_scatter3d(x=x, y=y, z=z, mode="text", text=[*places, "up"], hoverinfo="skip")
    figure.add_scatter3d(
        x=[0], y=[0], z=[0], mode="markers", marker={"size": 4, "color": TEXT}, hovertemplate="listener<extra></extra>"
    )
    for label, style in styles.items():
        points = _path(records, label)
        directions = [point[1:] if point else (np.nan, np.nan) for point in points]
        x, y, z = _without_nan(direction_to_vector(*np.array(directions).reshape(-1, 2).T))
        hover = "%{customdata[0]:.1f} s: azimuth %{customdata[1]:.0f}°, elevation %{customdata[2]:.0f}°"
        figure.add_scatter3d(x=x, y=y, z=z, **_path_style(label, style, points, hover, 3.5))
    figure.add_scatter3d(x=[], y=[], z=[], mode="markers", **NOW)
    hidden = {"visible": False, "range": [-1.3, 1.3]}
    figure.update_layout(
        LAYOUT,
        title=_title("Around the listener: drag to turn"),
        height=400,
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        scene={
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "aspectmode": "cube",
            "dragmode": "orbit",
            "camera": {"eye": {"x": -1.5, "y": 0.17, "z": 0.8}, "center": {"x": 0, "y": 0, "z": -0.03}},
        },
    )
    return figure


def timeline(records: list[dict], styles: dict[str, Style], seconds: float) -> go.Figure:
    """When each class sounds, a row a class, and a line at the time of the moment.

    Args:
        records, styles: as for [`direction_map`].
        seconds: end of the time axis.
    """
    figure = go.Figure()
    for label, style in styles.items():
        events = [record for record in records if record["label"] == label]
        figure.add_bar(
            name=label,
            orientation="h",
            y=[display_name(label)] * len(events),
            base=[event["onset"] for event in events],
            x=[event["offset"] - event["onset"] for event in events],
            customdata=[[event["onset"], event["offset"], event["azimuth"], event["elevation"]] for event in events],
            hovertemplate="%{customdata[0]:.1f}-%{customdata[1]:.1f} s, azimuth %{customdata[2]:.0f}°,"
            f" elevation %{{customdata[3]:.0f}}°<extra>{display_name(label)}</extra>",
            marker={"color": style.colour, "cornerradius": 4, "opacity": 0.9},
        )
    figure.update_layout(
        LAYOUT,
        title=_title("When they sound"),
        height=96 + 30 * max(len(styles), 1),
        margin={"l": 8, "r": 28, "t": 40, "b": 8},
        barmode="overlay",
        bargap=0.35,
        xaxis=AXIS | {"range": [0, seconds], "ticksuffix": " s"},
        yaxis=AXIS | {"autorange": "reversed", "type": "category", "showgrid": False, "ticksuffix": "  "},
        shapes=[
            {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "visible": False}
            | {"line": {"color": "#0f172a", "width": 2}}
        ],
    )
    return figure


def _title(text: str) -> dict:
    return {"text": text, "x": 0, "y": 1, "yanchor": "top", "pad": {"t": 10}, "font": {"size": 13, "weight": 600}}


def _path(records: list[dict], label: str) -> list[tuple[float, float, float] | None]:
    """Time, azimuth and elevation of all events of a class; None where the line breaks, at their ends and at 180°."""
    points: list[tuple[float, float, float] | None] = []
    for record in records:
        if record["label"] != label:
            continue
        points.append(None)
        for step in record["trajectory"]:
            if points[-1] and abs(points[-1][1] - step["azimuth"]) > 180:
                points.append(None)
            points.append((step["time"], step["azimuth"], step["elevation"]))
    return points[1:]


def _column(points: list, index: int) -> list[float | None]:
    return [point[index] if point else None for point in points]


def _without_nan(vectors: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 4) for value in column] for column in vectors.T]


def _path_style(label: str, style: Style, points: list, hover: str, size: float) -> dict:
    return {
        "name": label,
        "meta": "path",
        "mode": "lines+markers",
        "customdata": points,
        "line": {"color": style.colour, "width": 3},
        "marker": {"color": style.colour, "symbol": style.symbol, "size": size},
        "hovertemplate": f"{hover}<extra>{display_name(label)}</extra>",
    }


def _circle(**fixed: float) -> np.ndarray:
    """Points (73, 3) on the unit sphere along a parallel or a meridian, whose `elevation` or `azimuth` is given."""
    around = np.linspace(-180, 180, 73)
    if "elevation" in fixed:
        return direction_to_vector(around, np.full_like(around, fixed["elevation"]))
    return direction_to_vector(np.full_like(around, fixed["azimuth"]), around)


def _graticule() -> np.ndarray:
    """Parallels and meridians every 30°, as points (n, 3) with NaN between them."""
    circles = [_circle(elevation=elevation) for elevation in (-60, -30, 30, 60)]
    circles += [_circle(azimuth=azimuth) for azimuth in range(0, 180, 30)]
    return np.concatenate([np.vstack([circle, [[np.nan] * 3]]) for circle in circles])
