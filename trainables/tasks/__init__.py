"""Tasks by name. Adding one: a file here and a line below."""

from trainables.tasks.base import TASKS, Prepared, Split, Task, predict
from trainables.tasks.digits import Digits

__all__ = ["TASKS", "Digits", "Prepared", "Split", "Task", "predict"]
