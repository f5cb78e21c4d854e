"""Addresses within MLflow's pages."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pages"]

_TRAINING = "workflowType=machine_learning"  # else they speak of agents and prompts


@dataclass
class Pages:
    """Those of one study: by ``experiment``'s id and the key of the saved ``view`` of its runs."""

    experiment: str
    view: str = ""

    def run(self, run_id: str, within: str = "") -> str:
        """A run, or a part of its page."""
        return f"#/experiments/{self.experiment}/runs/{run_id}{within}?{_TRAINING}"

    @property
    def runs(self) -> str:
        """The table of the study's runs; '' while it has no view."""
        table = f"#/experiments/{self.experiment}/runs?{_TRAINING}&viewStateShareKey={self.view}"
        return table if self.view else ""

    @property
    def links(self) -> list[str]:
        """Where all runs can be seen, in Markdown."""
        if not self.view:
            return []
        return [f"[All runs]({self.runs})", f"[Charts]({self.runs}&compareRunsMode=CHART)"]
