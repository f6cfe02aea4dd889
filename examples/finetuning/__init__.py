"""The parts of examples/finetune.py, one file each: settings, data, models, training, evaluation, report."""
