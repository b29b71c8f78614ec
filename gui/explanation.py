"""Why a verdict says what it says, in a welder's words: when the score rose, and what of the bead does not fit."""

import re
from collections.abc import Mapping
from typing import Final

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication

from recordings.status import WeldStatus
from recordings.verdict import Verdict

translate = QCoreApplication.translate

_LEVELS: Final[Mapping[str, str]] = {
    "fine": str(QT_TRANSLATE_NOOP("Explanation", "texture")),
    "middle": str(QT_TRANSLATE_NOOP("Explanation", "surface")),
    "coarse": str(QT_TRANSLATE_NOOP("Explanation", "shape")),
}
_PLACES: Final[tuple[tuple[str, str], ...]] = (
    (r"(?:largest|smallest) anywhere", str(QT_TRANSLATE_NOOP("Explanation", "{0} at one spot"))),
    (r"mean of the (.+)", str(QT_TRANSLATE_NOOP("Explanation", "{0} of the {1}"))),
    (r"spread of the (.+)", str(QT_TRANSLATE_NOOP("Explanation", "uneven {0} of the {1}"))),
    (r"texture mix", str(QT_TRANSLATE_NOOP("Explanation", "{0} as a whole"))),
    (r"texture mix of the oddest view", str(QT_TRANSLATE_NOOP("Explanation", "{0} in one view"))),
)
"""What a detector calls the parts of a result ("fine: mean of the central band"), and what stands on the screen."""


def span_words(span: tuple[int, int], arc_ns: tuple[int, int | None]) -> str:
    """Say a stretch of cell time in whole seconds after arc-on; while the arc burns its end may still move.

    Args:
        span: Beginning and end.
        arc_ns: Arc-on, and arc-off or None.
    """
    on_ns, off_ns = arc_ns
    first, last = (round((t_ns - on_ns) / 1e9) for t_ns in span)
    if off_ns is None:
        return translate("Explanation", "from {0} s").format(first)
    return translate("Explanation", "at {0}–{1} s").format(first, max(last, first + 1))


def rise_words(verdict: Verdict, weld: WeldStatus) -> list[str]:
    """Say when in the weld the score rose, the worst first."""
    if weld.arc_on_ns is None:
        return []
    return [span_words(span, (weld.arc_on_ns, weld.arc_off_ns)) for span in verdict.rose]


def misfit_words(verdict: Verdict) -> list[str]:
    """Say what of the bead fits the process least, each once; only a NO-GO asks for it."""
    if verdict.word != "NO-GO":
        return []
    return list(dict.fromkeys(bead_words(name) for name in verdict.disagreements))


def bead_words(name: str) -> str:
    """Call a part of the result by what a welder sees; a name that is not known stays as it is."""
    level, _, place = name.partition(": ")
    for pattern, words in _PLACES:
        found = re.fullmatch(pattern, place)
        if found and level in _LEVELS:
            return translate("Explanation", words).format(translate("Explanation", _LEVELS[level]), *found.groups())
    return name
