"""Tasks by name. Adding one: a file here and a line below."""

from trainables.splits import Batch, Inputs, Split, TensorSplit
from trainables.tasks.base import TASKS, Prepared, Task, observe, predict
from trainables.tasks.causal_lm import CausalLM
from trainables.tasks.digits import Digits
from trainables.tasks.image_classification import ImageClassification
from trainables.tasks.imagenet_crops import ImagenetCrops
from trainables.tasks.mnist import Mnist5k
from trainables.tasks.product_reviews import ProductReviews
from trainables.tasks.seq2seq import Seq2Seq
from trainables.tasks.text_classification import TextClassification

__all__ = [
    "TASKS",
    "Batch",
    "CausalLM",
    "Digits",
    "ImageClassification",
    "ImagenetCrops",
    "Inputs",
    "Mnist5k",
    "Prepared",
    "ProductReviews",
    "Seq2Seq",
    "Split",
    "Task",
    "TensorSplit",
    "TextClassification",
    "observe",
    "predict",
]
