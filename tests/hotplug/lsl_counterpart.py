"""An LSL sender: numbered rows or sound on an absolute schedule (`python -m tests.hotplug.lsl_counterpart ...`).

The number of an item is its LSL stamp times the rate, so that numbers and stamps run on over the sender's death.
"""

import math
import sys
import threading

import numpy as np
import pylsl

from tests.hotplug.server_counterpart import READY


def send(name: str, kind: str, rate_hz: float, ahead_s: float) -> None:
    """Send rows (number, 0.5) as `double64`, or sound (number mod 1000) as `int16` or `float32` in blocks of 10 ms.

    Args:
        name: LSL name, and source id.
        kind: `rows`, `irregular`, or the sample type of sound.
        rate_hz: Items a second.
        ahead_s: The sender's clock is ahead of this host's by so much.
    """
    rows = kind in ("rows", "irregular")
    nominal_hz = 0.0 if kind == "irregular" else rate_hz
    form = "double64" if rows else kind
    outlet = pylsl.StreamOutlet(pylsl.StreamInfo(name, "test", 2 if rows else 1, nominal_hz, form, name))
    print(READY, flush=True)  # noqa: T201 - read by `Server.start`
    block = 1 if rows else max(1, round(rate_hz / 100))
    pause = threading.Event()
    number = math.ceil(pylsl.local_clock() * rate_hz / block) * block
    while True:
        pause.wait(max(0.0, number / rate_hz - pylsl.local_clock()))
        if rows:
            outlet.push_sample([float(number), 0.5], number / rate_hz + ahead_s)
        else:
            sound = (np.arange(number - block, number) % 1000).astype(outlet.np_dtype)
            outlet.push_chunk((sound / 1000 if kind == "float32" else sound)[:, np.newaxis], number / rate_hz + ahead_s)
        number += block


if __name__ == "__main__":
    send(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
