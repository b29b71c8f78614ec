"""The screen at the cell."""
