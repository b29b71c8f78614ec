"""The verdict, readable from across the room, and the score behind it."""

from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from gui.calibration import calibration_words
from gui.explanation import misfit_words, rise_words
from gui.judgement import Shown, contribution_words
from gui.shapes import SHAPE_COLOURS, Shape, paint_shape, shape_colour
from gui.theme import LARGE_PX, NO_GO, SMALL_PX, TEXT_PX, VERDICT_PX, plain_font, readable_on
from recordings.status import DetectorStatus

HEIGHT_PX: Final = 128
_SHAPE_PX: Final = 88
_WHY_PX: Final = 17
_WRAPPED: Final = Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft | Qt.TextFlag.TextWordWrap


class VerdictTile(QWidget):
    """Shape, word, where in the weld, and reason; a final NO-GO fills the tile."""

    def __init__(self) -> None:
        """Show NO DATA until told otherwise."""
        super().__init__()
        self.setObjectName("verdict_tile")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.shown = Shown(word="NO DATA", shape=Shape.NO_DATA, reason="")
        self.show_verdict(self.shown)

    def sizeHint(self) -> QSize:
        """Ask for room for shape, word and reason."""
        return QSize(440, HEIGHT_PX)

    def minimumSizeHint(self) -> QSize:
        """Insist on shape and word."""
        return QSize(400, HEIGHT_PX)

    def show_verdict(self, shown: Shown) -> None:
        """Show a verdict."""
        self.shown = shown
        words = self.tr("{0} so far").format(shown.word) if shown.provisional else shown.word
        self.setAccessibleName(self.tr("Verdict: {0}").format(words))
        self.setToolTip("\n".join([shown.reason, *(lines[0] for lines in self._whys() if lines)]))
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint shape, word, where, reason, and what it is owed to."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette, shown = self.palette(), self.shown
        filled = shown.shape is Shape.NO_GO
        ground = QColor(NO_GO) if filled else palette.base().color()
        painter.setPen(QPen(palette.mid().color()))
        painter.setBrush(ground)
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
        ink = readable_on(NO_GO) if filled else palette.windowText().color()
        room = QRectF(16, (self.height() - _SHAPE_PX) / 2, _SHAPE_PX, _SHAPE_PX)
        paint_shape(painter, room, shown.shape, ink if filled else shape_colour(shown.shape, self), ground)
        left = room.right() + 16
        width = self.width() - left - 12
        painter.setPen(self._word_colour(ink))
        painter.setFont(plain_font(VERDICT_PX, bold=True))
        word = QRectF(left, 6, width, VERDICT_PX + 14)
        painter.drawText(word, Qt.AlignmentFlag.AlignVCenter, shown.word)
        end = left + painter.fontMetrics().horizontalAdvance(shown.word) + 8
        self._paint_beside(painter, QRectF(end, 8, self.width() - end - 2, VERDICT_PX + 8))
        painter.setPen(ink)
        self._paint_below(painter, QRectF(left, word.bottom(), width, self.height() - word.bottom() - 4))
        painter.end()

    def _paint_below(self, painter: QPainter, room: QRectF) -> None:
        """Paint the reason, and under it what it is owed to, as far as the reason leaves room."""
        small = plain_font(SMALL_PX)
        fitting = (longest_fitting(lines, QFontMetrics(small), room.width()) for lines in self._whys())
        whys = [line for line in fitting if line]
        painter.setFont(small)
        least = painter.boundingRect(room, _WRAPPED, self.shown.reason).height()
        del whys[: -max(1, int((room.height() - least) / _WHY_PX))]
        reason = room.adjusted(0, 0, 0, -_WHY_PX * max(1, len(whys)))
        painter.setFont(plain_font(TEXT_PX))
        if painter.boundingRect(reason, _WRAPPED, self.shown.reason).height() > reason.height():
            painter.setFont(small)
        painter.drawText(reason, _WRAPPED, self.shown.reason)
        painter.setFont(small)
        for line, words in enumerate(whys):
            why = QRectF(room.left(), reason.bottom() + _WHY_PX * line, room.width(), _WHY_PX)
            painter.drawText(why, Qt.AlignmentFlag.AlignVCenter, words)

    def _paint_beside(self, painter: QPainter, room: QRectF) -> None:
        """Paint beside the word, one over the other, that it may change, and where in the weld it was decided."""
        painter.setFont(plain_font(LARGE_PX, bold=True))
        if self.shown.provisional:
            painter.drawText(room, Qt.AlignmentFlag.AlignTop, self.tr("so far"))
        where = longest_fitting(self._where(), painter.fontMetrics(), room.width())
        if not where:
            painter.setFont(plain_font(TEXT_PX, bold=True))
            where = longest_fitting(self._where(), painter.fontMetrics(), room.width())
        painter.drawText(room, Qt.AlignmentFlag.AlignBottom, where)

    def _where(self) -> list[str]:
        """Say where in the weld a NO-GO has its cause, the longest way first."""
        return _shorter(self._times()) if self.shown.word == "NO-GO" else []

    def _times(self) -> list[str]:
        verdict, weld = self.shown.verdict, self.shown.weld
        return [] if verdict is None or weld is None else rise_words(verdict, weld)

    def _whys(self) -> list[list[str]]:
        """Say line by line what the verdict is owed to, the longest way first."""
        verdict = self.shown.verdict
        if verdict is None:
            return [[]]
        raised = [self.tr("score raised by {0}").format(words) for words in _shorter(contribution_words(verdict))]
        misfit = [
            self.tr("bead does not fit the process: {0}").format(words) for words in _shorter(misfit_words(verdict))
        ]
        if verdict.word != "NO-GO" and (times := self._times()):
            raised = [self.tr("score rose {0}").format(words) for words in _shorter(times)]
        misfit += [self.tr("bead misfit: {0}").format(words) for words in _shorter(misfit_words(verdict))[-1:]]
        return [raised, misfit] if misfit else [raised]

    def _word_colour(self, ink: QColor) -> QColor:
        """Colour the word like its shape; a provisional NO-GO already warns."""
        if self.shown.shape is Shape.NO_GO or self.shown.word == "NO DATA":
            return ink
        if self.shown.provisional:
            return QColor(NO_GO) if self.shown.word == "NO-GO" else ink
        return QColor(SHAPE_COLOURS[self.shown.shape] or ink)


