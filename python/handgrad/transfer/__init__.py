"""Turn a trained network into one for another task.

Functions that change the model in place and return a report that says, when printed, what was done::

    import torchvision
    from handgrad import transfer

    model = torchvision.models.resnet18(weights="DEFAULT")
    print(transfer.freeze(model, until="layer4"))    # the first three stages no longer learn
    print(transfer.new_head(model, num_classes=5))   # 1000 ImageNet classes become 5

Only torch is imported. torchvision's classifiers are recognised by the name of their class.
"""

from handgrad.transfer.accelerating import Accelerated, accelerate
from handgrad.transfer.freezing import FreezeReport, freeze, unfreeze
from handgrad.transfer.functions import ReplaceFunctionsReport, replace_functions
from handgrad.transfer.heads import HeadReport, new_head
from handgrad.transfer.layers import ReplacedLayer, ReplaceReport, replace_layers
from handgrad.transfer.weights import CopyReport, copy_matching_weights

__all__ = [
    "Accelerated",
    "CopyReport",
    "FreezeReport",
    "HeadReport",
    "ReplaceFunctionsReport",
    "ReplaceReport",
    "ReplacedLayer",
    "accelerate",
    "copy_matching_weights",
    "freeze",
    "new_head",
    "replace_functions",
    "replace_layers",
    "unfreeze",
]
