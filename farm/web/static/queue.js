// The queue and the gallery: jobs come, move and go as the stream tells.

import { $, $$, elementsOf, live } from "./dom.js";
import { fill, sortRows } from "./fill.js";
import { fit } from "./screens.js";

const FULL = 100; // rows; those beyond are counted

export function place(job) {
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
    if (!finished && list.children.length >= FULL && job.state === "queued") return showMore(1);
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

function wanted(job) {
  const { chip, search, groups } = live().dataset;
  if (chip && !JSON.parse(groups)[chip].includes(job.state)) return false;
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
}

function showMore(n) {
  const more = $("#more");
  $("b", more).textContent = Number($("b", more).textContent) + n;
  more.hidden = false;
}

export function showCounts(counts) {
  if (!live().dataset.groups) return;
  const groups = { ...JSON.parse(live().dataset.groups), "": Object.keys(counts) };
  for (const chip of $$(".chip")) {
    const count = groups[chip.dataset.chip].reduce((sum, state) => sum + (counts[state] ?? 0), 0);
    $("b", chip).textContent = count;
    chip.toggleAttribute("data-empty", !count && chip.dataset.chip !== "");
  }
}
