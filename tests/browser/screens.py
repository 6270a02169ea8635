"""Pictures of every page, for people to look at: desktop and phone, light and dark, English and Chinese.

python -m tests.browser.screens FOLDER [NAME ...]   (the videos are rendered by the demo model, once per folder)
python -m tests.browser.screens FOLDER --readme      (and renew those of the README)
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from farm.db.engine import migrate
from farm.domain.job import JobSpec
from model.events import Frames, RenderSpec
from model.wan.config import PRESETS
from tests.conftest import NAMES
from tests.served.farm import Served, services_in
from tests.served.furnished import Furnished, furnish
from tests.served.pictures import offer_i2v

ROOT = Path(__file__).resolve().parents[2]
README = {
    "page": "queue-desktop-light-en", "page.zh-CN": "queue-desktop-dark-zh", "job": "job-desktop-dark-en",
    "workers": "workers-desktop-light-en", "compare": "compare-desktop-light-en",
}  # fmt: skip
WIDTHS = {"desktop": (1360, 900), "phone": (390, 844)}


class Rendered:
    """Frames of a spec, by the demo model; kept in a folder, since they take a few seconds each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pipeline = None

    def __call__(self, spec: JobSpec) -> np.ndarray:
        path = self._folder / f"{spec.seed}-{spec.width}-{spec.frames}.npy"
        if not path.exists():
            np.save(path, self._render(spec))
        return np.load(path)

    def _render(self, spec: JobSpec) -> np.ndarray:
        from model.pipeline import Pipeline

        if self._pipeline is None:
            self._pipeline = Pipeline.load(PRESETS["demo-t2v"])
        wish = RenderSpec(spec.prompt, spec.width, spec.height, spec.frames, spec.steps, spec.seed, spec.guidance)
        return np.concatenate([e.frames for e in self._pipeline.render(wish) if isinstance(e, Frames)])


@contextmanager
def furnished(folder: Path) -> Iterator[tuple[Served, Furnished]]:
    clips = folder / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        empty = Path(place) / "empty.db"
        migrate(f"sqlite:///{empty}")
        with services_in(Path(place), empty.read_bytes()) as services:
            offer_i2v(services)
            made = furnish(services, Rendered(clips))
            farm = Served(services)
            farm.start()
            yield farm, made
            farm.stop()


def pages(made: Furnished) -> dict[str, str]:
    return {
        "queue": "/",
        "form": "/",
        "waiting": "/?state=queued",
        "nothing": "/?q=nowhere",
        "job": f"/jobs/{made.done[-1]}",
        "running": f"/jobs/{made.running}",
        "dependent": f"/jobs/{made.dependent}",
        "failed": f"/jobs/{made.failed}",
        "workers": "/workers",
        "health": "/health",
        "compare": f"/compare?a={made.done[4]}&b={made.done[0]}",
    }


def shoot(browser: Browser, farm: Served, made: Furnished, folder: Path, only: set[str]) -> None:
    for width, theme, lang in product(WIDTHS, ("light", "dark"), ("en", "zh")):
        phone = width == "phone"
        context = browser.new_context(
            viewport=dict(zip(("width", "height"), WIDTHS[width], strict=True)),  # type: ignore[arg-type]
            color_scheme=theme,
            locale="zh-CN" if lang == "zh" else "en-GB",
            is_mobile=phone,
            has_touch=phone,
            device_scale_factor=2 if phone else 1,
        )
        page = context.new_page()
        for name, path in pages(made).items():
            picture = f"{name}-{width}-{theme}-{lang}"
            if only and not any(part in picture for part in only):
                continue
            page.goto(farm.url + path)
            if name == "form":
                unfold(page)
            if name == "workers" and not phone:
                page.click("#open-w4")
            settle(page)
            page.screenshot(path=folder / f"{picture}.png", full_page=not phone or name == "job")
        context.close()


def unfold(page: Page) -> None:
    page.click("#settings > summary")
    page.fill("#prompt", "a large purple dragon moving to the left")
    page.fill("[name=frames]", "15")
    page.click("#advanced > summary")


STILL = """async (rules) => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(rules);
    document.adoptedStyleSheets.push(sheet);
    const images = [...document.images].filter((image) => image.src && !image.hidden);
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    await Promise.all([...document.querySelectorAll("video[poster]")].map((v) =>
        Object.assign(new Image(), { src: v.poster }).decode()));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


def settle(page: Page) -> None:
    """Posters and previews are there, and nothing moves."""
    page.evaluate(STILL, "*, ::before, ::after { animation: none !important; caret-color: transparent; }")


def main(folder: Path, only: set[str]) -> None:
    chromium = next(path for name in NAMES if (path := shutil.which(name)))
    with furnished(folder) as (farm, made), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shoot(browser, farm, made, folder, only)
        browser.close()


def renew(folder: Path) -> None:
    for name, taken in README.items():
        picture = Image.open(folder / f"{taken}.png").convert("RGB")
        picture.save(ROOT / "docs" / f"{name}.webp", quality=90, method=6)


if __name__ == "__main__":
    target, names = Path(sys.argv[1]), set(sys.argv[2:])
    main(target, set(README.values()) if names == {"--readme"} else names)
    if names == {"--readme"}:
        renew(target)
