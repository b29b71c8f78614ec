"""The look of the screen: palettes, sizes, the one style sheet, and the few saturated colours and what they mean.

Widgets that paint themselves read the application's palette, so a change of theme repaints them without further ado.
"""

from dataclasses import dataclass
from typing import Final

from PySide6.QtGui import QColor, QFont, QFontDatabase, QPalette
from PySide6.QtWidgets import QApplication

# Okabe-Ito: told apart by people with any common colour blindness. Saturated colour is for the abnormal.
INFORMATION: Final = "#0072B2"
GO: Final = "#009E73"
WARNING: Final = "#E69F00"
NO_GO: Final = "#D55E00"

SMALL_PX: Final = 12
TEXT_PX: Final = 14
LARGE_PX: Final = 20
VERDICT_PX: Final = 48
GRID_PX: Final = 8
TOUCH_PX: Final = 56
"""Least height of whatever is pressed with gloves."""

_TABULAR_FAMILIES: Final = ("Noto Sans", "DejaVu Sans", "Segoe UI", "Helvetica Neue", "Arial")
"""Families whose figures all have one width, so that changing numbers do not dance; the first installed one is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """The neutral colours of one theme: window, panel, line, text, secondary text, text of what cannot be used now."""

    name: str
    window: str
    panel: str
    line: str
    text: str
    secondary: str
    disabled: str


DARK: Final = Theme(
    name="dark",
    window="#1E2124",
    panel="#2A2E33",
    line="#3A4048",
    text="#D7DBE0",
    secondary="#9BA3AC",
    disabled="#69717A",
)
LIGHT: Final = Theme(
    name="light",
    window="#E4E7EA",
    panel="#F7F8F9",
    line="#BCC3CA",
    text="#1E2124",
    secondary="#555D66",
    disabled="#8A929A",
)


def apply_theme(app: QApplication, theme: Theme) -> None:
    """Give the whole application one style, font, palette and style sheet."""
    if app.style().name() != "fusion":
        app.setStyle("Fusion")
    app.setFont(plain_font(TEXT_PX))
    roles = {
        QPalette.ColorRole.Window: theme.window,
        QPalette.ColorRole.Base: theme.panel,
        QPalette.ColorRole.AlternateBase: theme.window,
        QPalette.ColorRole.Button: theme.panel,
        QPalette.ColorRole.ToolTipBase: theme.panel,
        QPalette.ColorRole.Mid: theme.line,
        QPalette.ColorRole.WindowText: theme.text,
        QPalette.ColorRole.Text: theme.text,
        QPalette.ColorRole.ButtonText: theme.text,
        QPalette.ColorRole.ToolTipText: theme.text,
        QPalette.ColorRole.BrightText: theme.text,
        QPalette.ColorRole.PlaceholderText: theme.secondary,
        QPalette.ColorRole.Highlight: theme.line,
        QPalette.ColorRole.HighlightedText: theme.text,
        QPalette.ColorRole.Link: INFORMATION,
    }
    palette = QPalette()
    for role, colour in roles.items():
        palette.setColor(role, QColor(colour))
    for role in (QPalette.ColorRole.WindowText, QPalette.ColorRole.Text, QPalette.ColorRole.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, role, QColor(theme.disabled))
    app.setPalette(palette)
    app.setStyleSheet(_style_sheet(theme))


def plain_font(pixels: int, *, bold: bool = False) -> QFont:
    """Give the one font family in one of the four sizes."""
    installed = set(QFontDatabase.families())
    font = QFont(next((family for family in _TABULAR_FAMILIES if family in installed), "sans-serif"))
    font.setPixelSize(pixels)
    font.setBold(bold)
    return font


def readable_on(colour: str) -> QColor:
    """Give black or white, whichever is easier to read on `colour`."""
    return max((QColor("#111315"), QColor("#FFFFFF")), key=lambda ink: contrast(ink, QColor(colour)))


def contrast(one: QColor, other: QColor) -> float:
    """Give the contrast of two colours as WCAG 2 counts it: 1 is none, text needs 4.5."""
    darker, brighter = sorted((_luminance(one), _luminance(other)))
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(colour: QColor) -> float:
    parts = (colour.redF(), colour.greenF(), colour.blueF())
    linear = [c / 12.92 if c <= 0.04045 else float(((c + 0.055) / 1.055) ** 2.4) for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _style_sheet(theme: Theme) -> str:
    return f"""
    QWidget {{ font-size: {TEXT_PX}px; }}
    QMainWindow, QDialog {{ background: {theme.window}; }}
    QFrame[role="panel"] {{ background: {theme.panel}; border: 1px solid {theme.line}; border-radius: 4px; }}
    QLabel[role="secondary"] {{ color: {theme.secondary}; }}
    QLabel[role="small"] {{ color: {theme.secondary}; font-size: {SMALL_PX}px; }}
    QLabel[role="large"] {{ font-size: {LARGE_PX}px; }}
    QLabel[role="title"] {{ color: {theme.secondary}; font-size: {SMALL_PX}px; font-weight: bold; }}
    QLabel[role="huge"] {{ font-size: {VERDICT_PX}px; font-weight: bold; }}
    QLabel[role="over"] {{ font-size: {LARGE_PX}px; font-weight: bold; background: transparent; }}
    QLabel[role="frozen"] {{ background: {WARNING}; color: #111315; font-weight: bold; padding: 2px 8px; }}
    QLabel[role="banner"] {{ background: {INFORMATION}; color: white; font-weight: bold; padding: 4px 12px; }}
    QFrame#alarm_bar[level="error"] {{ background: {NO_GO}; border-radius: 4px; }}
    QFrame#alarm_bar[level="warning"] {{ background: {WARNING}; border-radius: 4px; }}
    QFrame#alarm_bar QLabel {{ color: #111315; font-weight: bold; font-size: {LARGE_PX}px; }}
    QToolButton, QPushButton {{
        background: {theme.panel}; color: {theme.text}; border: 1px solid {theme.secondary}; border-radius: 4px;
        min-height: {TOUCH_PX - 2}px; min-width: {TOUCH_PX - 2}px; padding: 0px 12px;
    }}
    QToolButton[role="main"], QPushButton[role="main"] {{
        font-size: {LARGE_PX}px; font-weight: bold; min-width: 112px;
    }}
    QToolButton[role="transport"] {{ font-size: {LARGE_PX}px; font-weight: bold; padding: 0px 4px; }}
    QToolButton:hover, QPushButton:hover {{ border-color: {theme.text}; }}
    QToolButton:pressed, QPushButton:pressed {{ background: {theme.line}; }}
    QToolButton:checked, QPushButton:checked {{ background: {theme.line}; border: 2px solid {theme.text}; }}
    QToolButton:disabled, QPushButton:disabled {{ color: {theme.disabled}; border-color: {theme.line}; }}
    QToolButton:focus, QPushButton:focus, QComboBox:focus, QLineEdit:focus {{ border: 2px solid {INFORMATION}; }}
    QToolButton[asking="true"] {{ background: {WARNING}; color: #111315; }}
    QComboBox, QLineEdit {{
        background: {theme.panel}; color: {theme.text}; border: 1px solid {theme.secondary}; border-radius: 4px;
        min-height: {TOUCH_PX - 2}px; padding: 0px 8px;
    }}
    QComboBox::drop-down {{ border: none; width: 24px; }}
    QComboBox:disabled, QLineEdit:disabled {{ color: {theme.disabled}; border-color: {theme.line}; }}
    QComboBox QAbstractItemView {{ background: {theme.panel}; color: {theme.text}; }}
    QComboBox QAbstractItemView::item {{ min-height: {TOUCH_PX - 2}px; }}
    QTableWidget {{ background: {theme.panel}; border: none; gridline-color: {theme.line}; }}
    QTableWidget::item:selected {{ background: {theme.line}; color: {theme.text}; }}
    QProgressBar {{ background: {theme.window}; border: 1px solid {theme.secondary}; }}
    QHeaderView::section {{
        background: {theme.panel}; color: {theme.secondary}; border: none; border-bottom: 1px solid {theme.line};
        font-size: {SMALL_PX}px; padding: 2px 4px;
    }}
    QPlainTextEdit {{ background: {theme.panel}; color: {theme.text}; border: 1px solid {theme.line}; }}
    QMenuBar, QMenu {{ background: {theme.window}; color: {theme.text}; }}
    QMenu::item {{ padding: 8px 24px; }}
    QMenu::item:selected, QMenuBar::item:selected {{ background: {theme.line}; }}
    QMenu::item:disabled {{ color: {theme.secondary}; }}
    QToolTip {{ background: {theme.panel}; color: {theme.text}; border: 1px solid {theme.secondary}; }}
    """
