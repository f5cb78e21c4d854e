"""What MLflow shows of a study before all else: a note in Markdown on the study's own run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from analysis import units
from analysis.markup import safe, table
from study.state import StudyState, TrialState
from study.tables import asked
from trainables.record import Objective

__all__ = ["before", "note"]

LONGEST = 5000  # characters of a tag that MLflow's servers take, old ones too
MOST_POINTS, LONGEST_SETTING = 12, 60


def before(name: str, links: Collection[str] = ()) -> str:
    """While there is no summary; ``links`` lead to the runs."""
    text = (
        "The trials of the study stand under this run; its summary comes here when it ends. "
        f"If it was interrupted, `python -m study.run --resume --name {name}` goes on."
    )
    return "\n\n".join([*([_line(links)] if links else []), text])


def note(
    summary: str,
    state: StudyState,
    front: Sequence[str],
    objective: Objective,
    links: Collection[str],
    runs: Mapping[str, str],
    study: str,
) -> str:
    """The answers of a report, its front in short, and what to do next; whole parts that fit.

    Args:
        summary: ``summary.md`` of the report.
        state: Of the study.
        front: Trial ids.
        objective: The primary metric by its plain name.
        links: To the report and to all runs. They come first: MLflow folds the note, and where it
            fades out nothing can be clicked.
        runs: Address of a run in MLflow's pages by trial id.
        study: Where the study is, as commands take it.
    """
    members = {t.trial_id: t for t in state.ended if t.trial_id in set(front)}
    shown = _spread([members[i] for i in front if i in members])
    parts = [
        _line(links),
        summary.split("\n\n", 2)[1],
        "### What to ship\n\n" + _section(summary, "What to ship"),
        _front(shown, len(members), state, objective, runs),
        "### Next\n\n" + _commands(study),
    ]
    while len(text := "\n\n".join(parts)) > LONGEST:
        del parts[-2]  # the commands stay, and what stands first
    return text


def _line(links: Collection[str]) -> str:
    return " · ".join(links)


def _section(summary: str, head: str) -> str:
    after = summary.partition(f"\n## {head}\n\n")[2]
    return after.partition("\n\n## ")[0].strip()


def _commands(study: str) -> str:
    lines = {
        f"python -m study.best {study} --certified": "the smallest certified model",
        f"python analysis/pareto.py {study}": "the report again, in other formats, on other axes",
    }
    return "\n".join(f"- `{command}`: {what}" for command, what in lines.items())


def _front(
    shown: Sequence[TrialState],
    count: int,
    state: StudyState,
    objective: Objective,
    runs: Mapping[str, str],
) -> str:
    name = units.name(objective)
    head = ["ratio", "file bytes", f"val {name}", f"test {name}", "setting", "run"]
    rows = [list(_row(trial, state, objective, runs)) for trial in shown]
    left_out = f" ({len(shown)} of {units.counted(count, 'point')})" if len(shown) < count else ""
    return f"### Front{left_out}\n\n{table(head, rows)}"


def _row(
    trial: TrialState, state: StudyState, objective: Objective, runs: Mapping[str, str]
) -> Iterator[str]:
    outcome = trial.record.outcome if trial.record else None
    size = outcome.size if outcome else None
    yield f"{size.ratio:.3g}×" if size else ""
    yield f"{size.file_bytes:,}" if size else ""
    checked = state.verifications.get(trial.trial_id)
    for metrics in (outcome and outcome.metrics.get("val"), checked and checked.metrics):
        value = (metrics or {}).get(objective.name)
        yield "" if value is None else units.value(objective, value)
    yield safe(_setting(trial))
    link = runs.get(trial.trial_id)
    yield f"[{trial.number:03d}]({link})" if link else ""


def _setting(trial: TrialState) -> str:
    values = asked(trial.trial)
    words = [str(values[name]) for name in ("method", "init", "adapter")]
    text = " ".join([*words, f"rank {values['rank']}"])
    return text if len(text) <= LONGEST_SETTING else f"{text[: LONGEST_SETTING - 1]}…"


def _spread(trials: Sequence[TrialState]) -> list[TrialState]:
    """By ratio; of many the ends and what lies evenly between."""
    ordered = sorted(trials, key=_ratio)
    if len(ordered) <= MOST_POINTS:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _ratio(trial: TrialState) -> float:
    size = trial.record.outcome.size if trial.record else None
    return size.ratio if size else 0.0
