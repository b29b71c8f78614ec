"""Where items leave a simulated device: its driver numbers them, stamps are what the device gives, faults do harm."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acquisition.device_count import DeviceCounter
from acquisition.packet import SENSOR_CHANNELS, Packet, SampleBlock, SensorRows, VideoFrame
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.devices import CAMERA, MICROPHONE
from acquisition.simulated.disturbance import Mark, draw_traits
from acquisition.simulated.seeds import generator

FRAME_GAIN: Final = 4
"""Gain of an overexposed frame."""
SOUND_GAIN: Final = 500
"""Gain of overdriven sound: 54 dB."""
SATURATED: Final = (("current_a", 819.03), ("voltage_v", 81.9))
"""What a saturated sensor row reads."""
_RUNS_KEPT: Final = 10_000
_MS_NS: Final = 1_000_000


class Outlet:
    """Delivers the items of one opening of one device.

    Attributes:
        per_item: Numbers that an item takes: the samples of a block, the rows of a packet, 1 for a frame.
        runs: What was delivered, as `[restarts, number, item number, n]`: the `n` numbers from `number` on belong to
            the item numbers from `item number` on, which count all that happened since the opening.
    """

    def __init__(self, config: SimulationConfig, device: str) -> None:
        """Begin with nothing delivered."""
        sizes = {CAMERA: 1, MICROPHONE: config.block_samples}
        rates_hz = {CAMERA: config.fps, MICROPHONE: config.audio_rate_hz}
        self.per_item = sizes.get(device, config.rows_per_packet)
        self.runs: list[list[int]] = []
        self._rate_hz = rates_hz.get(device, config.sensor_rate_hz)
        self._traits = draw_traits(config, device)
        self._seed = config.seed
        self._packets = 0
        self._counter = DeviceCounter()
        self._counted_s: float | None = None
        self._last: Packet | None = None

    def number(self, item: int, device_first: int, restarts: int, t_s: float) -> int:
        """Number an item as its driver does, and take note of it.

        Args:
            item: The item, counted from the opening.
            device_first: The device's own number of its first sample, row or frame.
            restarts: How often the device has begun to count anew.
            t_s: World time of the item.

        Returns:
            The first number that its packet carries.
        """
        first = device_first
        if not self._traits.has_counter:
            first = self._packets * self.per_item
        elif self._traits.counter_bits:
            first = self._unwrapped(device_first % (1 << self._traits.counter_bits), t_s)
        self._packets += 1
        true = item * self.per_item
        last = self.runs[-1] if self.runs else None
        if last is None or last[0] != restarts or first - last[1] != true - last[2]:
            if len(self.runs) >= _RUNS_KEPT:
                del self.runs[0]
            self.runs.append([restarts, first, true, self.per_item])
        else:
            last[3] = first + self.per_item - last[1]
        return first

    def _unwrapped(self, raw: int, t_s: float) -> int:
        """Undo the wraps of a narrow counter, as drivers do; a counter that fell for another reason begins anew."""
        elapsed_s = 0.0 if self._counted_s is None else t_s - self._counted_s
        self._counted_s = t_s
        number = self._counter.follow(raw, plausible=16 + 4 * elapsed_s * self._rate_hz)
        if number is None:
            self._counter = DeviceCounter()
            self._counter.follow(raw, plausible=0.0)
            return raw
        return number

    def deliver(self, packet: Packet, first: int, marks: Sequence[Mark]) -> Packet:
        """Give a packet the number that its driver found (`number`), and do it the harm that it suffers."""
        harm = {mark.kind: mark.amount for mark in marks}
        packet = self._numbered(packet, first)
        packet = self._stamped(packet, harm)
        if not harm.keys().isdisjoint(("clip", "hold", "garbage", "overflow")):
            packet = self._harmed(packet, harm)
        self._last = packet
        return packet

    def _numbered(self, packet: Packet, first: int) -> Packet:
        payload, seq = packet.payload, packet.seq
        if isinstance(payload, SampleBlock):
            counted = payload.first_sample
            payload = payload if counted == first else replace(payload, first_sample=first)
        elif isinstance(payload, SensorRows):
            counted = payload.first_row
            payload = payload if counted == first else replace(payload, first_row=first)
        else:
            counted = seq
        seq = seq + (first - counted) // self.per_item if self._traits.has_counter else self._packets - 1
        unchanged = seq == packet.seq and payload is packet.payload
        return packet if unchanged else replace(packet, seq=seq, payload=payload)

    def _stamped(self, packet: Packet, harm: dict[str, float]) -> Packet:
        """Give a packet the stamps that the device gives."""
        traits, stamp_ns, payload = self._traits, packet.t_device_ns, packet.payload
        stuck = "repeat" in harm or "stuck-clock" in harm
        if stamp_ns is None or not (stuck or "backwards" in harm or traits.ms_stamps or traits.device_clock == "none"):
            return packet
        rows_ns = payload.t_device_ns if isinstance(payload, SensorRows) else None
        stamps_ns = np.array([stamp_ns], np.int64) if rows_ns is None else rows_ns
        if "backwards" in harm:
            stamps_ns = stamps_ns - round(harm["backwards"] * _MS_NS)
        if traits.ms_stamps:
            stamps_ns = (stamps_ns + _MS_NS // 2) // _MS_NS * _MS_NS
        if stuck and self._last is not None and self._last.t_device_ns is not None:
            stamps_ns = np.full_like(stamps_ns, self._last.t_device_ns)
        known = traits.device_clock != "none"
        if isinstance(payload, SensorRows):
            payload = replace(payload, t_device_ns=stamps_ns if known else None)
        return replace(packet, payload=payload, t_device_ns=int(stamps_ns[-1]) if known else None)

    def _harmed(self, packet: Packet, harm: dict[str, float]) -> Packet:
        """Spoil what a packet carries: held, then clipped, then garbled."""
        payload = packet.payload
        before = self._last.payload if self._last is not None else payload
        rng = generator(self._seed, "garbage", packet.stream, packet.segment, packet.seq)
        if isinstance(payload, VideoFrame) and isinstance(before, VideoFrame):
            pixels = before.pixels if "hold" in harm else payload.pixels
            if "clip" in harm:
                pixels = np.minimum(pixels.astype(np.uint16) * FRAME_GAIN, 255).astype(np.uint8)
            if "garbage" in harm:
                pixels = rng.integers(0, 256, pixels.shape, np.uint8)
            return replace(packet, payload=replace(payload, pixels=pixels))
        if isinstance(payload, SampleBlock) and isinstance(before, SampleBlock):
            samples: npt.NDArray[Any] = payload.samples
            if "hold" in harm:
                samples = np.repeat(before.samples[-1:], len(samples), axis=0)
            if "clip" in harm:
                samples = np.clip(samples.astype(np.int32) * SOUND_GAIN, -32768, 32767).astype(np.int16)
            if "garbage" in harm:
                samples = rng.integers(-32768, 32768, samples.shape, np.int16)
            return replace(packet, payload=replace(payload, samples=samples, overflow="overflow" in harm))
        if isinstance(payload, SensorRows) and isinstance(before, SensorRows):
            values = np.array(payload.values)
            if "hold" in harm:
                values[:] = before.values[-1]
            if "clip" in harm:
                for name, reading in SATURATED:
                    values[:, SENSOR_CHANNELS.index(name)] = reading
            if "garbage" in harm:
                values[:] = np.nan
            return replace(packet, payload=replace(payload, values=values))
        return packet
