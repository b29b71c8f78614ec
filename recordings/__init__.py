"""Weld folders: cell file, ingest, recording, recovery, reading and replay."""
