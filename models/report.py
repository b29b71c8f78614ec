"""The report of an evaluation: four PNG pictures and one HTML page that holds everything and prints well."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from acquisition.packet import MODALITIES
from models.detector_contract import DetectorError
from models.metrics import Values, auroc, binomial_interval, bootstrap_interval
from models.report_details import ReportDetails, against_good, difference
from models.report_html import bullets, document, figure, number, rate, span, table, with_interval
from models.report_plots import class_plot, reliability_plot, roc_plot, score_plot

PAGE: Final = "report.html"
_ALPHA: Final = 0.05
"""Alpha in the page's words where nothing was calibrated, so that the result names none."""
_WORDS: Final = {"video": "video", "audio": "sound", "sensors": "sensors", "post_images": "photos"}

Evaluation = tuple[dict[str, Any], ReportDetails]
"""A result of `models.evaluation.evaluate`, and the scores behind it."""


def write_report(result: dict[str, Any], details: ReportDetails, out: Path, *, floor: Evaluation | None = None) -> Path:
    """Write `report.html` (self-contained), `roc.png`, `scores.png`, `per_class.png` and `reliability.png`.

    A picture whose kinds of welds are not there is left out, and the page says why.

    Args:
        result: What `evaluate` returned; its first row is the headline.
        details: The scores behind it.
        out: Folder; made if absent.
        floor: The same of the statistics floor, shown beside the model; best on the same welds.

    Returns:
        Path of the page.

    Raises:
        DetectorError: Result and details do not belong together, the result has no row, or `out` cannot be written.
    """
    if not result["rows"]:
        raise DetectorError("report: the evaluation has no row; evaluate on welds that have all required modalities")
    details.check(result)
    if floor is not None:
        floor[1].check(floor[0])
    page = _Page(result, details, floor)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in page.pictures.items():
            (out / name).write_bytes(data)
        (out / PAGE).write_text(page.text(), encoding="utf-8")
    except OSError as error:
        raise DetectorError(f"{error.filename or out}: {error.strerror}; name a folder that can be written") from error
    return out / PAGE


