"""Sensor rows: what the cell's six channels read of the hidden process."""

import numpy as np

from acquisition.simulated.causes import Floats
from acquisition.simulated.process import Process
from acquisition.simulated.seeds import generator

WIRE_PULSE_MM = 0.164
PRESSURE_HOLD_S = 1.0
FLOW_NOISE_L_MIN = 0.016
UNITS = ("bar", "L/min", "", "A", "mm", "V")


def render_sensors(process: Process, t_s: Floats, saturated_rows: float) -> Floats:
    """Read all six channels at cycle times `t_s`.

    Wire is counted in encoder pulses from the cycle's start, feed is wire over whole seconds (no independent channel),
    and pressure is held for a second, as in real files.

    Args:
        process: The hidden process.
        t_s: (n,) ascending times of the rows.
        saturated_rows: Mean number of rows before the arc that read 819.03 A or 81.9 V.

    Returns:
        (n, 6) in the order of `SENSOR_CHANNELS`.
    """
    plan, n = process.plan, t_s.size
    rng = generator(plan.seed, "sensors")
    step = 1.0 / 200.0
    fed_mm = np.concatenate(([0.0], np.cumsum(process.wire_mm_s[:-1] * step)))
    wire = np.floor(process.at(fed_mm, t_s) / WIRE_PULSE_MM * plan.nuisances.encoder) * WIRE_PULSE_MM
    feed = wire / np.maximum(np.floor(t_s), 1.0)
    pressure = process.at(process.line_bar, np.floor(t_s / PRESSURE_HOLD_S) * PRESSURE_HOLD_S)
    flow = process.at(process.gas_l_min, t_s) + rng.normal(0.0, FLOW_NOISE_L_MIN, n)
    before = t_s < plan.arc_on_s
    current = process.at(process.current_a, t_s) + np.where(before, np.abs(rng.normal(1.5, 0.8, n)), 0.0)
    voltage = process.at(process.voltage_v, t_s) + np.where(before & (t_s < plan.arc_on_s - 1.1), 0.05, 0.0)
    early = np.flatnonzero(t_s < plan.arc_on_s - 1.2)
    if early.size:
        for i in rng.choice(early, min(rng.poisson(saturated_rows), early.size), replace=False):
            if rng.random() < 0.5:
                current[i] = 819.03
            else:
                voltage[i] = 81.9
    return np.round(np.column_stack((pressure, flow, feed, np.maximum(current, 0.0), wire, voltage)), 2)
