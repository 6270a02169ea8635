// Chips, filters and the search change the address and draw what it names; so does the back button.

import { $ } from "./dom.js";
import { redraw } from "./draw.js";

let typing = null;

addEventListener("click", (event) => {
  const chip = event.target.closest?.(".chip, #more a, #next-page, #empty a");
  if (!chip || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(chip.href).then(() => chip.id === "next-page" && scrollTo(0, $("#rows").getBoundingClientRect().top + scrollY - 80));
});
addEventListener("submit", (event) => {
  if (!event.target.matches(".search")) return;
  event.preventDefault();
  go(address(event.target));
});
addEventListener("change", (event) => event.target.matches?.(".search select") && go(address(event.target.form)));
addEventListener("input", (event) => {
  if (event.target.id !== "q") return;
  clearTimeout(typing);
  typing = setTimeout(() => go(address(event.target.form)), 250);
});
addEventListener("popstate", () => redraw());

function address(form) {
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  return `/${query.size ? `?${query}` : ""}`;
}

function go(address) {
  if (new URL(address, location).href !== location.href) history.pushState(null, "", address);
  const typed = $("#q") === document.activeElement ? $("#q").value : null;
  return redraw(address).then(() => {
    const box = $("#q");
    if (typed === null || !box) return;
    box.focus();
    box.value = typed;
    box.setSelectionRange(typed.length, typed.length);
  });
}
