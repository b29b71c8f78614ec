"""Losses found without a counter, held against the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sync.item_count import Missed
from sync.scenarios import Scenario


@dataclass(slots=True)
class LossTally:
    """Counts over the recordings of one kind of stream.

    Attributes:
        losses: Losses that there were; those before a segment that the driver announced are not looked for.
        found: Found within a second.
        placed: Of these, found in their place, plus or minus one delivery.
        counted: Of these, with the right number of deliveries.
        false_alarms: Found where none was.
        hours: Length of the recordings.
    """

    losses: int = 0
    found: int = 0
    placed: int = 0
    counted: int = 0
    false_alarms: int = 0
    hours: float = 0.0

    def add(self, scenario: Scenario, missed: Sequence[Missed]) -> None:
        """Match what was found to the nearest loss within a second, each at most once."""
        self.hours += float(scenario.arrival_ns[-1] - scenario.arrival_ns[0]) / 3600e9
        places = np.searchsorted(scenario.number, [loss.first for loss in scenario.losses])
        announced = set((1 + np.flatnonzero(np.diff(scenario.segment))).tolist())
        left = {
            int(place): loss.missing
            for place, loss in zip(places, scenario.losses, strict=True)
            if int(place) not in announced
        }
        self.losses += len(left)
        for one in missed:
            place = min(left, key=lambda at: abs(at - one.index), default=None)
            if place is None or abs(place - one.index) > scenario.rate_hz:
                self.false_alarms += 1
                continue
            self.found += 1
            self.placed += abs(place - one.index) <= 1
            self.counted += left.pop(place) == one.count

    def summary(self) -> dict[str, Any]:
        """Give shares of all losses, and false alarms per hour."""
        shares = {
            name: round(count / max(self.losses, 1), 4)
            for name, count in (("recall", self.found), ("placed", self.placed), ("counted", self.counted))
        }
        per_hour = round(self.false_alarms / self.hours, 2)
        return {"losses": self.losses} | shares | {"hours": round(self.hours, 2), "false_alarms_per_hour": per_hour}
