"""The report: numbers as measured, pictures that show them, and honest words where something is missing."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_curve as sklearn_roc_curve

from acquisition.packet import MODALITIES
from models.detector_contract import PROCESS, DetectorError, Pattern
from models.metrics import auroc, average_precision, binomial_interval, bootstrap_interval, f1_max, fpr_at_tpr
from models.report import PAGE, write_report
from models.report_details import GRID, ReportDetails, RowScores, difference, roc_band, roc_curve

PATTERNS: tuple[Pattern, ...] = (MODALITIES, PROCESS)
CLASSES = ("good",) * 40 + ("porosity",) * 25 + ("swap",) * 12 + ("lack_of_fusion",) * 5


def details_of(
    shift: float = 1.5, classes: tuple[str, ...] = CLASSES, *, known: int = 2, **given: Any
) -> ReportDetails:
    """Welds of ten sessions, the first `known` of them known; bad ones score higher by `shift`."""
    rng = np.random.default_rng(5)
    bad = np.array([c != "good" for c in classes])
    rows = []
    for pattern in PATTERNS:
        scores = rng.normal(size=bad.size) + shift * bad
        calibration = np.sort(rng.normal(size=99))
        p_values = (1 + (calibration[None] >= scores[:, None]).sum(axis=1)) / 100
        rows.append(RowScores(modalities=pattern, scores=scores, p_values=p_values))
    details = ReportDetails(
        keys=tuple(f"w{i}" for i in range(bad.size)),
        classes=classes,
        sessions=tuple(f"s{i % 10}" for i in range(bad.size)),
        known_sessions=frozenset(f"s{i}" for i in range(known)),
        rows=tuple(rows),
    )
    return replace(details, **given)


def result_of(details: ReportDetails, model: str = "causal-film", alpha: float = 0.05) -> dict[str, Any]:
    """Evaluate as `models.evaluation` does."""
    rows = []
    for row in details.rows:
        judged = ~np.isnan(row.scores)
        scores, bad = row.scores[judged], details.bad[judged]
        p_values = row.p_values[judged & ~details.bad]
        count = int((p_values <= alpha).sum())
        interval = bootstrap_interval(auroc, scores, bad, draws=200)
        alarms = {
            "alpha": alpha,
            "n": p_values.size,
            "no_go": count,
            "rate": count / max(p_values.size, 1),
            "rate_ci": list(binomial_interval(count, max(p_values.size, 1))),
            "calibration_welds": 99,
            "expected_if_good_90": [0, 5],
        }
        rows.append(
            {
                "model": model,
                "modalities": list(row.modalities),
                "auroc": auroc(scores, bad),
                "auroc_ci": None if interval is None else list(interval),
                "ap": average_precision(scores, bad),
                "f1_max": f1_max(scores, bad),
                "prevalence": float(bad.mean()),
                "fpr95": fpr_at_tpr(scores, bad),
                "per_recipe": None,
                "false_alarms": alarms if p_values.size and not np.isnan(p_values).all() else None,
                "detections": {"rate": 0.5},
                "params": 1234,
                "latency_ms": {"p50": 4.0, "p95": 5.0},
            }
        )
    protocol = {
        "split": None,
        "seeds": [0, 1],
        "supervised": False,
        "session_disjoint": True,
        "checkpoint": "film-1a2b",
    }
    return {"protocol": protocol, "rows": rows}


class Reader(HTMLParser):
    """Reads a page: its texts, table rows and references; refuses tags that do not close."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))
        self.close()
        self.text = re.sub(r"\s+", " ", self.text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.text += " | "

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def test_the_page_is_self_contained_and_holds_the_written_pictures(tmp_path):
    details = details_of()
    page = write_report(result_of(details), details, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / PAGE
    read = Reader(page)
    names = ["roc.png", "per_class.png", "scores.png", "reliability.png"]
    assert sorted(p.name for p in page.parent.iterdir()) == sorted([PAGE, *names])
    assert all(link.startswith("data:image/png;base64,") for link in read.links)
    embedded = [base64.b64decode(link.partition(",")[2]) for link in read.links]
    assert embedded == [(page.parent / name).read_bytes() for name in names]
    for data in embedded:
        with Image.open(io.BytesIO(data)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_the_page_says_the_numbers_with_their_intervals(tmp_path):
    details = details_of()
    result = result_of(details)
    head = result["rows"][0]
    text = Reader(write_report(result, details, tmp_path)).text
    low, high = head["auroc_ci"]
    assert f"{head['auroc']:.1%}".replace("%", " %") + " of all pairs" in text
    assert f"{head['auroc']:.3f} ({low:.3f} to {high:.3f})" in text
    alarms = head["false_alarms"]
    assert f"alpha, the rate aimed at: 0.05) | {100 * alarms['rate']:.1f} %" in text
    assert f"{alarms['no_go']} of {alarms['n']} good welds were called NO-GO" in text
    assert f"guessing: {head['prevalence']:.2f}) | {head['ap']:.3f}" in text
    assert f"calling all bad: {2 * 42 / 82 / (1 + 42 / 82):.2f}) | {head['f1_max']:.3f}" in text
    assert "40 good, 42 bad" in text
    # One row per class, one per presence pattern.
    swap = details.of_class("swap")
    swaps = auroc(details.rows[0].scores[swap | ~details.bad], swap[swap | ~details.bad])
    found = int((details.rows[0].p_values[swap] <= 0.05).sum())
    assert 0 < found < 12
    assert re.search(rf"swap \| 12 \| {swaps:.3f} \([^|]*\) \| {found} of 12: ", text)
    assert re.search(rf"yes \| yes \| yes \| – \| {result['rows'][1]['auroc']:.3f} \(", text)
    assert "new sessions | 32 |" in text
    assert "known sessions | 8 |" in text
    assert "Fewer than 20 welds: lack of fusion, swap" in text
    assert "seeds | 0, 1" in text
    assert "supervised | no" in text
    assert "session disjoint | yes" in text
    assert "floor" not in text


def test_the_floor_stands_beside_the_model(tmp_path):
    model, floor = details_of(2.5), details_of(0.3)
    result, theirs = result_of(model), result_of(floor, "statistics")
    text = Reader(write_report(result, model, tmp_path, floor=(theirs, floor))).text
    assert "It is better than the statistics floor on the same welds (+" in text
    assert f"| {theirs['rows'][0]['auroc']:.3f} | good welds stopped" in text
    back = Reader(write_report(theirs, floor, tmp_path, floor=(result, model))).text
    assert "It is worse than the statistics floor" in back
    same = Reader(write_report(result, model, tmp_path, floor=(result, model))).text
    assert "It is not distinguishable from the statistics floor on the same welds (+0.0 points" in same
    elsewhere = replace(floor, keys=tuple(f"other {k}" for k in floor.keys))
    unpaired = Reader(write_report(result, model, tmp_path, floor=(theirs, elsewhere))).text
    assert "on the same welds" not in unpaired
    assert f"| {theirs['rows'][0]['auroc']:.3f} | good welds stopped" in unpaired


def test_good_welds_alone_still_give_a_report(tmp_path):
    details = details_of(classes=("good",) * 30, known=10)
    page = write_report(result_of(details), details, tmp_path)
    text = Reader(page).text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reliability.png", PAGE, "scores.png"]
    assert "no ROC: it needs judged good and bad welds" in text
    assert "No good weld of a new session was judged" in text
    assert "AUROC (1 is perfect, 0.5 guessing) | n/a" in text


def test_without_calibration_no_rate_is_claimed(tmp_path):
    details = details_of()
    blank = tuple(replace(r, p_values=np.full_like(r.p_values, np.nan)) for r in details.rows)
    details = replace(details, rows=blank)
    text = Reader(write_report(result_of(details), details, tmp_path)).text
    assert not (tmp_path / "reliability.png").exists()
    assert "every verdict would be NO DATA" in text
    assert "bad welds found at that alpha (0.05) | n/a" in text


def test_welds_without_a_score_are_left_out(tmp_path):
    details = details_of()
    scores, p_values = details.rows[0].scores.copy(), details.rows[0].p_values.copy()
    scores[:10] = p_values[:10] = np.nan
    scores[40:45] = p_values[40:45] = np.nan
    details = replace(details, rows=(replace(details.rows[0], scores=scores, p_values=p_values), details.rows[1]))
    result = result_of(details)
    result["rows"][0]["false_alarms"] |= {"n": 30}
    text = Reader(write_report(result, details, tmp_path)).text
    assert "porosity | 20 |" in text
    assert "new sessions | 24 |" in text


def test_a_leaking_split_is_said_first(tmp_path):
    details = details_of()
    result = result_of(details)
    result["protocol"]["session_disjoint"] = False
    text = Reader(write_report(result, details, tmp_path)).text
    assert text.index("the numbers flatter") < text.index("A bad weld scores above")


def test_names_are_text_and_not_markup(tmp_path):
    details = details_of(classes=("good",) * 20 + ("<b>odd & open",) * 20)
    result = result_of(details)
    result["protocol"]["checkpoint"] = "<script>alert(1)</script>"
    page = write_report(result, details, tmp_path)
    assert "<script>" not in page.read_text(encoding="utf-8")
    assert "<b>odd & open | 20 |" in Reader(page).text


def test_details_of_another_evaluation_are_refused(tmp_path):
    details = details_of()
    result = result_of(details)
    with pytest.raises(DetectorError, match=r"the scores of video\+audio\+sensors\+post_images give AUROC"):
        write_report(result, details_of(0.5), tmp_path)
    with pytest.raises(DetectorError, match=r"no scores for the row video\+audio\+sensors;"):
        write_report(result, replace(details, rows=details.rows[:1]), tmp_path)
    with pytest.raises(DetectorError, match="82 welds, but lists of"):
        write_report(result, replace(details, classes=details.classes[:-1]), tmp_path)
    with pytest.raises(DetectorError, match="has no row"):
        write_report(result | {"rows": []}, details, tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DetectorError, match="name a folder that can be written"):
        write_report(result, details, tmp_path / "file")


def test_the_same_evaluation_gives_the_same_report(tmp_path):
    details = details_of()
    pages = [write_report(result_of(details), details, tmp_path / name) for name in ("a", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


# -- curves --------------------------------------------------------------------------------------------------------


def test_the_roc_is_that_of_the_reference_with_ties():
    rng = np.random.default_rng(2)
    scores = np.round(rng.normal(size=200), 1)
    bad = rng.random(200) < 0.4
    false, true = roc_curve(scores, bad)
    expected = sklearn_roc_curve(bad, scores, drop_intermediate=False)
    np.testing.assert_allclose(false, expected[0])
    np.testing.assert_allclose(true, expected[1])
    assert np.trapezoid(true, false) == pytest.approx(auroc(scores, bad))


def test_the_band_holds_the_curve_and_narrows_with_more_welds():
    def width(n: int) -> float:
        rng = np.random.default_rng(3)
        scores = np.concatenate((rng.normal(size=n), rng.normal(1.5, 1.0, n)))
        bad = np.arange(2 * n) >= n
        low, high = roc_band(scores, bad)
        curve = np.interp(GRID, *roc_curve(scores, bad))
        inside = (low[2:-2] - 0.02 <= curve[2:-2]) & (curve[2:-2] <= high[2:-2] + 0.02)
        assert inside.mean() > 0.95
        assert np.all(np.diff(low) >= 0)
        return float(np.mean(high - low))

    assert width(400) < 0.5 * width(40)


def test_a_paired_difference_is_narrower_than_two_separate_intervals():
    rng = np.random.default_rng(4)
    bad = np.arange(120) >= 60
    first = rng.normal(size=120) + 1.2 * bad
    second = first + 0.2 * rng.normal(size=120)
    value, low, high = difference(first, second, bad)
    assert value == pytest.approx((auroc(first, bad) or 0) - (auroc(second, bad) or 0))
    assert low <= value <= high
    alone = bootstrap_interval(auroc, first, bad)
    assert alone is not None
    assert high - low < 0.5 * (alone[1] - alone[0])
