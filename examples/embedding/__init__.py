"""The parts of examples/embed.py, one file each: data, losses, models, evaluation, report."""
