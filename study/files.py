"""Names of the files in a study's folder."""

FILE = "study.json"
FOLDER = "artifacts"


def artifact(trial_id: str) -> str:
    """Name of a trial's file in the study's folder."""
    return f"{FOLDER}/{trial_id}.safetensors"


def probe(trial_id: str) -> str:
    """Name of the file that holds its logits on the fixed validation batch."""
    return f"{FOLDER}/{trial_id}.probe.safetensors"