class ScoreBar(QWidget):
    """The score as a bar against its threshold, with p-value, alpha and n in words."""

    def __init__(self) -> None:
        """Start without a score."""
        super().__init__()
        self.setObjectName("score_bar")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._score: float | None = None
        self._threshold: float | None = None
        self._lines: list[str] = []
        self._calibration_lines: tuple[str, ...] = ()
        self.show_score(None, None, None)

    def sizeHint(self) -> QSize:
        """Ask for room for the bar and three lines."""
        return QSize(340, HEIGHT_PX)

    def minimumSizeHint(self) -> QSize:
        """Insist on the lines."""
        return QSize(280, HEIGHT_PX)

    def show_score(self, shown: Shown | None, running: float | None, detector: DetectorStatus | None) -> None:
        """Show the score of the current weld.

        Args:
            shown: What the tile shows.
            running: The newest running score of this weld, newer than the verdict's while welding.
            detector: The detector's state.
        """
        verdict = shown.verdict if shown else None
        self._score = running if running is not None else (verdict.score if verdict else None)
        self._threshold = verdict.threshold if verdict else None
        none = self.tr("–")
        score = none if self._score is None else f"{self._score:.2f}"
        threshold = none if self._threshold is None else f"{self._threshold:.2f}"
        p_value = none if verdict is None or verdict.p_value is None else f"{verdict.p_value:.3f}"
        self._lines = [
            self.tr("score {0}   NO-GO above {1}").format(score, threshold),
            self.tr("p {0}   false alarms aimed at {1}").format(p_value, _alpha(shown, detector)),
        ]
        self._calibration_lines = self._calibration(shown, detector)
        said = [*self._lines, self._calibration_lines[0]]
        self.setAccessibleName("; ".join(said))
        self.setToolTip("\n".join(said))
        self.update()

    def _calibration(self, shown: Shown | None, detector: DetectorStatus | None) -> tuple[str, ...]:
        verdict = shown.verdict if shown else None
        if detector is None or (verdict is None and detector.state == "absent"):
            return (self.tr("no detector"),)
        behind = verdict if verdict is not None and verdict.calibration_welds else detector
        return calibration_words(
            behind.calibration_welds, behind.calibration_sessions, behind.alpha, detector.calibration_needed
        )

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the bar and the lines."""
        painter = QPainter(self)
        palette = self.palette()
        painter.setPen(QPen(palette.mid().color()))
        painter.setBrush(palette.base())
        painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        bar = QRectF(16, 18, self.width() - 32, 24)
        painter.setPen(QPen(palette.placeholderText().color()))
        painter.setBrush(palette.window())
        painter.drawRect(bar)
        full = max(2 * (self._threshold or 0.0), (self._score or 0.0) * 1.1, 1e-9)
        if self._score is not None and self._score > 0:
            above = self._threshold is not None and self._score > self._threshold
            filled = QRectF(bar.left(), bar.top(), bar.width() * min(1.0, self._score / full), bar.height())
            painter.fillRect(filled, QColor(NO_GO) if above else palette.text().color())
        if self._threshold is not None:
            x = bar.left() + bar.width() * self._threshold / full
            painter.fillRect(QRectF(x - 1.5, bar.top() - 6, 3, bar.height() + 12), QColor(NO_GO))
        painter.setFont(plain_font(TEXT_PX))
        painter.setPen(palette.text().color())
        for line, words in enumerate(self._lines):
            painter.drawText(QRectF(16, 52 + 23 * line, self.width() - 24, 22), Qt.AlignmentFlag.AlignVCenter, words)
        painter.setFont(plain_font(SMALL_PX))
        painter.setPen(palette.placeholderText().color())
        last = QRectF(16, 52 + 23 * len(self._lines), self.width() - 24, 22)
        words = longest_fitting(self._calibration_lines, painter.fontMetrics(), last.width())
        painter.drawText(last, Qt.AlignmentFlag.AlignVCenter, words)
        painter.end()


def _shorter(parts: Sequence[str]) -> list[str]:
    """List all of the parts, then ever fewer of the first."""
    return [", ".join(parts[:n]) for n in range(len(parts), 0, -1)]


def longest_fitting(lines: Sequence[str], metrics: QFontMetrics, width: float) -> str:
    """Choose the first of several ways to say something that fits into a line; nothing if none does."""
    return next((line for line in lines if metrics.horizontalAdvance(line) <= width), "")


def _alpha(shown: Shown | None, detector: DetectorStatus | None) -> str:
    verdict = shown.verdict if shown else None
    alpha = verdict.alpha if verdict else detector.alpha if detector else None
    return "–" if alpha is None else f"{100 * alpha:g} %"
