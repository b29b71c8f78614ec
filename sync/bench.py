"""`bench sync`: how far cell times are from the truth, beside four published ways, on the same seeded recordings.

Every recording (`sync.scenarios`) is timed from the device's counter, from its stamps alone, and from neither. The
error against true time plus base latency is split into its median over the recording (constant: arc edges remove it)
and what is left of it (varying: nothing removes it).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from sync.bench_baselines import BenchError
from sync.bench_losses import LossTally
from sync.bench_methods import METHODS, OURS, SOURCES, Source, Stream, Times, When
from sync.scenarios import KINDS, KindName, Scenario, draw_scenario

Progress: TypeAlias = Callable[[str], None]
Floats: TypeAlias = npt.NDArray[np.float32]

SETTLED_S: Final = 10.0
"""Online errors count from this long after a device began."""
SHORTEST_S: Final = 5 * SETTLED_S
"""However often a device restarts in a recording of this length, it settles once."""
GOALS_MS: Final[dict[tuple[Source, When], float]] = {
    ("counter", "offline"): 0.1,
    ("counter", "online"): 0.5,
    ("clock", "offline"): 0.1,
    ("clock", "online"): 0.5,
    ("neither", "offline"): 1.0,
    ("neither", "online"): 2.0,
}
"""99 % of the varying part; 95 % of the constant parts are to be within `CONSTANT_GOAL_MS`."""
CONSTANT_GOAL_MS: Final = 0.5
_QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


@dataclass(slots=True)
class _Tally:
    """Errors of one method on one kind of stream."""

    constant_ms: list[float] = field(default_factory=list)
    varying_ms: list[Floats] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    within: list[tuple[float, float]] = field(default_factory=list)

    def add(self, scenario: Scenario, times: Times, settled: npt.NDArray[np.bool_]) -> None:
        error_ns = (times.cell_ns - scenario.true_ns - scenario.base_ns)[settled]
        median_ns = float(np.median(error_ns))
        self.constant_ms.append(abs(median_ns) / 1e6)
        self.varying_ms.append((np.abs(error_ns - median_ns) / 1e6).astype(np.float32))
        self.whole.append(not scenario.losses)
        if times.sigma_ns is not None:
            sigmas = np.abs(error_ns) / np.maximum(times.sigma_ns[settled], 1)
            self.within.append((float((sigmas <= 1).mean()), float((sigmas <= 2).mean())))

    def summary(self, whole_only: bool) -> dict[str, Any]:
        chosen = [i for i, whole in enumerate(self.whole) if whole or not whole_only]
        if not chosen:
            return {"recordings": 0}
        varying = [self.varying_ms[i] for i in chosen]
        summary = {
            "recordings": len(chosen),
            "constant_ms": _quantiles([self.constant_ms[i] for i in chosen]),
            "varying_ms": _quantiles(np.concatenate(varying)),
            "varying_p99_ms": _quantiles([float(np.quantile(one, 0.99)) for one in varying]),
        }
        if self.within:
            one, two = np.mean([self.within[i] for i in chosen], axis=0)
            summary["coverage"] = {"1_sigma": round(float(one), 3), "2_sigma": round(float(two), 3)}
        return summary


Tallies: TypeAlias = dict[tuple[KindName, Source, When, str], _Tally]


def _quantiles(values: Sequence[float] | Floats) -> dict[str, float]:
    return {name: round(float(np.quantile(values, q)), 4) for name, q in _QUANTILES.items()}


def bench_sync(
    scenarios: int = 216,
    seconds: float = 120.0,
    seed: int = 0,
    kinds: Sequence[KindName] = tuple(KINDS),
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Time seeded recordings of every kind by every method.

    Args:
        scenarios: Recordings, shared evenly by the kinds.
        seconds: Length of each, at least `SHORTEST_S`.
        seed: First seed.
        kinds: Kinds of stream.
        progress: Takes lines for the user.

    Returns:
        `{"scenarios", "seconds", "seed", "took_s", "rows", "losses", "never_worse"}`. A row is `{"kind", "source",
        "when", "method", "whole", "recordings", "constant_ms", "varying_ms", "varying_p99_ms", "coverage"}`: quantiles
        over recordings, over all their deliveries, and over recordings of each one's p99; `whole` rows are of the
        recordings without a loss. `losses` says what was found without a counter (`LossTally`).

    Raises:
        BenchError: Too few or too short recordings, or pyxdf is missing.
    """
    if scenarios < len(kinds) or seconds < SHORTEST_S:
        raise BenchError(f"{scenarios} scenarios of {seconds:g} s are too few; use {len(kinds)} of {SHORTEST_S:g} s")
    began = time.perf_counter()
    tallies: Tallies = {}
    losses: dict[tuple[KindName, When], LossTally] = {}
    for done in range(scenarios):
        _measure(draw_scenario(seed + done // len(kinds), kinds[done % len(kinds)], seconds), tallies, losses)
        progress(f"{done + 1} of {scenarios} scenarios, {time.perf_counter() - began:.0f} s")
    rows = [
        {"kind": kind, "source": source, "when": when, "method": method, "whole": whole} | tally.summary(whole)
        for (kind, source, when, method), tally in sorted(tallies.items(), key=lambda item: item[0][:3])
        for whole in (False, True)
    ]
    return {
        "scenarios": scenarios,
        "seconds": seconds,
        "seed": seed,
        "took_s": round(time.perf_counter() - began, 1),
        "rows": rows,
        "losses": [{"kind": kind, "when": when} | tally.summary() for (kind, when), tally in sorted(losses.items())],
        "never_worse": never_worse(rows),
    }


def _measure(scenario: Scenario, tallies: Tallies, losses: dict[tuple[KindName, When], LossTally]) -> None:
    ends = [0, *scenario.restarts, len(scenario.true_ns)]
    lives = [slice(a, b) for a, b in pairwise(ends)]
    begun_ns = np.concatenate([np.full(life.stop - life.start, scenario.true_ns[life.start]) for life in lives])
    settled = scenario.true_ns - begun_ns >= SETTLED_S * 1e9
    for source in SOURCES:
        stream = Stream.of(scenario, source)
        for method in METHODS:
            counted = settled if method.when == "online" else np.ones_like(settled)
            tally = tallies.setdefault((scenario.kind, source, method.when, method.name), _Tally())
            times = method.times(stream, lives)
            tally.add(scenario, times, counted)
            if times.missed is not None:
                losses.setdefault((scenario.kind, method.when), LossTally()).add(scenario, times.missed)


_JUDGED: Final = (("constant_ms", "p95"), ("varying_ms", "p99"), ("varying_p99_ms", "p95"))


def never_worse(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Hold our rows against all others of the same kind, source and time, recordings without a loss apart.

    Returns:
        By kind `{"verdict", "compared", "exceptions"}`; an exception names the case, our figure and the better one.
    """
    verdicts: dict[str, dict[str, Any]] = {}
    for ours in rows:
        if ours["method"] != OURS or not ours["recordings"]:
            continue
        verdict = verdicts.setdefault(ours["kind"], {"verdict": True, "compared": 0, "exceptions": []})
        for other in rows:
            if other["method"] == OURS or any(
                other[name] != ours[name] for name in ("kind", "source", "when", "whole")
            ):
                continue
            for part, quantile in _JUDGED:
                verdict["compared"] += 1
                if ours[part][quantile] > other[part][quantile]:
                    verdict["verdict"] = False
                    verdict["exceptions"].append(
                        f"{_case(ours)}: {part.removesuffix('_ms')} {quantile} {ours[part][quantile]:g} ms, "
                        f"{other['method']} {other[part][quantile]:g}"
                    )
    return verdicts


def _case(row: dict[str, Any]) -> str:
    return f"{row['source']}, {row['when']}" + (", no losses" if row["whole"] else "")


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Lay out the result for people: a table per kind of stream, all in ms."""
    yield f"{result['scenarios']} recordings of {result['seconds']:g} s in {result['took_s']:g} s; errors in ms"
    for kind, verdict in result["never_worse"].items():
        yield ""
        yield f"{kind:40}{'constant':>18}{'varying':>36}{'p99 each':>10}{'sigma holds':>14}"
        yield f"{'':40}{'p50':>9}{'p95':>9}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}{'p95':>10}{'1':>7}{'2':>7}"
        for row in result["rows"]:
            if row["kind"] == kind and row["recordings"]:
                yield _row(row)
        yield f"  never worse: {'yes' if verdict['verdict'] else 'no'} ({verdict['compared']} comparisons)"
        yield from (f"    {exception}" for exception in verdict["exceptions"])
    yield ""
    yield f"{'losses found without a counter':34}{'losses':>8}{'found':>8}{'placed':>8}{'counted':>9}{'false/h':>9}"
    for one in result["losses"]:
        yield (
            f"  {one['kind']:10}{one['when']:22}{one['losses']:8}{one['recall']:8.1%}{one['placed']:8.1%}"
            f"{one['counted']:9.1%}{one['false_alarms_per_hour']:9.2f}"
        )


def _row(row: dict[str, Any]) -> str:
    constant, varying = row["constant_ms"], row["varying_ms"]
    text = f"  {_case(row):28}{row['method']:10}{constant['p50']:9.3f}{constant['p95']:9.3f}"
    text += "".join(f"{varying[q]:9.3f}" for q in _QUANTILES) + f"{row['varying_p99_ms']['p95']:10.3f}"
    coverage = row.get("coverage")
    if coverage:
        text += f"{coverage['1_sigma']:7.0%}{coverage['2_sigma']:7.0%}"
    goal = GOALS_MS[row["source"], row["when"]]
    if row["method"] == OURS and not row["whole"]:
        met = constant["p95"] <= CONSTANT_GOAL_MS and varying["p99"] <= goal
        text += f"  goal {CONSTANT_GOAL_MS:g} / {goal:g} {'met' if met else 'missed'}"
    return text
