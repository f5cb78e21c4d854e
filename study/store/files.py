"""Names of the files in a study's folder."""

from study.store.names import part

FILE = "study.json"
FOLDER = "artifacts"
CHECKPOINTS = "checkpoints"
REPORT = "report"
FEATURES = "features"  # while a cluster searches: what its machines share


def artifact(trial_id: str) -> str:
    """Name of a trial's file in the study's folder.

    Raises:
        UnsafeName: an id that leads elsewhere.
    """
    return f"{FOLDER}/{part(trial_id, 'trial id')}.safetensors"


def probe(trial_id: str) -> str:
    """Name of the file that holds its logits on the fixed validation batch."""
    return f"{FOLDER}/{part(trial_id, 'trial id')}.probe.safetensors"


def owner(name: str) -> str:
    """Id of the trial that a file in one of the folders is of."""
    return name.rpartition("/")[2].partition(".")[0]


def in_writing(name: str) -> bool:
    """Whether a file is still being written, or was when its writer died."""
    return name.endswith(".part")
