"""What can go wrong in the model, in words a person can act on."""


class ModelError(Exception):
    """`next` says what to do about it."""

    def __init__(self, message: str, next: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next = next


class CorruptWeights(ModelError):
    """A weights file is missing, damaged, or does not belong to this model."""


class PromptTooLong(ModelError):
    """The prompt has more tokens than the text encoder reads."""


class RenderCancelled(Exception):
    """The cancel signal was seen between two steps."""
