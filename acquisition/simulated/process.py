"""The hidden process of one weld at 200 Hz: settings and causes in, everything that any device can see out."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.signal import lfilter

from acquisition.simulated.bursts import Bursts, draw_bursts
from acquisition.simulated.causes import Floats, Lever
from acquisition.simulated.plan import WeldPlan
from acquisition.simulated.seeds import generator
from acquisition.simulated.session import matched_voltage_v

STATE_RATE_HZ: Final = 200.0
OPEN_CIRCUIT_V: Final = 40.23
GAS_NEEDED_L_MIN: Final = 6.0
"""Flow below which the shield suffers (Qmin)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The hidden state of one weld; arrays are (n,) at `STATE_RATE_HZ` over the whole cycle.

    Attributes:
        plan: What was decided beforehand.
        t_s: Cycle time.
        arc: 1 while the arc burns, else 0.
        current_a: Current, ripple included.
        voltage_v: Voltage, ripple and open circuit included.
        wire_mm_s: Wire feed speed.
        travel_mm_s: Travel speed (0 without arc).
        gas_l_min: Flow in the hose.
        line_bar: Pressure of the gas line.
        arc_length_v: λ, voltage above the matched one.
        heat_j_mm: E.
        shield: S, 0..1.
        contamination: C, 0..1, as the arc meets it.
        buried_dirt: The same inside the part.
        gap_mm: Root gap.
        thickness_mm: True plate thickness.
        torch_offset_mm: Torch beside its path.
        joint_offset_mm: Part beside its place, against the torch.
        instability: a.
        spatter: Multiplier of spatter births.
        loudness_db: Change of the sound level by blow-through.
        blob_gain: Area of the luminous blob against normal.
        blob_drop_px: Sinking of the blob, in pixels of a 960 x 600 frame.
        bursts: Short-circuit bursts.
        holes: (time, diameter in mm) of each blow-through.
    """

    plan: WeldPlan
    t_s: Floats
    arc: Floats
    current_a: Floats
    voltage_v: Floats
    wire_mm_s: Floats
    travel_mm_s: Floats
    gas_l_min: Floats
    line_bar: Floats
    arc_length_v: Floats
    heat_j_mm: Floats
    shield: Floats
    contamination: Floats
    buried_dirt: Floats
    gap_mm: Floats
    thickness_mm: Floats
    torch_offset_mm: Floats
    joint_offset_mm: Floats
    instability: Floats
    spatter: Floats
    loudness_db: Floats
    blob_gain: Floats
    blob_drop_px: Floats
    bursts: Bursts
    holes: tuple[tuple[float, float], ...]

    def at(self, values: Floats, t_s: Floats) -> Floats:
        """Interpolate one of the state's arrays at cycle times `t_s`."""
        return np.interp(t_s, self.t_s, values)


def wire_feed_mm_s(current_a: Floats) -> Floats:
    """Wire feed speed that a current melts (measured on real welds)."""
    return 0.335 * current_a + 0.00127 * current_a**2


def _gas_flow(plan: WeldPlan, t_s: Floats, loss: Floats, rng: np.random.Generator) -> Floats:
    """Flow as its meter tells it: dead time, overshoot, slow decay, and a valve that shuts 3 s after the arc."""
    n = plan.nuisances
    since = t_s - plan.arc_on_s
    dead_s = rng.uniform(0.1, 1.7)
    rise = (1.0 - np.exp(-np.maximum(since - dead_s, 0.0) / 1.1)) / (1.0 - np.exp(-(n.gas_peak_s - dead_s) / 1.1))
    settle = 1.0 + (n.gas_peak - 1.0) * np.exp(-np.maximum(since - n.gas_peak_s, 0.0) / n.gas_decay_s)
    shape = np.where(since < n.gas_peak_s, n.gas_peak * rise, settle)
    closing = np.interp(t_s - plan.arc_off_s, [0.0, 1.0, 2.0, 3.0, 3.1], [1.0, 0.98, 0.93, 0.8, 0.0])
    # A loss takes the flow down to what is left of the needed flow, however generous the setting was.
    left = np.where(loss > 0, np.minimum(1.0, (1.0 - loss) * GAS_NEEDED_L_MIN / n.gas_l_min), 1.0)
    lag = np.exp(-1.0 / (0.25 * STATE_RATE_HZ))
    left = lfilter([1.0 - lag], [1.0, -lag], left - 1.0) + 1.0
    return np.asarray(n.gas_l_min * shape * closing * left)


def _line_pressure(plan: WeldPlan, t_s: Floats, rng: np.random.Generator) -> Floats:
    rest = plan.nuisances.line_bar
    low = rng.uniform(0.02, 0.2)
    falling = low + (rest - low) * np.exp(-np.maximum(t_s - plan.arc_on_s + 0.5, 0.0) / 0.9)
    recovering = low + rng.uniform(0.2, 0.9) * np.maximum(t_s - plan.arc_off_s - 1.0, 0.0)
    return np.where(t_s < plan.arc_off_s + 1.0, falling, np.minimum(recovering, rest))


def _coloured(rng: np.random.Generator, n: int, memory: float) -> Floats:
    """AR(1) noise of unit variance."""
    return np.asarray(lfilter([np.sqrt(1.0 - memory**2)], [1.0, -memory], rng.standard_normal(n)))


