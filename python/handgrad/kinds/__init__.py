"""Kinds: what all ops of one shape share in Python. An op brings its reference, its checks and its docstring.

``elementwise_loss``: a loss of inputs and targets, element by element, with a reduction.
``box_loss``: a loss of pairs of boxes, with a reduction.
``reduced_loss``: what these two share.
``box_matrix``: a measure of all pairs of two tables of boxes.
``window_score``: a score of two images, window by window.
``channel_norm``: a normalisation over the channels of each position.
"""
