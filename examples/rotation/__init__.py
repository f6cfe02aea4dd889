"""The parts of examples/rotated.py, one file each: data, models, report."""
