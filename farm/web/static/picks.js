// Two videos that were chosen for comparing, wherever they were chosen from: a tray at the foot of the page.

import { $, $$, live } from "./dom.js";

const NAME = "picks";
const picks = () => JSON.parse(sessionStorage.getItem(NAME) ?? "[]");

/** Chooses a video or takes it back. A third one replaces the first. */
export function pick(id) {
  const now = picks();
  const next = now.includes(id) ? now.filter((one) => one !== id) : [...now, id].slice(-2);
  store(next);
  if (next.length === 2 && !now.includes(id)) $("#tray-go").focus();
}

function store(next) {
  sessionStorage.setItem(NAME, JSON.stringify(next));
  drawPicks();
}

export function drawPicks() {
  const now = picks();
  const tray = $("#tray");
  tray.hidden = now.length === 0 || $("#compare") !== null;
  $("#tray-text").textContent = now.length === 2 ? tray.dataset.two : tray.dataset.one;
  $("#tray-go").hidden = now.length < 2;
  $("#tray-go").href = `/compare?${new URLSearchParams({ a: now[0] ?? "", b: now[1] ?? "" })}`;
  for (const button of $$(".pick, .pick-this")) {
    button.hidden = false;
    button.setAttribute("aria-pressed", now.includes(button.closest("[data-job]").dataset.job));
  }
}

addEventListener("click", ({ target }) => {
  const button = target.closest?.(".pick, .pick-this");
  if (button) pick(button.closest("[data-job]").dataset.job);
  if (target.id === "tray-clear") store([]);
});

/** The video that a key would choose: the one in focus, or the one of this page. */
export const inFocus = () => document.activeElement.closest?.(".card")?.dataset.job ?? ($(".pick-this") && live().dataset.job);
