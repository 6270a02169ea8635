// The workers' view: its menus act at once, ask before work is lost, and close as menus do.

import { $ } from "./dom.js";
import { sure, toast } from "./dialogs.js";
import { post } from "./farm.js";
import { t, told } from "./words.js";

/** Once for the page. `redraw` shows what came of it. */
export function workersView(redraw) {
  addEventListener("submit", async (event) => {
    const form = event.target;
    if (form.dataset.wish === undefined) return;
    event.preventDefault();
    const menu = form.closest("details");
    const { lost, title, api, wish } = form.dataset;
    if (lost && !(await sure(title, lost, t.yes_lost, t.no_lost))) return;
    menu.open = false;
    $("summary", menu).focus();
    try {
      await post(api, { ...JSON.parse(wish), by: "the page" });
      await redraw();
    } catch (error) {
      toast(told(error));
    }
  });
  addEventListener("click", ({ target }) => closeMenus(target.closest?.("details.menu")));
  addEventListener("focusin", ({ target }) => closeMenus(target.closest?.("details.menu"), true));
  addEventListener("keydown", (event) => {
    const menu = event.target.closest?.("details.menu");
    if (!menu?.open) return;
    if (event.key === "Escape") {
      menu.open = false;
      $("summary", menu).focus();
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const stops = [$("summary", menu), ...menu.querySelectorAll(".choices button")];
    stops[(stops.indexOf(document.activeElement) + step + stops.length) % stops.length].focus();
  });
}

/** Drawing again would close what somebody is choosing from. */
export const choosing = () => $("details.menu[open]") !== null || $("#confirm").open;

function closeMenus(but, keyboard = false) {
  for (const menu of document.querySelectorAll("details.menu[open]"))
    if (menu !== but && !(keyboard && $("#confirm").open)) menu.open = false;
}
