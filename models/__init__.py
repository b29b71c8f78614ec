"""Detectors: features, training, calibration, evaluation and the detector process."""
