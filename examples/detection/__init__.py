"""The parts of examples/detect.py, one file each: data, models, report."""
