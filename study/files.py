"""Names of the files in a study's folder."""

from study.names import part

FILE = "study.json"
FOLDER = "artifacts"


def artifact(trial_id: str) -> str:
    """Name of a trial's file in the study's folder.

    Raises:
        UnsafeName: an id that leads elsewhere.
    """
    return f"{FOLDER}/{part(trial_id, 'trial id')}.safetensors"


def probe(trial_id: str) -> str:
    """Name of the file that holds its logits on the fixed validation batch."""
    return f"{FOLDER}/{part(trial_id, 'trial id')}.probe.safetensors"
