"""Learning-rate schedules by name: the factor on the learning rate at a share of the training.

Adding one: a file here and a line below.
"""

from trainables.lr_schedules.base import LR_SCHEDULES, LrSchedule
from trainables.lr_schedules.constant import Constant
from trainables.lr_schedules.cosine import Cosine
from trainables.lr_schedules.cosine_restarts import CosineRestarts
from trainables.lr_schedules.exponential import Exponential
from trainables.lr_schedules.inverse_sqrt import InverseSqrt
from trainables.lr_schedules.linear import Linear
from trainables.lr_schedules.one_cycle import OneCycle
from trainables.lr_schedules.polynomial import Polynomial
from trainables.lr_schedules.step import Step
from trainables.lr_schedules.wsd import Wsd

__all__ = [
    "LR_SCHEDULES",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "InverseSqrt",
    "Linear",
    "LrSchedule",
    "OneCycle",
    "Polynomial",
    "Step",
    "Wsd",
]
