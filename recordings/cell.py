"""The cell file: one TOML per cell says which devices there are, when a weld is recorded and what judges it.

Defaults live in the dataclasses. A wrong setting stops with its line and the fix; a driver named as `module:Class` is
code, so a cell file must come from somebody you trust.
"""

import dataclasses
import difflib
import importlib
import math
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec
import platformdirs

from acquisition.driver import Driver
from acquisition.packet import MODALITIES, RESERVED_STREAMS, Modality
from acquisition.registry import DRIVERS
from acquisition.simulated.config import SimulationConfig
from sync.arc import ArcConfig

if typing.TYPE_CHECKING:
    from acquisition.simulated.cell import SimulatedCell

T = TypeVar("T")
Trigger: TypeAlias = Literal["current", "light", "sound", "manual"]

SIMULATED_CELL: Final = Path(__file__).with_name("simulated_cell.toml")
"""The cell file that runs when none is given."""


LONGEST_MS: Final = 10_000.0
"""No device is later than this; a larger latency is a slip of the pen."""


class CellError(Exception):
    """A cell file is wrong; the message names file, line, value and fix."""


def _limit(settings: object, least: float, *names: str) -> None:
    """Refuse numbers below `least`, infinite ones and NaN."""
    for name in names:
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name} is {value}; give a number of at least {least:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSettings:
    """`[record]`: where and how welds are kept.

    Attributes:
        root: Folder of all recordings; empty for the user's data folder.
        video: `h264` (small) or `lossless` (replay equals live byte for byte).
        pre_s: T1, kept before arc-on (rounded up to a video keyframe).
        post_s: T2, kept after arc-off.
        triggers: What may show the arc; the first of current, light and sound that is seen decides. `manual` alone:
            no arc begins a weld.
        external: `STREAM.CHANNEL` of a sensor that triggers while above 0.5 (a robot's "arc on"); empty for none.
        shortest_s: A shorter arc (a tack weld) is no weld of its own; 0 keeps every arc.
        ring_mb: Most megabytes of encoded packets held for the pre-roll.
        reserve_gb: Below this much free space recording stops cleanly.
        delete_below_gb: Below this much free space the oldest unlabelled welds are deleted; 0 never deletes.
        longest_s: A weld is closed after this long, whatever happens.
    """

    root: str = ""
    video: Literal["h264", "lossless"] = "h264"
    pre_s: float = 2.0
    post_s: float = 2.0
    triggers: tuple[Trigger, ...] = ("current", "light", "sound")
    external: str = ""
    shortest_s: float = 0.0
    ring_mb: float = 256.0
    reserve_gb: float = 1.0
    delete_below_gb: float = 0.0
    longest_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse times and sizes that make no sense, and a weld that nothing could begin."""
        _limit(self, 0, "pre_s", "post_s", "shortest_s", "reserve_gb", "delete_below_gb", "longest_s")
        _limit(self, 1, "ring_mb")
        if not self.triggers and not self.external:
            raise ValueError('triggers is empty; name current, light or sound, or "manual" for welds by hand only')
        if self.external and not re.fullmatch(r"[a-z][a-z0-9_-]*\.\S+", self.external):
            raise ValueError(f"external is '{self.external}'; write STREAM.CHANNEL, a sensor stream and its channel")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """`[judge]`: what judges a weld, and what it must have seen.

    Attributes:
        checkpoint: Folder of a trained detector; empty for the shipped one.
        alpha: False-alarm rate aimed at, per weld.
        required_process: Modalities without which no verdict is given while welding.
        required_final: Modalities without which no final verdict is given.
        photos_expected: Photos per weld; 0 for a cell without photos.
        photo_wait_s: How long after a weld photos are waited for.
    """

    checkpoint: str = ""
    alpha: float = 0.05
    required_process: tuple[Modality, ...] = ("video", "audio", "sensors")
    required_final: tuple[Modality, ...] = ("video", "audio", "sensors")
    photos_expected: int = 5
    photo_wait_s: float = 20.0

    def __post_init__(self) -> None:
        """Refuse a rate that is none, and negative waits."""
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}; it must lie between 0 and 1")
        _limit(self, 0, "photos_expected", "photo_wait_s")

    @property
    def required(self) -> dict[str, tuple[str, ...]]:
        """Required modalities by stage (`process`, `final`)."""
        return {"process": self.required_process, "final": self.required_final}


def network_endpoints(address: str) -> tuple[str, str] | None:
    """Endpoints for packets and, one port above, for commands, of a `tcp://ADDRESS:PORT`; None if it is none."""
    found = re.fullmatch(r"tcp://(\*|[\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", address)
    if not found or not 1 <= int(found[2]) < 65535:
        return None
    return address, f"tcp://{found[1]}:{int(found[2]) + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """`[network]`: whether screens and detectors on other hosts may attach, and who they must be.

    Attributes:
        listen: `tcp://ADDRESS:PORT`; packets there, commands one port above; empty for this host only.
        keys: Folder of the key pairs and of the clients that are let in; empty for the user's configuration folder.
    """

    listen: str = ""
    keys: str = ""

    def __post_init__(self) -> None:
        """Refuse an address that nobody could connect to."""
        if self.listen and network_endpoints(self.listen) is None:
            raise ValueError(f"listen is '{self.listen}'; write tcp://ADDRESS:PORT, such as tcp://0.0.0.0:5570")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """One `[[stream]]`: name, modality, driver and the driver's own settings (already checked).

    Attributes:
        name: Stream name.
        modality: Which of the four it carries.
        driver: Driver name or `module:Class`.
        config: The driver's settings dataclass; None for the simulated cell.
        latency_ms: Constant latency of the stream, taken off its times (`latency` measures it).
    """

    name: str
    modality: Modality
    driver: str
    config: Any
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A whole cell file.

    Attributes:
        name: Cell name; calibration binds to it.
        streams: Devices, in file order.
        record: Recording settings.
        judge: Judging settings.
        arc: Arc trigger settings.
        network: Who may attach from other hosts.
        simulation: Settings of the simulated cell, or None for a real one.
        metadata: part, program, operator, ... given to every weld.
        path: The cell file.
    """

    name: str
    streams: tuple[StreamSettings, ...]
    record: RecordSettings = field(default_factory=RecordSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    arc: ArcConfig = field(default_factory=ArcConfig)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    simulation: SimulationConfig | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    path: Path = SIMULATED_CELL

    @property
    def root(self) -> Path:
        """Folder of all recordings."""
        return Path(self.record.root).expanduser() if self.record.root else default_root()

    def latency_ns(self, stream: str) -> int:
        """Constant latency of a stream (0 for one that the file does not name)."""
        return next((round(one.latency_ms * 1e6) for one in self.streams if one.name == stream), 0)


def default_root() -> Path:
    """The user's folder for recordings."""
    return Path(platformdirs.user_data_dir("weld-4m", appauthor=False)) / "welds"


class _Source:
    """A cell file's text, to say on which line a setting stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise CellError(f"{path}: no such cell file; write one (docs/own_cell.md holds one to copy)") from None
        except OSError as error:
            raise CellError(f"{path}: cannot be read ({error.strerror}); name a cell file") from error
        try:
            self.text = data.decode()
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise CellError(f"{path}:{line}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error
        try:
            self.tables = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise CellError(f"{path}: not valid TOML: {error}; correct that line") from error

    def line(self, table: str, index: int | None, key: str | None) -> int:
        """Line number of `key` (or of the header) in table `table`; the `index`-th for arrays of tables."""
        current, seen, header_line = "", -1, 1
        for number, text in enumerate(self.text.splitlines(), 1):
            header = re.match(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$", text)
            if header:
                current = header[1]
                if key is not None and current == f"{table}.{key}" and (index is None or seen == index):
                    return number  # the setting is a table of its own
                if current == table:
                    seen += 1
                    if index is None or seen == index:
                        header_line = number
            elif current == "" and re.match(rf"\s*[\"']?{re.escape(table)}[\"']?\s*=", text):
                header_line = number  # not a table at all, or an inline one
            inside = (current == table or current.startswith(table + ".")) if table else current == ""
            if inside and (index is None or seen == index) and key is not None:
                name = re.match(r"\s*[\"']?([\w.-]+)[\"']?\s*=", text)
                if name and name[1].split(".")[0] == key:
                    return number
        return header_line

    def fail(self, table: str, index: int | None, key: str | None, what: str) -> CellError:
        """The error to raise for a setting."""
        return CellError(f"{self.path}:{self.line(table, index, key)}: {what}")


def _build(kind: type[T], values: Mapping[str, Any], source: _Source, table: str, index: int | None = None) -> T:
    """Make dataclass `kind` from `values`, naming the line of the first unknown, ill-typed or missing setting."""
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(typing.cast(Any, kind))}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1, 0.5)
            fix = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(fields))}"
            raise source.fail(table, index, key, f"unknown setting '{key}' in [{table}]; {fix}")
        try:
            checked[key] = msgspec.convert(value, hints[key])
        except msgspec.ValidationError as error:
            raise source.fail(table, index, key, f"'{key}' is {value!r}: {error}; correct the value") from error
    for name, item in fields.items():
        if name not in checked and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise source.fail(table, index, None, f"[{table}] lacks '{name}'; add a line '{name} = ...'")
    try:
        return kind(**checked)
    except ValueError as error:
        named = next((name for name in checked if re.search(rf"\b{name}\b", str(error))), None)
        raise source.fail(table, index, named, f"[{table}]: {error}") from error


def _table(tables: Mapping[str, Any], name: str, source: _Source) -> dict[str, Any]:
    """Give the table `name`, empty if the file has none."""
    values = tables.get(name, {})
    if not isinstance(values, dict):
        raise source.fail(name, None, None, f"'{name}' is {values!r}, not a table; write a line [{name}] instead")
    return values


def _driver_class(name: str) -> type[Driver]:
    """Import the driver class of a `DRIVERS` name or of `module:Class`."""
    module, _, attribute = DRIVERS.get(name, name).partition(":")
    if not attribute:
        near = difflib.get_close_matches(name, [*DRIVERS, "simulated"], 1, 0.4)
        fix = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(DRIVERS)}, simulated, or module:Class"
        raise CellError(f"unknown driver '{name}'; {fix}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # it is somebody else's code, and may fail in any way
        what = f"{type(error).__name__}: {error}"
        raise CellError(f"driver '{name}' cannot be loaded ({what}); correct it or install what it needs") from error
    if not (isinstance(found, type) and issubclass(found, Driver)):
        raise CellError(f"driver '{name}' is not an acquisition.driver.Driver; see docs/architecture.md")
    return found


def _config_type(name: str, kind: type[Driver]) -> type[Any]:
    """The settings dataclass of a driver class: the type of its parameter `config`."""
    found = typing.get_type_hints(kind.__init__).get("config")
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise CellError(f"driver '{name}' must be made as Class(name, config: its settings dataclass); correct it")
    return found


def _stream(values: dict[str, Any], source: _Source, index: int, simulated: bool) -> StreamSettings:
    values = dict(values)
    for key in ("name", "modality", "driver"):
        if not isinstance(values.get(key), str):
            raise source.fail("stream", index, key, f"every [[stream]] needs a text '{key}'; add '{key} = \"...\"'")
    name, modality, driver = (values.pop(key) for key in ("name", "modality", "driver"))
    reserved = sorted(RESERVED_STREAMS - {"photos"})
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name) or name in reserved:
        fix = "use up to 32 of a-z, 0-9, _ and -, beginning with a letter, and none of " + ", ".join(reserved)
        raise source.fail("stream", index, "name", f"'{name}' cannot name a stream; {fix}")
    if modality not in MODALITIES:
        raise source.fail("stream", index, "modality", f"unknown modality '{modality}'; use {', '.join(MODALITIES)}")
    latency_ms = values.pop("latency_ms", 0.0)
    if isinstance(latency_ms, bool) or not isinstance(latency_ms, int | float) or not abs(latency_ms) <= LONGEST_MS:
        fix = f"give milliseconds between -{LONGEST_MS:g} and {LONGEST_MS:g}"
        raise source.fail("stream", index, "latency_ms", f"'latency_ms' is {latency_ms!r}; {fix}")
    settings = partial(StreamSettings, name=name, modality=modality, driver=driver, latency_ms=float(latency_ms))
    if driver == "simulated":
        if not simulated:
            raise source.fail("stream", index, "driver", "a simulated stream needs a [simulation] table; add one")
        if values:
            raise source.fail("stream", index, next(iter(values)), "simulated streams are set in [simulation]; move it")
        return settings(config=None)
    try:
        config_type = _config_type(driver, _driver_class(driver))
    except CellError as error:
        raise source.fail("stream", index, "driver", str(error)) from error
    config = _build(config_type, values, source, "stream", index)
    return settings(config=config)


def load_cell(path: Path | None = None) -> Cell:
    """Read and check a cell file (None: the simulated cell); opens no device.

    Raises:
        CellError: Anything wrong, with its line and the fix.
    """
    source = _Source(path or SIMULATED_CELL)
    tables = dict(source.tables)
    known = {"name", "record", "judge", "trigger", "network", "simulation", "metadata", "stream"}
    for key in tables:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.5)
            fix = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(known))}"
            shown = (
                source.line("", None, key) if not isinstance(tables[key], dict | list) else source.line(key, None, None)
            )
            raise CellError(f"{source.path}:{shown}: unknown entry '{key}'; {fix}")
    name = tables.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,40}", name):
        raise source.fail("", None, "name", "a cell needs a name of letters, digits, _ and -; add 'name = \"cell-1\"'")
    simulation = _table(tables, "simulation", source) if "simulation" in tables else None
    streams = tables.get("stream", [])
    if not isinstance(streams, list) or not streams or not all(isinstance(values, dict) for values in streams):
        raise source.fail("stream", None, None, "a cell needs a [[stream]] table for every device; add one")
    cell = Cell(
        name=name,
        streams=tuple(_stream(values, source, i, simulation is not None) for i, values in enumerate(streams)),
        record=_build(RecordSettings, _table(tables, "record", source), source, "record"),
        judge=_build(JudgeSettings, _table(tables, "judge", source), source, "judge"),
        arc=_build(ArcConfig, _table(tables, "trigger", source), source, "trigger"),
        network=_build(NetworkSettings, _table(tables, "network", source), source, "network"),
        simulation=None if simulation is None else _build(SimulationConfig, simulation, source, "simulation"),
        metadata=_table(tables, "metadata", source),
        path=source.path,
    )
    names = [stream.name for stream in cell.streams]
    for index, stream in enumerate(names):
        if stream in names[:index]:
            raise source.fail("stream", index, "name", f"two streams are called '{stream}'; rename one")
    named = cell.record.external.partition(".")[0]
    sensors = [stream.name for stream in cell.streams if stream.modality == "sensors"]
    if named and named not in sensors:
        known_ones = ", ".join(sensors) or "none"
        what = f"external is '{cell.record.external}', but there is no sensor stream '{named}'; known are: {known_ones}"
        raise source.fail("record", None, "external", what)
    return cell


def build_drivers(cell: Cell) -> "tuple[dict[str, Driver], SimulatedCell | None]":
    """Make one closed driver per stream; simulated streams share one hidden world, which is returned too."""
    world = None
    if cell.simulation is not None:
        # Half a second of imports that a screen, which reads the cell file too, has no use for.
        from acquisition.simulated.cell import SimulatedCell

        world = SimulatedCell(cell.simulation)
    drivers: dict[str, Driver] = {}
    for stream in cell.streams:
        if stream.config is None and world is not None:
            drivers[stream.name] = world.driver(stream.name, stream.modality)
        else:
            kind: Any = _driver_class(stream.driver)
            drivers[stream.name] = kind(stream.name, stream.config)
    return drivers, world