def simulate_process(plan: WeldPlan) -> Process:
    """Run the hidden process of one weld: causes move levers, levers move the state, the state draws the bursts."""
    n = int(np.ceil(plan.duration_s * STATE_RATE_HZ)) + 2
    t = np.arange(n) / STATE_RATE_HZ
    since = t - plan.arc_on_s
    arc = ((t >= plan.arc_on_s) & (t < plan.arc_off_s)).astype(np.float64)
    recipe, rng = plan.recipe, generator(plan.seed, "process")

    def lever(name: Lever) -> Floats:
        return sum((c.strength * c.envelope(since) for c in plan.causes if c.lever == name), np.zeros(n))

    blown = [(c.segments[0], c.strength) for c in plan.causes if c.lever == "blow_through_mm"]
    during = np.zeros(n)  # 0.3 s in which metal falls out, current sags and the arc stretches
    hush, bang = np.zeros(n), np.zeros(n)
    for (begin, end), _ in blown:
        during = np.maximum(during, ((since >= begin) & (since < end)).astype(np.float64))
        hush = np.maximum(hush, ((since >= begin) & (since < begin + 0.15)).astype(np.float64))
        bang = np.maximum(bang, ((since >= begin + 0.15) & (since < begin + 0.23)).astype(np.float64))

    set_current = recipe.current_a * (1.0 + lever("current")) * (1.0 + 0.01 * _coloured(rng, n, 0.998))
    arc_length = recipe.voltage_v - matched_voltage_v(recipe.current_a) + lever("arc_length_v")
    set_voltage = matched_voltage_v(1.0) - 0.06 + 0.06 * set_current + arc_length
    set_current = set_current * (1.0 - 0.2 * during)
    set_voltage = set_voltage + 3.0 * during
    travel = recipe.travel_mm_s * (1.0 + lever("travel"))

    gas_loss, draft, contamination = lever("gas_loss"), lever("draft"), np.clip(lever("contamination"), 0.0, 1.0)
    gas = _gas_flow(plan, t, gas_loss, generator(plan.seed, "gas"))
    supply = np.minimum(1.0, plan.nuisances.gas_l_min / GAS_NEEDED_L_MIN)
    shield = np.clip(supply * (1.0 - gas_loss), 0.0, 1.0) * (1.0 - np.clip(draft, 0.0, 1.0))
    wander = 0.05 * _coloured(rng, n, float(np.exp(-1.0 / (0.4 * STATE_RATE_HZ))))
    instability = 0.15 + 0.5 * (1.0 - shield) + 0.35 * contamination + 0.12 * np.maximum(0.0, -arc_length - 2.0)
    instability = np.clip(instability + lever("instability") + wander, 0.02, 2.0)

    bursts = draw_bursts(
        t,
        np.clip(16.0 - 1.5 * arc_length, 6.0, 60.0),
        0.30 + 0.6 * instability,
        plan.arc_on_s,
        plan.arc_off_s,
        generator(plan.seed, "bursts"),
    )

    # Ripple: the bursts themselves, a slow part, and a fast part. The shares of the variance add to one.
    shorts = bursts.shorted(t - 0.02, t)
    lit = shorts[arc > 0]
    drive = (shorts - lit.mean()) / max(float(lit.std()), 1e-6)
    sd = 0.01 * (3.0 + 8.0 * instability + 3.0 * np.maximum(0.0, -arc_length - 3.0))
    wave = np.sqrt(0.64) * drive + np.sqrt(0.20) * _coloured(rng, n, 0.9) + np.sqrt(0.16) * rng.standard_normal(n)
    against = -0.35 * wave + np.sqrt(1.0 - 0.35**2) * rng.standard_normal(n)
    struck = np.maximum(since, 0.0)
    current = set_current * np.maximum(1.0 + sd * wave, 0.02)
    current *= (1.0 - np.exp(-struck / 0.03)) * (1.0 + 0.4 * np.exp(-struck / 0.08) - 0.2 * np.exp(-struck / 0.35))
    voltage = set_voltage * np.maximum(1.0 + 0.45 * sd * against, 0.05)
    voltage += (OPEN_CIRCUIT_V - set_voltage) * np.exp(-struck / 0.08)
    open_s = rng.uniform(0.25, min(1.1, plan.arc_on_s))
    ended = np.exp(-np.maximum(t - plan.arc_off_s, 0.0) / 0.05)
    last = int(np.flatnonzero(arc)[-1])
    current = np.where(since < 0, 0.0, np.where(arc > 0, current, current[last] * ended))
    voltage = np.where(arc > 0, voltage, np.where((since < 0) & (since >= -open_s), OPEN_CIRCUIT_V, 0.0))

    inching = ((since < 0) & (since >= -open_s)).astype(np.float64) * 15.0
    thickness = recipe.plate_mm * (1.0 + lever("thin_plate"))
    return Process(
        plan=plan,
        t_s=t,
        arc=arc,
        current_a=current,
        voltage_v=voltage,
        wire_mm_s=np.where(arc > 0, wire_feed_mm_s(set_current), inching),
        travel_mm_s=travel * arc,
        gas_l_min=gas,
        line_bar=_line_pressure(plan, t, generator(plan.seed, "line")),
        arc_length_v=arc_length,
        heat_j_mm=0.8 * set_voltage * set_current / travel,
        shield=shield,
        contamination=contamination,
        buried_dirt=np.clip(lever("buried_dirt"), 0.0, 1.0),
        gap_mm=lever("gap_mm"),
        thickness_mm=thickness,
        torch_offset_mm=lever("torch_offset_mm"),
        joint_offset_mm=lever("joint_offset_mm"),
        instability=instability,
        spatter=1.0 + lever("spatter"),
        loudness_db=np.where(hush > 0, -6.0, np.where(bang > 0, 8.0, 0.0)),
        blob_gain=1.0 - 0.4 * during,
        blob_drop_px=during * (12.0 + 2.0 * sum(d for _, d in blown) / max(len(blown), 1)),
        bursts=bursts,
        holes=tuple((plan.arc_on_s + begin, diameter) for (begin, _), diameter in blown),
    )
