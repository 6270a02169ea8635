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


class ImageMissing(ModelError):
    """An image-to-video model without a first frame, or a text-to-video model with one."""

    def __init__(self, model: str, missing: bool) -> None:
        if missing:
            super().__init__(f"{model} makes videos from an image, and there is none", "add an image")
        else:
            super().__init__(f"{model} makes videos from text only", "leave the image out")


class NotNumbers(Exception):
    """The latent or the frames hold NaN or infinity: the device computes wrongly, or the weights do."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} holds values that are not numbers")


class RenderCancelled(Exception):
    """The cancel signal was seen between two steps."""
