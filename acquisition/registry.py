"""The drivers by the name that a cell file uses; each lives in a file of its own and is imported only when named."""

from typing import Final

DRIVERS: Final[dict[str, str]] = {
    "camera": "acquisition.camera:Camera",
    "microphone": "acquisition.microphone:Microphone",
    "serial": "acquisition.serial_sensors:SerialSensors",
    "serial-frames": "acquisition.serial_frames:SerialFrames",
    "modbus": "acquisition.modbus:ModbusSensors",
    "lsl": "acquisition.lsl:LslInlet",
    "opcua": "acquisition.opcua:OpcUaSensors",
    "genicam": "acquisition.genicam:GenicamCamera",
    "photo-folder": "acquisition.photo_folder:PhotoFolder",
    "photo-camera": "acquisition.photo_camera:PhotoCamera",
}
"""`module:Class` by name; a cell file may name a class of its own the same way. `simulated` is the simulated cell."""
