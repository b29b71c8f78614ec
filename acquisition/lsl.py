"""A stream of the Lab Streaming Layer (LSL): sensor rows or sound that a program on this or another host sends.

Stamps are the sender's and stay raw; the clock model fits them to the arrivals like those of any device. Beside it a
thread of its own probes the sender's clock, since only a probe sees the absolute offset: within half a round trip.
"""

import ctypes
import importlib
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acquisition.channels import CHANNEL_UNITS, CHANNELS, channel_of, scale_by_channel
from acquisition.clock_probe import RoundTrip
from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import Packet, SampleBlock, SensorRows, StreamInfo

log = logging.getLogger(__name__)

RESOLVE_S: Final = 1.0
BUFFER_S: Final = 30
MOST_ITEMS: Final = 4096
FIRST_ITEM_S: Final = 5.0
PROBE_EVERY_S: Final = 2.0
PROBE_TIMEOUT_S: Final = 0.5
CLOCK_SET_NS: Final = 10_000_000
"""A sender's clock that moved by more than this between two probes, beyond what they can tell, was set."""
LATEST_S: Final = 9e9
"""A larger stamp does not fit int64 nanoseconds."""

SOUND_DTYPES: Final[dict[str, str]] = {"int16": "int16", "int32": "int32", "float32": "int32"}
"""Sample type delivered, by that of the LSL stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LslConfig:
    """Settings of an LSL stream; at least one of `stream`, `type` and `source_id` must tell it from all others.

    Attributes:
        stream: LSL name of the stream.
        type: LSL type of the stream.
        source_id: LSL source id of the stream.
        columns: What each LSL channel is: a channel or its Weld-4M header, or `-`; empty for sound.
        scale: Factor from the sender's number to the channel's unit, by channel.
        rate_hz: Nominal rate; 0 for the one that the sender names (it must be set for an irregular stream).
        stale_s: The stream is lost, and looked for again, after this long without an item; 0 for never.
    """

    stream: str = ""
    type: str = ""
    source_id: str = ""
    columns: tuple[str, ...] = ()
    scale: dict[str, float] = field(default_factory=dict)
    rate_hz: float = 0.0
    stale_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a stream that cannot be found, and columns that contradict each other."""
        named = (self.stream, self.type, self.source_id)
        if not any(named) or any("'" in text for text in named):
            raise ValueError("stream, type or source_id must name the LSL stream, without '; see what the sender says")
        meanings = [channel_of(column) for column in self.columns if column != "-"]
        for column in self.columns:
            if column != "-" and channel_of(column) is None:
                raise ValueError(f"unknown column '{column}'; use -, or one of {', '.join(CHANNELS)}")
            if column != "-" and meanings.count(channel_of(column)) > 1:
                raise ValueError(f"column '{column}' is there twice; mark the one to ignore with '-'")
        if self.columns and not meanings:
            raise ValueError(f"columns name no channel; use one of {', '.join(CHANNELS)}")
        for name in self.scale:
            if channel_of(name) not in meanings:
                raise ValueError(f"scale names '{name}', which is no column; correct or remove it")
        if self.rate_hz < 0 or self.stale_s < 0:
            raise ValueError(f"rate_hz ({self.rate_hz}) and stale_s ({self.stale_s}) must not be negative")

    @property
    def query(self) -> str:
        """What the stream is looked for by, as an XPath predicate."""
        named = {"name": self.stream, "type": self.type, "source_id": self.source_id}
        return " and ".join(f"{key}='{value}'" for key, value in named.items() if value)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that are measured, in the order of `CHANNELS`; empty for sound."""
        meanings = {channel_of(column) for column in self.columns}
        return tuple(channel for channel in CHANNELS if channel in meanings)


class LslInlet(ThreadedDriver):
    """An LSL stream as a stream of sensor rows, or of sound where no columns are named.

    Attributes:
        probe: The quickest round trip of the newest burst (the sender's clock minus ours), or None before the first.
        bad_stamps: Rows left out because their stamp was no time, over all openings; each is a jump of `first_row`.
    """

    def __init__(self, name: str, config: LslConfig) -> None:
        """Prepare the inlet; touches no network."""
        super().__init__(name)
        self.config = config
        self.probe: RoundTrip | None = None
        self.bad_stamps = 0
        meanings = [channel_of(column) for column in config.columns]
        self._columns = [meanings.index(channel) for channel in config.channels]
        self._scales = np.array(scale_by_channel(config.scale, config.channels))
        self._lsl: Any = None
        self._inlet: Any = None
        self._prober: threading.Thread | None = None
        self._leave = threading.Event()
        self._sent = self._items = 0
        self._bad_said = False

    def _error(self, what: str, fix: str) -> DeviceError:
        return DeviceError(f"lsl {self.name}: the stream with {self.config.query} {what}; {fix}")

    def _connect(self) -> StreamInfo:
        try:
            self._lsl = importlib.import_module("pylsl")
        except (ImportError, OSError, RuntimeError) as error:
            raise self._error(f"cannot be read without liblsl ({error})", "run: pip install pylsl") from error
        found = self._lsl.resolve_bypred(self.config.query, 1, RESOLVE_S)
        if not found:
            raise self._error("is not on the network", "start the sender, or correct its names in the cell file")
        info = self._described(found[0])
        failure = ""  # raised outside `except`: a traceback would keep the inlet, which only its destructor releases
        try:
            # The sender's own stamps (no post-processing), and its death told at once (no recovery inside liblsl).
            self._inlet = self._lsl.StreamInlet(found[0], max_buflen=BUFFER_S, recover=False)
            self._inlet.open_stream(RESOLVE_S)
        except RuntimeError as error:
            failure = str(error)
        if failure:
            self._inlet = None
            raise self._error(f"cannot be opened ({failure})", "check the network and the sender")
        self._sent = self._items = 0
        self._bad_said = False
        self._leave = threading.Event()
        self._prober = threading.Thread(
            target=self._probe_clock, args=(self._inlet, self._leave), name=f"lsl-probe-{self.name}", daemon=True
        )
        self._prober.start()
        return info

    def _described(self, found: Any) -> StreamInfo:
        """Check what the sender offers against the cell file."""
        config, count = self.config, found.channel_count()
        rate_hz = config.rate_hz or float(found.nominal_srate())
        if rate_hz <= 0:
            raise self._error("is irregular", "set rate_hz to about how many items a second it sends")
        dtype = self._lsl.lib.fmt2npdtype[found.channel_format()]
        kind = "text" if dtype is None else np.dtype(dtype).name
        if config.columns:
            if kind not in ("int8", "int16", "int32", "int64", "float32", "float64") or len(config.columns) != count:
                raise self._error(f"has {count} channels of {kind}", f"make columns {count} names, one per channel")
            channels, dtype = config.channels, "float64"
        else:
            if kind not in SOUND_DTYPES:
                raise self._error(f"is of {kind}, which is no sound", "name its columns if it is sensors")
            channels = ("mono",) if count == 1 else tuple(f"ch{i}" for i in range(count))
            dtype = SOUND_DTYPES[kind]
        return StreamInfo(
            name=self.name,
            modality="sensors" if config.columns else "audio",
            rate_hz=rate_hz,
            channels=channels,
            units=tuple(CHANNEL_UNITS.get(channel, "") for channel in channels),
            dtype=dtype,
            device_clock="stamps" if config.columns else "samples",
        )

    def _run(self) -> None:
        stale_s = self.config.stale_s
        patience_s = max(FIRST_ITEM_S, stale_s)
        items_ns = time.monotonic_ns()
        failure = ""
        deliver = self._deliver_rows if self.config.columns else self._deliver_sound
        while not self._stop.is_set():
            try:
                samples, stamps = self._inlet.pull_chunk(
                    timeout=0.1, min_samples=1, max_samples=MOST_ITEMS, as_numpy=True
                )
            except RuntimeError as error:
                failure = str(error)
            if failure:
                raise self._error(f"broke off ({failure})", "check the sender and the network")
            arrival_ns = time.monotonic_ns()
            if len(stamps):
                items_ns, patience_s = arrival_ns, stale_s
                deliver(samples, stamps, arrival_ns)
            elif stale_s and arrival_ns - items_ns > patience_s * 1e9:
                raise self._error(f"sent nothing for {patience_s:g} s", "check the sender")

    def _deliver_rows(self, samples: npt.NDArray[Any], stamps: npt.NDArray[np.float64], arrival_ns: int) -> None:
        """Put rows that arrived together, but for those whose stamp is no time."""
        good = np.abs(stamps) < LATEST_S  # NaN is not
        if not good.all():
            self._count_bad_stamps(stamps[~good])
        values = samples[:, self._columns].astype(np.float64) * self._scales
        values[~np.isfinite(values)] = np.nan
        for run in np.split(np.arange(len(stamps)), np.flatnonzero(np.diff(good)) + 1):
            if good[run[0]]:
                t_device_ns = np.rint(stamps[run] * 1e9).astype(np.int64)
                rows = SensorRows(
                    first_row=self._items + int(run[0]),
                    values=values[run],
                    t_device_ns=t_device_ns,
                    t_arrival_ns=np.full(len(run), arrival_ns, np.int64),
                )
                self._send(rows, int(t_device_ns[0]), arrival_ns)
        self._items += len(stamps)

    def _count_bad_stamps(self, stamps: npt.NDArray[np.float64]) -> None:
        """Count rows left out; the first of this opening is logged."""
        if not self._bad_said:
            log.warning("%s", self._error(f"stamped {stamps[0]}", "correct the sender; such rows are left out"))
        self._bad_said = True
        self.bad_stamps += len(stamps)

    def _deliver_sound(self, samples: npt.NDArray[Any], stamps: npt.NDArray[np.float64], arrival_ns: int) -> None:
        if samples.dtype.kind == "f":
            scaled = np.nan_to_num(samples.astype(np.float64)) * 2.0**31
            samples = np.clip(np.rint(scaled), -(2.0**31), 2.0**31 - 1).astype(np.int32)
        stamped = abs(stamps[0]) < LATEST_S
        block = SampleBlock(
            first_sample=self._items,
            rate_hz=self.info.rate_hz,
            samples=samples,
            t_adc_ns=round(float(stamps[0]) * 1e9) if stamped else None,
        )
        self._send(block, None, arrival_ns)
        self._items += len(samples)

    def _send(self, payload: SensorRows | SampleBlock, t_device_ns: int | None, arrival_ns: int) -> None:
        self._put(
            Packet(
                stream=self.name,
                seq=self._sent,
                t_device_ns=t_device_ns,
                t_arrival_ns=arrival_ns,
                payload=payload,
            )
        )
        self._sent += 1

    def _probe_clock(self, inlet: Any, leave: threading.Event) -> None:
        """Ask liblsl every 2 s for its newest burst of round trips (in the prober's thread, since asking may block)."""
        correction = self._lsl.lib.lib.lsl_time_correction_ex
        correction.restype = ctypes.c_double
        correction.argtypes = (ctypes.c_void_p, *(ctypes.c_void_p,) * 2, ctypes.c_double, ctypes.c_void_p)
        remote_s, round_trip_s, code = ctypes.c_double(), ctypes.c_double(), ctypes.c_int()
        before = None
        while not leave.is_set():
            answers = (ctypes.byref(remote_s), ctypes.byref(round_trip_s))
            offset_s = correction(inlet.obj, *answers, PROBE_TIMEOUT_S, ctypes.byref(code))
            if code.value == 0:
                at_ns = time.monotonic_ns()
                ahead_ns = round(self._lsl.local_clock() * 1e9) - at_ns  # liblsl's clock of this host is not quite ours
                offset_ns = ahead_ns - round(offset_s * 1e9)
                bound_ns = round(round_trip_s.value * 0.5e9) + 1
                self.probe = RoundTrip(at_ns=at_ns, offset_ns=offset_ns, bound_ns=bound_ns)
                self._tell(before, self.probe)
                before = self.probe
            leave.wait(PROBE_EVERY_S if code.value == 0 else 0.1)

    def _tell(self, before: RoundTrip | None, probe: RoundTrip) -> None:
        """Log the first probe of an opening, and any that finds the sender's clock set."""
        said = f"{probe.offset_ns / 1e6:.3f} ms, within {probe.bound_ns / 1e6:.3f} ms"
        if before is None:
            log.info("lsl %s: the sender's clock minus the cell clock is %s", self.name, said)
        elif abs(probe.offset_ns - before.offset_ns) > CLOCK_SET_NS + probe.bound_ns + before.bound_ns:
            log.warning("lsl %s: the sender's clock was set; minus the cell clock it is now %s", self.name, said)

    def _disconnect(self) -> None:
        self._leave.set()
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.join(2 * PROBE_TIMEOUT_S)
        self._inlet = None  # the last reference gone, its destructor ends liblsl's threads
