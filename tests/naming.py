"""Whether a text names an op: for tests of who may know whom."""

import re

#: What is put after an op's name, in those of its files and functions.
ENDS = r"(?:_(?:backward|double_backward))?(?:_(?:cpu|cuda|math|host|reference|kernel))?"


def names_op(text: str, family: str, op: str) -> bool:
    """Whether code names ``op`` of ``family``; not whether the word occurs.

    ``sigmoid_focal_loss`` is nothing else wherever it stands as a word. But ``warp``, ``flip``, ``gather`` and ``iou``
    are words of CUDA, of torch and of English too: an op of one word is named where something says that it is an op, as
    its qualified name does, its files, its functions, or its name alone between quotation marks.
    """
    # Another library's function of the same name is no mention: torch.nn.functional.grid_sample.
    text = re.sub(rf"\b(?:torch|torchvision|F)(?:'s |[\w.]*\.){op}\b", "", text)
    word = rf"(?<![A-Za-z0-9_])_?{op}{ENDS}(?![A-Za-z0-9_])"
    if "_" in op:
        return re.search(word, text) is not None
    ways = (
        rf"handgrad::{word}",
        rf"\bhandgrad\.{word}",
        rf"\b{family}[./]{word}",
        rf"[\"']{op}[\"']",
        rf"\bimport [^;\n]*{word}",
    )
    named = {found for found in re.findall(word, text) if found.strip("_") != op}
    return bool(named) or any(re.search(way, text) for way in ways)
