"""Devices and their drivers, packets and their transport."""
