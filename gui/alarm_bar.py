"""Alarms: they stay on the screen until somebody acknowledges them, even when their cause is gone."""

from collections.abc import Iterable

from PySide6.QtGui import QAction
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel

from gui.actions import make_button
from recordings.status import Alarm


class AlarmBar(QFrame):
    """Shows the newest latched alarm, how many there are, and the button that acknowledges them."""

    def __init__(self, acknowledge: QAction) -> None:
        """Start without alarms; `acknowledge` is the action whose button stands in the bar."""
        super().__init__()
        self.setObjectName("alarm_bar")
        self._latched: dict[tuple[int, str, str], Alarm] = {}
        self._acknowledged: set[tuple[int, str, str]] = set()
        self._own = 0
        self._action = acknowledge
        self._text = QLabel()
        self._text.setObjectName("alarm_text")
        self._text.setWordWrap(True)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(16, 4, 4, 4)
        layout.addWidget(self._text, 1)
        layout.addWidget(make_button(acknowledge))
        self._show()

    @property
    def text(self) -> str:
        """The line that is shown, `""` without alarms."""
        return self._text.text() if self._latched else ""

    def latch(self, alarms: Iterable[Alarm]) -> None:
        """Add what the capture process reports; nothing is ever taken away here."""
        before = len(self._latched)
        seen = set()
        for alarm in alarms:
            key = (alarm.number, alarm.utc, alarm.text)
            seen.add(key)
            if key not in self._acknowledged:
                self._latched[key] = alarm
        self._acknowledged &= seen
        if len(self._latched) != before:
            self._show()

    def raise_own(self, text: str, utc: str, level: str = "error") -> None:
        """Add an alarm of the screen itself; the same text is not added twice."""
        if any(alarm.text == text for alarm in self._latched.values()):
            return
        self._own -= 1
        alarm = Alarm(number=self._own, utc=utc, level="warning" if level == "warning" else "error", text=text)
        self._latched[alarm.number, utc, text] = alarm
        self._show()

    def acknowledge(self) -> bool:
        """Take all alarms away; returns whether there were any."""
        had = bool(self._latched)
        self._acknowledged |= set(self._latched)
        self._latched.clear()
        self._show()
        return had

    def restore(self) -> None:
        """The acknowledgement did not reach the capture process: show again what it goes on reporting."""
        self._acknowledged.clear()

    def _show(self) -> None:
        self.setVisible(bool(self._latched))
        self._action.setEnabled(bool(self._latched))
        if not self._latched:
            return
        errors = [alarm for alarm in self._latched.values() if alarm.level == "error"]
        newest = (errors or list(self._latched.values()))[-1]
        word = self.tr("ALARM") if errors else self.tr("WARNING")
        more = self.tr("   (and {0} more)").format(len(self._latched) - 1) if len(self._latched) > 1 else ""
        self._text.setText(f"▲ {word}: {newest.text}{more}")
        self._text.setToolTip("\n".join(f"{alarm.utc}  {alarm.text}" for alarm in self._latched.values()))
        self.setAccessibleName(self._text.text())
        self.setProperty("level", "error" if errors else "warning")
        self.style().unpolish(self)
        self.style().polish(self)
