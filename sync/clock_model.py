"""One straight piece of a device clock, in exact integers."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import ClockUpdate

PPB: Final = 10**9

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockModel:
    """One straight piece of a device clock; the attributes are those of `ClockUpdate`."""

    ref_ns: int
    offset_ns: int
    drift_ppb: int
    sigma_ns: int

    @classmethod
    def from_update(cls, update: ClockUpdate) -> "ClockModel":
        """Take the model out of a recorded clock change."""
        return cls(
            ref_ns=update.ref_ns, offset_ns=update.offset_ns, drift_ppb=update.drift_ppb, sigma_ns=update.sigma_ns
        )

    def as_update(self, stream: str, segment: int) -> ClockUpdate:
        """The change that puts this model into force for a stream's segment."""
        return ClockUpdate(
            of_stream=stream,
            segment=segment,
            ref_ns=self.ref_ns,
            offset_ns=self.offset_ns,
            drift_ppb=self.drift_ppb,
            sigma_ns=self.sigma_ns,
        )

    def to_cell_ns(self, device_ns: int) -> int:
        """Cell time of a device time, in exact integers (floor division)."""
        return device_ns + self.offset_ns + (device_ns - self.ref_ns) * self.drift_ppb // PPB

    def to_cell_ns_array(self, device_ns: Int64s) -> Int64s:
        """Cell times of device times, equal to `to_cell_ns` element by element."""
        # Whole seconds apart from the rest: the plain product overflows int64 after a day at 100 ppm.
        seconds, rest = np.divmod(device_ns - self.ref_ns, PPB)
        cell_ns: Int64s = device_ns + self.offset_ns + seconds * self.drift_ppb + rest * self.drift_ppb // PPB
        return cell_ns
