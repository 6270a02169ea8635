// Moving pictures: small ones are enlarged by whole pixels, and the one under the pointer or focus plays.

const SMALL = 256; // pixels; above this a picture is scaled smoothly
const FILLS = 0.8; // of the room, or whole pixels would leave too much of it empty
const still = matchMedia("(prefers-reduced-motion: reduce)");
const touch = matchMedia("(hover: none)");

/** Gives every small picture below `root` a size that is a whole multiple of its pixels on this display. */
export function fit(root) {
  for (const screen of root.querySelectorAll(".screen")) {
    const [w, h] = [Number(screen.dataset.w), Number(screen.dataset.h)];
    const dots = devicePixelRatio;
    const tallest = screen.classList.contains("big") ? Math.max(innerHeight - 160, 2 * h) : Infinity;
    screen.classList.remove("small"); // how much room there is without what follows
    const room = Math.min(screen.clientWidth / w, tallest / h);
    const times = Math.floor(room * dots + 0.01) / dots;
    const small = w > 0 && Math.max(w, h) <= SMALL && times >= FILLS * room;
    screen.classList.toggle("small", small);
    if (!small) {
      for (const picture of screen.querySelectorAll("video, img")) picture.style.width = picture.style.height = "";
      continue;
    }
    screen.closest("figure")?.style.setProperty("--picture", `${w * times}px`); // the bar below is as wide
    for (const picture of screen.querySelectorAll("video, img")) {
      picture.style.width = `${w * times}px`;
      picture.style.height = `${h * times}px`;
    }
  }
}

const watched = new WeakSet();
const seen = new IntersectionObserver((entries) => {
  // No pointer to hover with: what is well in view plays.
  for (const { target, isIntersecting } of entries) if (touch.matches) isIntersecting ? play(target) : pause(target);
}, { threshold: 0.8 });

export function watchVideos(root) {
  for (const video of root.querySelectorAll(".gallery video")) observe(video);
}

function observe(video) {
  if (watched.has(video)) return;
  watched.add(video);
  seen.observe(video);
}

// Delegated: cards come and go.
for (const [on, off] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  addEventListener(on, (event) => play(videoOf(event.target)));
  addEventListener(off, (event) => {
    const card = event.target.closest?.(".card");
    if (card && !card.contains(event.relatedTarget) && !card.matches(":focus-within, :hover")) pause(videoOf(card));
  });
}

const videoOf = (element) => element.closest?.(".card")?.querySelector("video");

function play(video) {
  if (!video?.dataset.src || still.matches || !video.paused) return;
  if (!video.src) video.src = video.dataset.src;
  video.play().catch(() => {}); // left again before it began
}

function pause(video) {
  if (!video) return;
  video.pause();
  // Back to the poster, and its connection given back.
  video.removeAttribute("src");
  video.load();
}
