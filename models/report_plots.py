"""The four pictures of a report, as PNG bytes; drawn without a display."""

import io
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from models.metrics import Values, binomial_interval
from models.report_details import GOOD, GRID, ReportDetails, RowScores, against_good, roc_band, roc_curve

INK: Final = "#1b1b1b"
MODEL: Final = "#005ea8"
FLOOR: Final = "#8a6d00"
_DPI: Final = 130


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def roc_plot(details: ReportDetails, row: RowScores, floor: tuple[ReportDetails, RowScores] | None) -> bytes:
    """Draw the ROC of all positives with its pointwise 95 % band; the floor's as a dashed line."""
    figure = _figure(5.2, 4.8)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), ":", color="gray", label="guessing")
    if floor is not None:
        axes.plot(*roc_curve(*against_good(floor[0], floor[1].scores)), "--", color=FLOOR, label="statistics floor")
    scores, bad = against_good(details, row.scores)
    axes.fill_between(GRID, *roc_band(scores, bad), color=MODEL, alpha=0.2, linewidth=0, label="95 % band")
    axes.plot(*roc_curve(scores, bad), color=MODEL, label="this detector")
    axes.set(
        xlabel="good welds that would be stopped (share)",
        ylabel="bad welds that would be found (share)",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return _png(figure)


def score_plot(details: ReportDetails, row: RowScores, alpha: float) -> bytes:
    """Draw one dot per weld and class, filled where the verdict is NO-GO; the good welds' middle half is shaded."""
    classes = [GOOD, *details.bad_classes]
    judged = ~np.isnan(row.scores)
    good = row.scores[details.of_class(GOOD) & judged]
    figure = _figure(7.2, 1.2 + 0.55 * len(classes))
    axes = figure.subplots()
    low, high = np.percentile(good, (25, 75)) if good.size else (0.0, 1.0)
    axes.axvspan(low, high, color="gray", alpha=0.2, linewidth=0)
    for line, name in enumerate(classes):
        kept = details.of_class(name) & judged
        scores = row.scores[kept]
        stopped = row.p_values[kept] <= alpha  # NaN is not
        height = line + 0.3 * np.sin(np.arange(scores.size) * 2.4)  # spread, the same every time
        axes.scatter(scores[stopped], height[stopped], s=16, marker="X", color=MODEL, linewidth=0)
        axes.scatter(scores[~stopped], height[~stopped], s=14, facecolors="none", edgecolors=INK, linewidth=0.7)
        if scores.size:
            axes.plot([np.median(scores)] * 2, (line - 0.42, line + 0.42), color=INK, linewidth=2)
    counts = [int((details.of_class(name) & judged).sum()) for name in classes]
    axes.set_yticks(range(len(classes)), [f"{_plain(c)} ({n})" for c, n in zip(classes, counts, strict=True)])
    axes.invert_yaxis()
    width = max(float(high - low), 1e-6)
    axes.set_xscale("asinh", linear_width=width)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(row.scores[judged], width)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel(f"weld score (abnormal to the right); crosses: NO-GO at alpha {alpha:g}; bar: median")
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def _ticks(scores: Values, width: float) -> list[float]:
    """Place ticks at 0 and at the powers of ten beyond the part of the axis that is linear."""
    largest = max(float(np.abs(scores).max(initial=0.0)), 10.0 * width)
    powers = 10.0 ** np.arange(np.round(np.log10(width)), np.floor(np.log10(largest)) + 1)
    return [*(-powers[::-1]), 0.0, *powers]


def class_plot(bars: list[tuple[str, float, tuple[float, float]]], floor: dict[str, float]) -> bytes:
    """Draw the AUROC of each class against the good welds with its 95 % interval; the floor's as diamonds.

    Args:
        bars: (class, AUROC, interval).
        floor: AUROC of the floor, by class.
    """
    figure = _figure(7.2, 1.2 + 0.5 * len(bars))
    axes = figure.subplots()
    places = np.arange(len(bars))
    values = np.array([value for _, value, _ in bars])
    spread = np.array([[value - low, high - value] for _, value, (low, high) in bars]).T
    axes.barh(places, values, height=0.55, color=MODEL, alpha=0.55, label="this detector")
    axes.errorbar(values, places, xerr=np.maximum(spread, 0.0), fmt="none", ecolor=INK, capsize=4)
    marked = [(floor[name], place) for place, (name, _, _) in enumerate(bars) if name in floor]
    if marked:
        points = np.array(marked).T
        axes.plot(*points, "D", color=FLOOR, markeredgecolor=INK, clip_on=False, label="statistics floor")
    axes.axvline(0.5, linestyle=":", color="gray")
    axes.set_yticks(places, [_plain(name) for name, _, _ in bars])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="AUROC against the good welds (dotted: guessing; line: 95 % interval)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return _png(figure)


def reliability_plot(groups: list[tuple[str, Values]], alpha: float) -> bytes:
    """Draw the measured false-alarm rate over alpha, with exact 95 % intervals, per group of good welds.

    Args:
        groups: (name, p-values of its good welds), at least one weld each.
        alpha: The alpha in use, which is marked.
    """
    figure = _figure(5.2, 4.6)
    axes = figure.subplots()
    top = max(0.3, 2 * alpha)
    grid = np.linspace(0.0, top, 61)
    axes.plot((0, top), (0, top), ":", color="gray", label="as promised")
    for (name, p_values), colour, style in zip(groups, (MODEL, FLOOR), ("-", "--"), strict=False):
        counts = [int(np.count_nonzero(p_values <= a)) for a in grid]
        band = np.array([binomial_interval(c, p_values.size) for c in counts]).T
        axes.fill_between(grid, *band, color=colour, alpha=0.15, linewidth=0)
        axes.plot(grid, np.array(counts) / p_values.size, style, color=colour, label=f"{name} ({p_values.size} welds)")
    axes.axvline(alpha, color=INK, linewidth=1)
    axes.annotate(f"alpha {alpha:g}", (alpha, 0.98), (4, 0), ("data", "axes fraction"), "offset points", va="top")
    axes.set(xlabel="alpha (false alarms allowed)", ylabel="good welds called NO-GO (share)", xlim=(0, top))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.92))
    return _png(figure)


def _plain(name: str) -> str:
    return name.replace("_", " ")
