"""The command `replay`, checked before anything obeys it: `docs/replay.md`."""

import math
from typing import Annotated, Any, Final

import msgspec

FASTEST: Final = 1000.0


class ReplayCommandError(ValueError):
    """A command makes no sense; the message names what, and what would."""


class ReplayCommand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a replay is told to do; what is absent stays as it is.

    Attributes:
        loop: At the end of what is played, begin anew.
        range: Play from A to B only, seconds into the weld; None: the whole weld.
        speed: Times real time; 0 is as fast as every reader keeps up.
        playing: Play or pause.
        seek_s: Go there, seconds into the weld.
        step: Pause, and go this many frames on, or back.
    """

    loop: bool | None = None
    range: tuple[float | None, float | None] | msgspec.UnsetType | None = msgspec.UNSET
    speed: Annotated[float, msgspec.Meta(ge=0, le=FASTEST)] | None = None
    playing: bool | None = None
    seek_s: float | None = None
    step: int | None = None


def replay_command(data: dict[str, Any]) -> ReplayCommand:
    """Check the data of a command.

    Raises:
        ReplayCommandError: It makes no sense.
    """
    try:
        command = msgspec.convert(data, ReplayCommand)
    except msgspec.ValidationError as error:
        raise ReplayCommandError(f"replay: {error}; nothing was changed, see docs/replay.md") from error
    ends = command.range if isinstance(command.range, tuple) else ()
    numbers = [command.speed, command.seek_s, *ends]
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise ReplayCommandError(f"replay: {data} holds what is no finite number; nothing was changed")
    if len(ends) == 2 and ends[0] is not None and ends[1] is not None and ends[0] >= ends[1]:
        raise ReplayCommandError(f"replay: range {list(ends)} has its end before its beginning; nothing was changed")
    return command
