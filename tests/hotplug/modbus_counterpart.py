"""A Modbus device by pymodbus, over TCP or RTU (`python -m tests.hotplug.modbus_counterpart ...`).

Holding registers (also read as input registers): 0-1 the host's monotonic milliseconds when it was asked, high word
first; 2 the int16 -5; 3-4 the float32 1.5, low word first; 5-6 the float32 NaN; 100 the number 7; no others.
"""

import asyncio
import struct
import sys
import time
from pathlib import Path

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.acquisition.counterparts import SerialCable
from tests.hotplug.server_counterpart import READY, Server

UNIT = 9


class TcpDevice:
    """A Modbus TCP device; `address` is what a cell file calls it."""

    def __init__(self, port: int) -> None:
        self.address = f"tcp://127.0.0.1:{port}"
        self.server = Server("tests.hotplug.modbus_counterpart", "tcp", str(port))

    def plug(self) -> int:
        """Start it; gives the cell time from which it answers."""
        return self.server.start()

    def pull(self) -> None:
        """Kill it; may be called twice."""
        self.server.kill()


class RtuDevice:
    """A Modbus RTU device behind a serial line by socat; pulling takes the port away, as that of a USB adapter."""

    def __init__(self, folder: Path) -> None:
        self._cable = SerialCable(folder)
        self.address = str(self._cable.port)
        self.server = Server("tests.hotplug.modbus_counterpart", "rtu", str(folder / "far"))

    def plug(self) -> int:
        """Join the line and start the device; gives the cell time from which it answers."""
        self._cable.plug()
        return self.server.start()

    def pull(self) -> None:
        """Kill the line and the device; may be called twice."""
        self._cable.unplug()
        self.server.kill()


async def _measure(
    _function: int, start: int, _address: int, _count: int, registers: list[int], _written: object
) -> ExcCodes | None:
    """Bring the clock registers up to date; called by pymodbus at every request."""
    registers[-start : 2 - start] = struct.unpack(">HH", struct.pack(">I", time.monotonic_ns() // 10**6 & 0xFFFFFFFF))
    return None


async def serve(kind: str, where: str) -> None:
    """Be the device until killed."""
    words = struct.unpack(">HHH", struct.pack(">hf", -5, 1.5))
    nan = struct.unpack(">HH", struct.pack(">f", float("nan")))
    data = [
        SimData(0, values=[0, 0, words[0], words[2], words[1], *nan], datatype=DataType.REGISTERS),
        SimData(100, values=7, datatype=DataType.REGISTERS),
    ]
    device = SimDevice(UNIT, data, action=_measure)
    server: ModbusTcpServer | ModbusSerialServer
    if kind == "tcp":
        server = ModbusTcpServer(device, address=("127.0.0.1", int(where)))
    else:
        server = ModbusSerialServer(device, port=where, baudrate=115_200)
    await server.serve_forever(background=True)
    print(READY, flush=True)  # noqa: T201 - read by `Server.start`
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