class _Page:
    """The page in the making: what it says, in the order of its methods, and the pictures."""

    def __init__(self, result: dict[str, Any], details: ReportDetails, floor: Evaluation | None) -> None:
        self.protocol: dict[str, Any] = result["protocol"]
        self.rows: list[dict[str, Any]] = result["rows"]
        self.head = self.rows[0]
        self.details, self.floor = details, floor
        self.alpha = float((self.head["false_alarms"] or {"alpha": _ALPHA})["alpha"])
        self.title = f"Evaluation of {self.protocol.get('checkpoint', self.head['model'])}"
        self.scores = details.row(self.head["modalities"])
        self.floor_head = self._of_floor(self.head["modalities"])
        self.floor_scores = (floor[1], floor[1].row(self.head["modalities"])) if floor and self.floor_head else None
        self.classes = self._class_rows()
        self.pictures = self._draw()

    def _of_floor(self, modalities: Sequence[str]) -> dict[str, Any] | None:
        rows = self.floor[0]["rows"] if self.floor else []
        return next((r for r in rows if r["modalities"] == list(modalities)), None)

    def _class_rows(self) -> list[dict[str, Any]]:
        """AUROC with interval, the floor's, and the share stopped, per class of bad weld."""
        rows = []
        for name in self.details.bad_classes:
            scores, bad = against_good(self.details, self.scores.scores, name)
            kept = self.details.of_class(name) & ~np.isnan(self.scores.scores)
            theirs = None
            if self.floor_scores is not None:
                theirs = auroc(*against_good(self.floor_scores[0], self.floor_scores[1].scores, name))
            rows.append(
                {
                    "class": name,
                    "welds": int(kept.sum()),
                    "auroc": auroc(scores, bad),
                    "ci": bootstrap_interval(auroc, scores, bad),
                    "floor": theirs,
                    "stopped": self._stopped(self.scores.p_values[kept]),
                }
            )
        return rows

    def _stopped(self, p_values: Values) -> tuple[int, int]:
        """Return (NO-GO, judged with a calibration)."""
        known = p_values[~np.isnan(p_values)]
        return int(np.count_nonzero(known <= self.alpha)), int(known.size)

    def _alarm_groups(self) -> list[tuple[str, Values]]:
        """P-values of the good welds of sessions that training saw, and of new ones."""
        usable = ~self.details.bad & ~np.isnan(self.scores.p_values)
        groups = [
            ("new sessions", self.scores.p_values[usable & ~self.details.known]),
            ("known sessions", self.scores.p_values[usable & self.details.known]),
        ]
        return [(name, p_values) for name, p_values in groups if p_values.size]

    def _draw(self) -> dict[str, bytes]:
        pictures = {"scores.png": score_plot(self.details, self.scores, self.alpha)}
        if self.head["auroc"] is not None:
            drawn = self.floor_head is not None and self.floor_head["auroc"] is not None
            pictures["roc.png"] = roc_plot(self.details, self.scores, self.floor_scores if drawn else None)
        bars = [(r["class"], r["auroc"], r["ci"]) for r in self.classes if r["auroc"] is not None]
        if bars:
            pictures["per_class.png"] = class_plot(
                bars, {r["class"]: r["floor"] for r in self.classes if r["floor"] is not None}
            )
        if groups := self._alarm_groups():
            pictures["reliability.png"] = reliability_plot(groups, self.alpha)
        return pictures

    # -- the page --------------------------------------------------------------------------------------------------

    def text(self) -> str:
        parts = (
            self._headline(),
            "<h2>How well are bad welds told from good ones?</h2>",
            self._figure(
                "roc.png",
                "Each point is a possible threshold. The further the line bends to the upper left, the better; "
                "the band holds the curves of 95 % of test sets drawn anew from these welds.",
                "no ROC: it needs judged good and bad welds",
            ),
            "<h2>Class by class</h2>",
            self._class_table(),
            self._figure(
                "per_class.png",
                "1 means that every bad weld of the class scores above every good weld, 0.5 is guessing.",
                "no bars: there is no class with judged welds beside good ones",
            ),
            self._figure(
                "scores.png", "One mark per weld. The shaded band holds the middle half of the good welds.", ""
            ),
            "<h2>With which devices?</h2>",
            "<p>The same welds, judged as if only these devices had been there.</p>",
            self._pattern_table(),
            "<h2>Can the promise on false alarms be kept?</h2>",
            self._alarms(),
            self._figure(
                "reliability.png",
                "On the dotted line the promise is kept exactly, below it with room to spare, above it is broken; "
                "the band is the exact 95 % interval.",
                "no reliability picture: no good weld was judged by a calibrated cell",
            ),
            self._recipes(),
            "<h2>How this was measured</h2>",
            self._protocol(),
            "<h2>Limits</h2>",
            self._limits(),
        )
        body = "\n".join(part for part in parts if part)
        return document(self.title, body)

    def _headline(self) -> str:
        head, floor = self.head, self.floor_head
        n_good = int((~self.details.bad).sum())
        lines = [
            f"<p>{len(self.details.keys)} welds of {len(set(self.details.sessions))} sessions: {n_good} good, "
            f"{len(self.details.keys) - n_good} bad.</p>"
        ]
        if not self.protocol.get("session_disjoint", True):
            lines.append('<p class="warning">Sessions of these welds were also trained on: the numbers flatter.</p>')
        if head["auroc"] is not None:
            lines.append(
                f'<p class="headline">A bad weld scores above a good one in <b>{number(head["auroc"], ".1%")}</b> '
                f"of all pairs (95 % interval {span(head['auroc_ci'], '.1%')}).{self._against_floor()}</p>"
            )
        alarms = head["false_alarms"]
        stopped, judged = self._stopped(self.scores.p_values[self.details.bad])
        theirs = floor or {}
        numbers = [
            (
                "AUROC (1 is perfect, 0.5 guessing)",
                with_interval(head["auroc"], head["auroc_ci"]),
                number(theirs.get("auroc")),
            ),
            (
                "good welds stopped to find 95 % of the bad",
                number(head["fpr95"], ".1%"),
                number(theirs.get("fpr95"), ".1%"),
            ),
            (
                f"false alarms (alpha, the rate aimed at: {self.alpha:g})",
                "n/a" if alarms is None else with_interval(alarms["rate"], alarms["rate_ci"], ".1%"),
                number((theirs.get("false_alarms") or {}).get("rate"), ".1%"),
            ),
            (
                f"bad welds found at that alpha ({self.alpha:g})",
                rate(stopped, judged),
                number((theirs.get("detections") or {}).get("rate"), ".1%"),
            ),
            (
                f"average precision (guessing: {head['prevalence']:.2f})",
                number(head["ap"]),
                number(theirs.get("ap")),
            ),
            (
                f"best F1 (calling all bad: {2 * head['prevalence'] / (1 + head['prevalence']):.2f})",
                number(head["f1_max"]),
                number(theirs.get("f1_max")),
            ),
        ]
        columns = ["", str(head["model"]), *(["statistics floor"] if floor else [])]
        return "\n".join([*lines, table(columns, ((*r[:2], *(r[2:] if floor else ())) for r in numbers))])

    def _against_floor(self) -> str:
        """Say whether the model beats the floor on the same welds."""
        if self.floor_scores is None or self.floor_scores[0].keys != self.details.keys:
            return ""
        mine, theirs, bad = self.scores.scores, self.floor_scores[1].scores, self.details.bad
        both = ~np.isnan(mine) & ~np.isnan(theirs)
        if not bad[both].any() or bad[both].all():
            return ""
        value, low, high = difference(mine[both], theirs[both], bad[both])
        said = "better than" if low > 0 else "worse than" if high < 0 else "not distinguishable from"
        points = f"{100 * value:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
        return f" It is {said} the statistics floor on the same welds ({points})."

    def _figure(self, name: str, caption: str, absent: str) -> str:
        if name not in self.pictures:
            return f"<p>({absent})</p>"
        return figure(self.pictures[name], caption)

    def _class_table(self) -> str:
        floored = any(r["floor"] is not None for r in self.classes)
        columns = ["class", "welds", "AUROC (95 %)", *(["floor"] if floored else []), f"found at alpha {self.alpha:g}"]
        rows = (
            (
                r["class"].replace("_", " "),
                str(r["welds"]),
                with_interval(r["auroc"], r["ci"]),
                *([number(r["floor"])] if floored else []),
                rate(*r["stopped"]),
            )
            for r in self.classes
        )
        return table(columns, rows) if self.classes else ""

    def _pattern_table(self) -> str:
        columns = [*(_WORDS[m] for m in MODALITIES), "AUROC (95 %)", *(["floor"] if self.floor else [])]
        columns += ["average precision", "good stopped for 95 % found", "false alarms"]
        rows = []
        for row in self.rows:
            theirs = self._of_floor(row["modalities"]) or {}
            alarms = row["false_alarms"]
            rows.append(
                (
                    *("yes" if m in row["modalities"] else "–" for m in MODALITIES),
                    with_interval(row["auroc"], row["auroc_ci"]),
                    *([number(theirs.get("auroc"))] if self.floor else []),
                    number(row["ap"]),
                    number(row["fpr95"], ".1%"),
                    "n/a" if alarms is None else rate(alarms["no_go"], alarms["n"]),
                )
            )
        return table(columns, rows)

    def _alarms(self) -> str:
        alarms = self.head["false_alarms"]
        if alarms is None:
            return "<p>Nothing was calibrated for the cells of these welds: every verdict would be NO DATA.</p>"
        low, high = alarms["expected_if_good_90"]
        rows = [(name, *_counts(p_values, self.alpha)) for name, p_values in self._alarm_groups()]
        inside = "inside" if low <= alarms["no_go"] <= high else "outside"
        return (
            f"<p>At alpha {self.alpha:g}, {alarms['no_go']} of {alarms['n']} good welds were called NO-GO. For good "
            f"welds of the same kind as the {alarms['calibration_welds']} that it was calibrated with, {low} to "
            f"{high} would be expected (90 % range): the count is {inside}.</p>"
            + table(["good welds of", "welds", "NO-GO", "rate (exact 95 %)"], rows)
        )

    def _recipes(self) -> str:
        recipes = self.head.get("per_recipe")
        if not recipes:
            return ""
        rows = [(name, number(value)) for name, value in recipes.items()]
        return "<h2>Recipe by recipe</h2>" + table(["recipe", "AUROC"], rows)

    def _protocol(self) -> str:
        words = {True: "yes", False: "no", None: "n/a"}
        rows = [
            (
                name.replace("_", " "),
                words[value]
                if isinstance(value, bool) or value is None
                else ", ".join(map(str, value))
                if isinstance(value, list)
                else str(value),
            )
            for name, value in self.protocol.items()
        ]
        rows += [("parameters", str(self.head.get("params", "n/a")))]
        if latency := self.head.get("latency_ms"):
            rows.append(("one window (ms)", f"median {latency['p50']:g}, 95 % {latency['p95']:g}"))
        return table(["", ""], rows)

    def _limits(self) -> str:
        few = [r["class"].replace("_", " ") for r in self.classes if r["welds"] < 20]
        limits = [
            "The intervals take welds as independent. Welds of one session resemble each other, so with "
            f"{len(set(self.details.sessions))} sessions the true uncertainty is larger.",
            "Average precision and F1 belong to this share of bad welds "
            f"({number(self.head['prevalence'], '.0%')}); in production bad welds are rarer and both are lower.",
            "Alpha is promised on average, for good welds that are exchangeable with those of the calibration. Another "
            "light, microphone or gas setting is not; read the measured rate of new sessions.",
            "The best F1 uses a threshold chosen on these very welds; no verdict uses it.",
        ]
        if few:
            limits.append(f"Fewer than 20 welds: {', '.join(few)}. Read their numbers as hints.")
        if not any(name == "new sessions" for name, _ in self._alarm_groups()):
            limits.append("No good weld of a new session was judged: how it does on another shift is not known.")
        return bullets(limits)


def _counts(p_values: Values, alpha: float) -> tuple[str, str, str]:
    count = int(np.count_nonzero(p_values <= alpha))
    measured = with_interval(count / p_values.size, binomial_interval(count, p_values.size), ".1%")
    return str(p_values.size), str(count), measured
