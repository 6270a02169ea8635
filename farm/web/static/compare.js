// Two videos in step: the first leads, the second follows; beside each other, or one over the other with a divider.

import { $, $$ } from "./dom.js";

const APART = 0.04; // seconds that the second may be off before it is set right

export function comparing() {
  const box = $("#compare");
  if (!box) return;
  const [first, second] = $$("video", box);
  const [play, position, divider, mode] = ["play", "position", "divider", "mode"].map((id) => $(`#${id}`));
  const longest = () => Math.max(first.duration || 0, second.duration || 0);
  const frame = 1 / Number(box.dataset.fps);

  const seek = (time) => {
    for (const video of [first, second]) video.currentTime = Math.min(Math.max(time, 0), (video.duration || 0) - 1e-3);
    draw();
  };
  const step = (by) => {
    pause();
    seek(first.currentTime + by * frame);
  };
  const pause = () => [first, second].forEach((video) => video.pause());
  const toggle = () => {
    if (!first.paused) return pause();
    second.currentTime = Math.min(first.currentTime, second.duration || 0);
    for (const video of [first, second]) video.play().catch(() => {});
  };
  const draw = () => {
    position.value = longest() ? (first.currentTime / longest()) * 1000 : 0;
    $("#clock").textContent = `${first.currentTime.toFixed(2)} / ${longest().toFixed(2)}`;
  };
  const follow = () => {
    draw();
    if (first.paused) return;
    if (first.currentTime < second.duration && Math.abs(first.currentTime - second.currentTime) > APART)
      second.currentTime = first.currentTime;
    requestAnimationFrame(follow);
  };
  const split = () => box.style.setProperty("--split", `${divider.value}%`);
  const swipe = () => {
    const on = box.dataset.mode === "side";
    box.dataset.mode = on ? "swipe" : "side";
    mode.setAttribute("aria-pressed", on);
    divider.hidden = !on;
    split();
    dispatchEvent(new Event("resize")); // the pictures have other sizes now
  };

  first.addEventListener("play", () => ((play.textContent = play.dataset.pause), follow()));
  first.addEventListener("pause", () => (play.textContent = play.dataset.play));
  for (const video of [first, second]) video.addEventListener("loadedmetadata", draw);
  play.addEventListener("click", toggle);
  position.addEventListener("input", () => (pause(), seek((position.value / 1000) * longest())));
  divider.addEventListener("input", split);
  mode.addEventListener("click", swipe);
  $("#frame-back").addEventListener("click", () => step(-1));
  $("#frame-on").addEventListener("click", () => step(1));
  $("#speed").addEventListener("change", ({ target }) => [first, second].forEach((v) => (v.playbackRate = Number(target.value))));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, button")) return;
    const action = { " ": toggle, s: swipe, ArrowLeft: () => step(-1), ArrowRight: () => step(1) }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) toggle();
  draw();
}
