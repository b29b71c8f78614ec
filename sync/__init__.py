"""Clocks, arc edges and alignment: pure functions over packets and series."""
