"""Recipes by name. Adding one: a file here and a line below."""

from trainables.recipes.base import RECIPES, NonFiniteLoss, Progress, Recipe, Run
from trainables.recipes.progressive import Progressive
from trainables.recipes.recover import Recover

__all__ = ["RECIPES", "NonFiniteLoss", "Progress", "Progressive", "Recipe", "Recover", "Run"]
