// Single keys, wherever nothing is being typed; and the theme, which has a key and a button.

import { $ } from "./dom.js";

const help = () => $("#help").open || $("#help").showModal();

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}

const KEYS = { n: () => $("#prompt")?.focus(), "/": () => $("#q")?.focus(), t: toggleTheme, "?": help };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
$("#theme").addEventListener("click", toggleTheme);
$("#keys").addEventListener("click", help);
