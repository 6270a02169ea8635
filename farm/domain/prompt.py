"""What is to be seen, and what not, in people's words. Pure."""

import unicodedata

from farm.domain.errors import InvalidRequest, PromptRefused
from farm.domain.fields import Fields, quote, refuse_unwritable
from farm.domain.job import JobSpec
from model.demo.tokenizer import KNOWN, tokenize
from model.errors import PromptTooLong
from model.wan.config import PRESETS, Preset

SHORT = 8  # words, or Chinese characters


def prompt_of(value: object, preset: Preset) -> str:
    example = 'describe what should be seen, for example: "a large red circle moving left to right"'
    if value is None:
        raise PromptRefused("a prompt is needed", example, "prompt")
    if not isinstance(value, str):
        raise PromptRefused(f"the prompt must be text, not {quote(value)}", example, "prompt")
    text = value.strip()
    refuse_unwritable({"prompt": text})
    if not any(unicodedata.category(c)[0] in "LNPS" for c in text):
        raise PromptRefused("the prompt is empty", example, "prompt")
    if len(text) > preset.max_prompt_chars:
        raise PromptRefused(
            f"the prompt has {len(text)} characters; {preset.name} reads at most {preset.max_prompt_chars}",
            f"shorten it by {len(text) - preset.max_prompt_chars} characters",
            "prompt",
        )
    if preset.text_encoder == "demo":
        try:
            tokenize(text, preset.transformer.text_len)
        except PromptTooLong as error:
            raise PromptRefused(error.message, error.next, "prompt") from error
    return text


def negative_prompt_of(wish: Fields, preset: Preset) -> str | None:
    value = wish.get("negative_prompt")
    if value is None:
        return None
    if preset.negative_prompt is None:
        why = "it is distilled and runs without guidance" if preset.distilled else "it is guided by an empty one"
        raise InvalidRequest(
            f"{preset.name} takes no negative prompt: {why}",
            "say in the prompt what should be seen, and leave the negative prompt out",
            "negative_prompt",
        )
    if not isinstance(value, str):
        raise InvalidRequest(
            f"the negative prompt must be text, not {quote(value)}",
            "say what should not be seen",
            "negative_prompt",
        )
    try:
        return prompt_of(value, preset)
    except PromptRefused as error:
        raise InvalidRequest(
            error.message.replace("the prompt", "the negative prompt"), error.next, "negative_prompt"
        ) from None


def hint(spec: JobSpec) -> str | None:
    """What the person should know about an accepted prompt: words that the demo model has never seen, or that it is
    too short or in another language for a model that learnt from long English and Chinese captions.
    """
    preset = PRESETS.get(spec.model)
    if preset is None:
        return None
    if preset.text_encoder != "demo":
        return None if spec.expand else _hint_for_captions(spec)
    try:
        unknown = tokenize(spec.prompt, preset.transformer.text_len).unknown
    except PromptTooLong:  # accepted by an older version of the model
        return None
    if not unknown:
        return None
    words = ", ".join(unknown[:6]) + (", ..." if len(unknown) > 6 else "")
    knows = "; ".join(f"{kind}: {', '.join(things)}" for kind, things in KNOWN.items())
    return f"{spec.model} does not know: {words}. It draws, in English and Chinese, {knows}."


def _hint_for_captions(spec: JobSpec) -> str | None:
    letters = [c for c in spec.prompt if c.isalpha()]
    chinese = sum("\u4e00" <= c <= "\u9fff" for c in letters)
    plain = sum(c.isascii() for c in letters)
    if chinese + plain < 0.6 * len(letters):
        return f"{spec.model} learnt from English and Chinese descriptions: others come out less well."
    if chinese + len(spec.prompt.split()) < SHORT:
        return f"{spec.model} learnt from long descriptions: subject, motion, surroundings, light and camera help."
    return None
