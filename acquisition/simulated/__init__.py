"""The simulated cell: one hidden process state drives sensors, sound, video and photos."""
