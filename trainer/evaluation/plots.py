"""The page's pictures: plots as SVG, spectrograms as PNG, both as text to put into the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.data.audio import Samples
from trainer.evaluation.hearing import Floats

INK, PALE, OURS, PEER, WRONG = "#22313a", "#d9e0e3", "#1f6f8b", "#c8742b", "#a63d40"
STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "svg.fonttype": "none",  # letters, not outlines: a tenth of the size, and they can be searched
    "svg.hashsalt": "fieldstation",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
in_style = mpl.rc_context(STYLE)
"""Decorates what draws: the style holds meanwhile, and nobody else's plots change"""
WIDTH = 7.4
"""Inches of every plot: the page's one column"""
N_FFT, HOP_S = 1024, 0.01
SPECTROGRAM_RANGE_DB = 60.0
TOP_HZ = 12_000

Interval = Sequence[float]


@in_style
def intervals(
    titles: Mapping[str, str], ours: Mapping[str, Any], peer: Mapping[str, Any] | None, name: str
) -> str:
    """Return measures as points with their 95 % intervals, a peer's below ours.

    Args:
        titles: of the measures to show.
        peer: measures by the same names; None leaves them out.
        name: what the peer is called.
    """
    shown = [measure for measure in titles if ours[measure] is not None]
    figure, axes = _figure(0.5 + 0.42 * len(shown))
    shift = 0.13 if peer else 0.0
    _points(axes, [ours[m] for m in shown], _interval_of(ours, shown), OURS, -shift)
    if peer:
        _points(axes, [peer[m] for m in shown], _interval_of(peer, shown), PEER, shift)
        axes.plot([], [], "o", color=PEER, label=name)
        axes.legend(frameon=False, loc="lower left")
    axes.set_yticks(range(len(shown)), [titles[measure] for measure in shown])
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.invert_yaxis()
    axes.grid(axis="x", color=PALE)
    return _svg(figure)


def _interval_of(report: Mapping[str, Any], measures: Sequence[str]) -> list[Interval | None]:
    return [report[f"{measure}_interval"] for measure in measures]


def _points(
    axes: Axes,
    values: Sequence[float | None],
    ranges: Sequence[Interval | None],
    colour: str,
    shift: float,
) -> None:
    """Draw a point, its interval and its number in each row where there is one."""
    for row, (value, interval) in enumerate(zip(values, ranges, strict=True)):
        if value is None or interval is None:
            continue
        y = row + shift
        axes.plot(interval, [y, y], color=colour, lw=2.5, alpha=0.45, solid_capstyle="round")
        axes.plot(value, y, "o", color=colour, ms=6)
        place = (max(interval), y)
        axes.annotate(f"{value:.3f}", place, (6, 0), textcoords="offset points", va="center")


@in_style
def species_bars(table: Mapping[str, Mapping[str, Any]]) -> str:
    """Return recall of each species as bars with intervals, and its precision as points."""
    rows = sorted(
        (row for row in table.values() if row["n"]), key=lambda row: (-row["recall"], -row["n"])
    )
    figure, axes = _figure(0.8 + 0.25 * len(rows))
    for place, row in enumerate(rows):
        low, high = row["recall_interval"]
        axes.barh(place, row["recall"], height=0.62, color=OURS, alpha=0.75)
        axes.plot([low, high], [place, place], color=INK, lw=1.2)
        if row["precision"] is not None:
            axes.plot(row["precision"], place, "D", color=PEER, ms=5, mec="white")
    axes.plot([], [], "D", color=PEER, ms=5, mec="white", label="precision")
    axes.barh([0], [0], color=OURS, alpha=0.75, label="recall, with its 95 % interval")
    axes.set_yticks(range(len(rows)), [f"{row['common_name']} ({row['n']})" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.02)
    axes.grid(axis="x", color=PALE)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.4, 0), ncols=2)
    axes.xaxis.tick_top()
    axes.spines["bottom"].set_visible(False)
    return _svg(figure)


