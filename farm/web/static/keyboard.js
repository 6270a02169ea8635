// Single keys, wherever nothing is being typed; and the theme, which has a key and a button.

import { $, $$, live } from "./dom.js";
import { inFocus, pick } from "./picks.js";

const help = () => $("#help").open || $("#help").showModal();

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}

/** The next or previous line or video; on a job's own page the next or previous job. */
function walk(by) {
  const beside = $(by > 0 ? "#older" : "#newer");
  if (live()?.classList.contains("job")) return beside && location.assign(beside.href);
  const stops = $$(".row > a, .card > a");
  const at = stops.indexOf(document.activeElement);
  const next = stops[at < 0 ? 0 : Math.min(Math.max(at + by, 0), stops.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

function leave() {
  if (document.activeElement?.matches(".row > a, .card > a")) return document.activeElement.blur();
  if ($("#back") && !$("dialog[open], details.menu[open]")) location.assign($("#back").href);
}

function choose() {
  const id = inFocus();
  if (id) pick(id);
}

const KEYS = {
  n: () => $("#prompt") ? $("#prompt").focus() : location.assign("/#prompt"),
  "/": () => $("#q") ? $("#q").focus() : location.assign("/#q"),
  j: () => walk(1),
  k: () => walk(-1),
  c: choose,
  d: () => $("#download")?.click(),
  t: toggleTheme,
  "?": help,
  Escape: leave,
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target.matches("input, textarea, select")) {
    if (event.key === "Escape" && !event.isComposing) event.target.blur();
    return;
  }
  const action = KEYS[event.key];
  if (!action || $("dialog[open]")) return;
  if (event.key !== "Escape") event.preventDefault();
  action();
});
$("#theme").addEventListener("click", toggleTheme);
$("#keys").addEventListener("click", help);
if (location.hash === "#prompt" || location.hash === "#q") $(location.hash)?.focus();
