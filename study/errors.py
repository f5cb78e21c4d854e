"""What can go wrong with a study that is nobody's wrong input."""


class StudyError(Exception):
    """A study cannot go on; the message is a sentence for its user, exit code 1."""
