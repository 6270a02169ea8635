// The queue and the gallery: jobs come, move and go as the stream tells.

import { $, $$, elementsOf, live } from "./dom.js";
import { redraw, soon } from "./draw.js";
import { fetchPage } from "./farm.js";
import { fill, sortRows } from "./fill.js";
import { showLink } from "./link.js";
import { fit } from "./screens.js";

/** `mine`: just sent from here, so it is shown even where the list is full. */
export function place(job, mine = false) {
  const finished = job.state === "succeeded";
  const list = finished ? $("#gallery") : $("#rows");
  const other = finished ? $("#rows") : $("#gallery");
  if (!list) return;
  const stale = $(`[data-job="${CSS.escape(job.id)}"]`, other);
  let element = $(`[data-job="${CSS.escape(job.id)}"]`, list);
  if (!wanted(job)) {
    [element, stale].forEach((gone) => gone && remove(gone));
    return showEmpty();
  }
  if (!element) {
    if (!finished && !mine && list.children.length >= Number(live().dataset.full)) return showMore(1);
    element = $(finished ? "#card-template" : "#row-template").content.firstElementChild.cloneNode(true);
    list.prepend(element);
    element.classList.add("fresh");
  }
  fill(element, job);
  if (stale) remove(stale);
  if (finished) fit(element);
  else sortRows(list);
  showEmpty();
}

/** Whether it belongs to the view that the address names. */
function wanted(job) {
  const { chip, search, groups, labels } = live().dataset;
  if (chip && !JSON.parse(groups)[chip].includes(job.state)) return false;
  const { tag, ...same } = JSON.parse(labels);
  if (tag && job.tags[tag.split("=", 1)[0]] !== tag.slice(tag.indexOf("=") + 1)) return false;
  if (Object.entries(same).some(([name, value]) => job[name] !== value)) return false;
  return !search || job.prompt.toLowerCase().includes(search.toLowerCase());
}

export function hide(id) {
  elementsOf(id).forEach(remove);
}

function remove(element) {
  // Keyboard users keep their place: focus moves to the neighbour instead of the top of the page.
  if (element.contains(document.activeElement)) (element.nextElementSibling?.querySelector("a") ?? $("#prompt")).focus();
  element.remove();
  showEmpty();
}

function showEmpty() {
  const nothing = !$("#rows")?.children.length && !$("#gallery")?.children.length;
  if ($("#empty")) $("#empty").hidden = !nothing;
  const waiting = $$('.row:not([data-state="failed"], [data-state="cancelled"])').length;
  if (waiting < 4 && !$("#more").hidden) soon("refill", redraw, 1000); // those beyond the list move up
}

function showMore(n) {
  const more = $("#more");
  const count = $("b", more);
  if (!count) return;
  count.textContent = Number(count.textContent) + n;
  more.hidden = !live().dataset.chip && Number(count.textContent) === 0;
}

export function showCounts(counts) {
  const { groups, labels, search } = live().dataset;
  if (!groups) return;
  if (search || labels !== "{}") return soon("counts", countAgain, 1000); // the stream counts all jobs
  const states = { ...JSON.parse(groups), "": Object.keys(counts) };
  for (const chip of $$(".chip")) {
    const count = states[chip.dataset.chip].reduce((sum, state) => sum + (counts[state] ?? 0), 0);
    $("b", chip).textContent = count;
    chip.toggleAttribute("data-empty", !count && chip.dataset.chip !== "");
  }
}

async function countAgain() {
  try {
    const fresh = $("#chips", await fetchPage());
    if (fresh) $("#chips").replaceWith(document.importNode(fresh, true));
  } catch {
    showLink("reconnecting");
  }
}
