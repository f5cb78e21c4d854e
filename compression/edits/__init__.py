"""Structure edits: how the model itself is made smaller. One line for each."""

from compression.edits.base import EDITS, Edit
from compression.edits.bypass import Bypass
from compression.edits.keep_channels import KeepChannels
from compression.edits.untie import Untie

__all__ = ["EDITS", "Bypass", "Edit", "KeepChannels", "Untie"]
