"""No hook."""

from __future__ import annotations

from trainables.hooks.base import HOOKS, Hook, Scene


@HOOKS.register("none")
class NoHook(Hook):
    """Nothing acts beside the adapter itself."""

    def start(self, scene: Scene) -> None:
        """See :class:`Hook`."""
        return None
