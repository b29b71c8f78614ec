"""JSON schemas of the messages of an exported weld: Foxglove's well-known ones by their names, and our own.

JSON and not Protobuf: every MCAP reader takes it without generated code, and zstd takes back what base64 costs.
"""

from typing import Any, Final

import msgspec

from acquisition.packet import StreamInfo

_TIME: Final[dict[str, Any]] = {
    "type": "object",
    "title": "time",
    "properties": {
        "sec": {"type": "integer", "minimum": 0},
        "nsec": {"type": "integer", "minimum": 0, "maximum": 999999999},
    },
}
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_INT: Final = {"type": "integer"}
_BYTES: Final = {"type": "string", "contentEncoding": "base64"}

VIDEO: Final = "foxglove.CompressedVideo"
IMAGE: Final = "foxglove.CompressedImage"
SOUND: Final = "foxglove.RawAudio"
SOUND_32: Final = "weld4m.SoundBlock"
EVENT: Final = "weld4m.Event"
CLOCK: Final = "weld4m.ClockUpdate"
SCORE: Final = "weld4m.Score"
VERDICT: Final = "weld4m.Verdict"

_SOUND_FIELDS: Final = {"data": _BYTES, "format": _TEXT, "sample_rate": _COUNT, "number_of_channels": _COUNT}
_FIELDS: Final[dict[str, dict[str, Any]]] = {
    VIDEO: {"frame_id": _TEXT, "data": _BYTES, "format": _TEXT},
    IMAGE: {"frame_id": _TEXT, "data": _BYTES, "format": _TEXT},
    SOUND: _SOUND_FIELDS,
    SOUND_32: _SOUND_FIELDS,
    EVENT: {"kind": _TEXT, "weld": {"type": ["string", "null"]}, "data": {"type": "object"}},
    CLOCK: {"of_stream": _TEXT, **dict.fromkeys(("segment", "ref_ns", "offset_ns", "drift_ppb", "sigma_ns"), _INT)},
    SCORE: {"window": _INT, "score": {"type": "number"}, "weld_score": {"type": "number"}},
    VERDICT: {"stage": _TEXT, "word": _TEXT, "reason": _TEXT, "final": {"type": "boolean"}},
}


def schema(name: str) -> bytes:
    """Return the JSON schema of a message type."""
    return _schema(name, _FIELDS[name])


def sensor_schema(info: StreamInfo) -> tuple[str, bytes]:
    """Return name and JSON schema of a sensor stream's rows: a number per channel, null where not measured."""
    units = info.units or ("",) * len(info.channels)
    channels = {
        name: {"type": ["number", "null"], "description": f"unit: {unit or 'unknown'}"}
        for name, unit in zip(info.channels, units, strict=False)
    }
    name = f"weld4m.Sensors.{info.name}"
    return name, _schema(name, {"row": _INT, **channels})


def _schema(name: str, fields: dict[str, Any]) -> bytes:
    properties = {"timestamp": _TIME, **fields}
    return msgspec.json.encode(
        {"title": name, "type": "object", "properties": properties, "required": list(properties)}
    )


def stamp(t_ns: int) -> dict[str, int]:
    """Return a message's own time stamp."""
    return {"sec": t_ns // 10**9, "nsec": t_ns % 10**9}
