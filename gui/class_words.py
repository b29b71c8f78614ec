"""The Weld-4M classes in words."""

from typing import Final

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication

CLASS_WORDS: Final = (
    QT_TRANSLATE_NOOP("Classes", "good"),
    QT_TRANSLATE_NOOP("Classes", "excessive penetration"),
    QT_TRANSLATE_NOOP("Classes", "burnthrough"),
    QT_TRANSLATE_NOOP("Classes", "porosity"),
    QT_TRANSLATE_NOOP("Classes", "porosity w excessive penetration"),
    QT_TRANSLATE_NOOP("Classes", "undercut"),
    QT_TRANSLATE_NOOP("Classes", "overlap"),
    QT_TRANSLATE_NOOP("Classes", "lack of fusion"),
    QT_TRANSLATE_NOOP("Classes", "excessive convexity"),
    QT_TRANSLATE_NOOP("Classes", "spatter"),
    QT_TRANSLATE_NOOP("Classes", "warping"),
    QT_TRANSLATE_NOOP("Classes", "crater cracks"),
)
"""In the order of `recordings.verdict.CLASSES`."""


def class_words(label: int) -> str:
    """Name a class with its number, `"–"` for an unknown one."""
    if not 0 <= label < len(CLASS_WORDS):
        return "–"
    return f"{label} {QCoreApplication.translate('Classes', str(CLASS_WORDS[label]))}"