@in_style
def confusion(
    counts: Mapping[str, Mapping[str, int]], common: Mapping[str, str], n_most: int = 40
) -> str:
    """Return the confusion by recording, row by row as shares, with the counts written in."""
    names = sorted(counts, key=lambda name: -sum(counts[name].values()))[:n_most]
    said = {other for name in names for other in counts[name]} - set(names)
    names = sorted(names, key=common.__getitem__)
    columns = [*names, *sorted(said, key=common.__getitem__)][: n_most + 10]
    table = np.array([[counts[row].get(column, 0) for column in columns] for row in names])
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure(1.6 + 0.27 * len(names))
    axes.imshow(shares, cmap=_scale(OURS), vmin=0, vmax=1, aspect="auto")
    for (row, column), n in np.ndenumerate(table):
        if n:
            colour = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, str(n), ha="center", va="center", color=colour, size=7.5)
    axes.set_yticks(range(len(names)), [common[name] for name in names])
    axes.set_xticks(range(len(columns)), [common[name] for name in columns], rotation=90)
    axes.set_ylabel("what it was")
    axes.set_xlabel("what was said")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return _svg(figure)


@in_style
def reliability(table: Sequence[Mapping[str, Any]]) -> str:
    """Return how often a peak of a given probability was right, and how many there were."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=PALE, lw=1.5)
    for row in table:
        upper.plot([row["said"]] * 2, row["right_interval"], color=OURS, lw=2.5, alpha=0.45)
    upper.plot([row["said"] for row in table], [row["right"] for row in table], "o-", color=OURS)
    upper.set_ylabel("share that was right")
    upper.set_ylim(0, 1.02)
    middles = [(row["from"] + row["to"]) / 2 for row in table]
    bars = lower.bar(middles, [row["n"] for row in table], width=0.09, color=OURS, alpha=0.6)
    lower.bar_label(bars, padding=2)
    lower.margins(y=0.35)
    lower.set_ylabel("peaks")
    lower.set_yticks([])
    lower.set_xlim(0, 1)
    lower.set_xlabel("probability that was told")
    return _svg(figure)


@in_style
def separation(groups: Mapping[str, Floats]) -> str:
    """Return how sure of any species the model was, for its species and for strangers."""
    figure, axes = _figure(2.4)
    for (name, peaks), colour in zip(groups.items(), (OURS, PEER, WRONG), strict=False):
        n, edges = np.histogram(peaks, np.linspace(0, 1, 21))
        axes.stairs(
            n / max(1, len(peaks)), edges, color=colour, lw=1.8, label=f"{name} ({len(peaks)})"
        )
    axes.set_xlim(0, 1)
    axes.set_xlabel("highest probability of any species in a recording")
    axes.set_ylabel("share of recordings")
    axes.legend(frameon=False)
    return _svg(figure)


@in_style
def spectrogram(
    samples: Samples, sample_rate: int, marked_s: tuple[float, float], from_s: float
) -> str:
    """Return a spectrogram as an `img` source, with a stretch of it marked.

    Args:
        samples: mono.
        marked_s: where the stretch begins and ends, in seconds of the recording.
        from_s: where the samples begin in it.
    """
    power = _power_db(samples, sample_rate)
    loudest = float(np.percentile(power, 99.9))
    figure, axes = _figure(1.75)
    until_s, top = from_s + len(samples) / sample_rate, sample_rate / 2_000
    axes.imshow(
        power.T,
        origin="lower",
        aspect="auto",
        cmap="Greys",
        vmin=loudest - SPECTROGRAM_RANGE_DB,
        vmax=loudest,
        extent=(from_s, until_s, 0.0, top),
    )
    axes.axvspan(*marked_s, ymin=0.97, color=WRONG, lw=0)
    for edge in marked_s:
        axes.axvline(edge, color=WRONG, lw=0.8, alpha=0.7)
    axes.set_xlim(from_s, until_s)
    axes.set_ylim(0, min(top, TOP_HZ / 1000))
    axes.set_yticks(np.arange(0, min(top, TOP_HZ / 1000), 4))
    axes.set_ylabel("kHz")
    axes.set_xlabel("s")
    return _png(figure)


def _power_db(samples: Samples, sample_rate: int) -> Floats:
    """Return the power of frames in decibels, [frames, bins]."""
    padded = np.pad(samples, (0, max(0, N_FFT - len(samples))))
    hop = max(1, round(HOP_S * sample_rate))
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::hop]
    spectrum = np.fft.rfft(frames * np.hanning(N_FFT), axis=1)
    power: Floats = 10 * np.log10(np.abs(spectrum) ** 2 + 1e-10)
    return power


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _scale(colour: str) -> Any:
    return mpl.colors.LinearSegmentedColormap.from_list("share", ["#ffffff", colour])


def _svg(figure: Figure) -> str:
    """Return the svg element alone, without the XML head that a page has no use for."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _png(figure: Figure) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")
