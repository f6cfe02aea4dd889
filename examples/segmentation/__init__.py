"""The parts of examples/segment.py, one file each: data, losses, models, evaluation, report."""
