"""The sensor channels as cell files and senders name them: aliases, units, and settings given per channel."""

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from acquisition.packet import SENSOR_CHANNELS

T = TypeVar("T")

TRIGGER_CHANNEL: Final = "trigger"
"""A robot's or PLC's "arc on", above 0.5 while it welds; what `[record] external` of a cell file may name."""

CHANNELS: Final = (*SENSOR_CHANNELS, TRIGGER_CHANNEL)
"""What a sensor driver may deliver, in the order in which it does."""

CHANNEL_UNITS: Final[dict[str, str]] = {
    "pressure_bar": "bar",
    "co2_flow_l_min": "l/min",
    "feed": "",
    "current_a": "A",
    "wire_mm": "mm",
    "voltage_v": "V",
    TRIGGER_CHANNEL: "",
}
CHANNEL_ALIASES: Final[dict[str, str]] = {
    **{channel: channel for channel in CHANNELS},
    "pressure": "pressure_bar",
    "co2 weld flow": "co2_flow_l_min",
    "primary weld current": "current_a",
    "wire consumed": "wire_mm",
    "secondary weld voltage": "voltage_v",
}
"""Channel by the names that cell files and Weld-4M headers use, in lower case and without spaces around them."""


def channel_of(column: str) -> str | None:
    """The channel that a column name or Weld-4M header means, or None."""
    return CHANNEL_ALIASES.get(column.strip().casefold())


def by_channel(settings: Mapping[str, T]) -> dict[str, T]:
    """Settings given by channel or header, by channel and in the order of `CHANNELS`."""
    found = {channel_of(name): setting for name, setting in settings.items()}
    return {channel: found[channel] for channel in CHANNELS if channel in found}


def scale_by_channel(scale: Mapping[str, float], channels: Iterable[str]) -> list[float]:
    """Factor to the unit for each of `channels`; 1 for those that `scale` does not name."""
    factors = by_channel(scale)
    return [factors.get(channel, 1.0) for channel in channels]


def require_channels(setting: str, names: Iterable[str]) -> None:
    """Refuse names that are no channel, twice the same, or none at all.

    Args:
        setting: What the cell file calls it, for the message.
        names: Channels or their headers.

    Raises:
        ValueError: The names cannot be used as they are.
    """
    names = list(names)
    meanings = [channel_of(name) for name in names]
    for name, channel in zip(names, meanings, strict=True):
        if channel is None or meanings.count(channel) > 1:
            what = "no channel" if channel is None else "twice a channel"
            raise ValueError(f"{setting} name {what}, '{name}'; use one of {', '.join(CHANNELS)}")
    if not names:
        raise ValueError(f"{setting} are empty; use one of {', '.join(CHANNELS)}")
