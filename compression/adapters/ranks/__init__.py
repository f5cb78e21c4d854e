"""LoRA whose ranks are allotted, at set-up or while it is trained."""
