"""Who said what about a recorded weld, and when: every label and every later change, in words."""

from datetime import datetime

from PySide6.QtCore import QCoreApplication

from gui.class_words import class_words
from recordings.manifest import Manifest

translate = QCoreApplication.translate


def when_words(utc: str) -> str:
    """Give the local time of an ISO 8601 time, with its day unless that is today; the text itself where it is none."""
    try:
        local = datetime.fromisoformat(utc).astimezone()
    except ValueError:
        return utc
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def label_words(manifest: Manifest) -> str:
    """Say which label counts, who gave it and when, and what it was before; `""` without any label."""
    if not manifest.labels:
        return ""
    newest = manifest.labels[-1]
    words = translate("History", "{0} by {1}, {2}").format(
        _label(newest.label), newest.by or translate("History", "unknown"), when_words(newest.utc)
    )
    if len(manifest.labels) > 1:
        words += translate("History", " (before: {0})").format(_label(manifest.labels[-2].label))
    return words


def history_lines(manifest: Manifest) -> list[str]:
    """List everything that was said since the weld was recorded, the newest first."""
    said = [
        (entry.utc, entry.by, translate("History", "label {0}").format(_label(entry.label)))
        for entry in manifest.labels
    ]
    for entry in manifest.edits:
        value = translate("History", "taken away") if entry.value is None else str(entry.value)
        said.append((entry.utc, entry.by, f"{entry.name}: {value}"))
    said.sort(key=lambda line: line[0], reverse=True)
    return [f"{when_words(utc)}  {by or translate('History', 'unknown')}  {words}" for utc, by, words in said]


def _label(label: int) -> str:
    return class_words(label) if label >= 0 else translate("History", "unknown")
