// Drawing a part of the page again, as the server would draw it now.

import { $, live } from "./dom.js";
import { fetchPage } from "./farm.js";
import { showLink } from "./link.js";
import { choosing } from "./workers.js";

const timers = new Map();
let drawn = () => {};

/** What is to be done after every drawing. */
export const afterDrawing = (action) => (drawn = action);

/** Many messages at once cause one fetch, not a stampede. */
export function soon(name, action, delay = 150) {
  if (timers.has(name)) return;
  timers.set(name, setTimeout(() => (timers.delete(name), action()), delay));
}

export async function redraw(address = location.href) {
  try {
    const fresh = await fetchPage(address);
    const part = $("#live", fresh);
    if (!part) return location.assign(address);
    if (choosing()) return void setTimeout(() => redraw(address), 500); // opened while the page was on its way
    const focused = document.activeElement?.id;
    live().replaceWith(document.importNode(part, true));
    document.title = fresh.title;
    for (const link of $(".languages").children) link.href = $(`.languages [lang="${link.lang}"]`, fresh).href;
    drawn();
    if (focused) document.getElementById(focused)?.focus();
  } catch {
    showLink("reconnecting"); // the stream comes back by itself, and then says what happened
  }
}

/** The strip of workers above the queue, or the workers' own page. */
export async function redrawWorkers() {
  if (live()?.classList.contains("workers-view")) return choosing() ? setTimeout(redrawWorkers, 500) : redraw();
  if (!$("#workers")) return;
  try {
    const fresh = await fetchPage();
    $("#workers").replaceWith(document.importNode($("#workers", fresh), true));
  } catch {
    showLink("reconnecting");
  }
}
