"""Tasks by name. Adding one: a file here and a line below."""

from trainables.splits import Batch, Inputs, Split, TensorSplit
from trainables.tasks.base import TASKS, Prepared, Task, observe, predict
from trainables.tasks.digits import Digits
from trainables.tasks.image_classification import ImageClassification

__all__ = [
    "TASKS",
    "Batch",
    "Digits",
    "ImageClassification",
    "Inputs",
    "Prepared",
    "Split",
    "Task",
    "TensorSplit",
    "observe",
    "predict",
]
