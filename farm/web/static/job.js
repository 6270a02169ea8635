// One job's own page: what the stream tells of it, its settings as text, and the steps that were seen so far.

import { $, live } from "./dom.js";
import { redraw } from "./draw.js";
import { keep } from "./kept.js";
import { t } from "./words.js";

const seen = new Map(); // address of the preview of each step, of the job and attempt on this page

export function hearOfOwnJob(data) {
  const main = live();
  if (data.id !== main.dataset.job) return;
  // A transition changes half the page: draw it again. Between transitions only fields move.
  const key = `${data.state} ${data.epoch ?? main.dataset.epoch} ${data.cancel_requested_at ?? ""} ${data.priority ?? ""} ${data.video_removed_at ?? ""}`;
  if (key === main.dataset.shown) return;
  main.dataset.shown = key;
  redraw();
}

/** The preview of another step has come: it joins the strip below the picture. */
export function showStep({ id, step, url }) {
  if (id !== live().dataset.job) return;
  seen.set(step, url);
  drawSteps();
}

function drawSteps() {
  const strip = $("#steps");
  if (!strip) return seen.clear();
  for (const [step, url] of [...seen].sort(([a], [b]) => a - b)) {
    if ($(`[data-step="${step}"]`, strip)) continue;
    const item = document.createElement("li");
    item.dataset.step = step;
    item.append(Object.assign(new Image(48, 48), { src: url, alt: `${t.steps} ${step}`, title: `${t.steps} ${step}` }));
    strip.append(item);
    strip.scrollLeft = strip.scrollWidth;
  }
}

/** After every drawing of the page. */
export function readyJob() {
  drawSteps();
  const copy = $("#copy");
  if (!copy) return;
  const settings = JSON.parse(copy.dataset.settings);
  copy.hidden = $("#reuse").hidden = false;
  copy.addEventListener("click", async () => {
    await toClipboard(JSON.stringify(settings, null, 2));
    copy.textContent = t.copied;
    setTimeout(() => (copy.textContent = t.copy_settings), 1500);
  });
  $("#reuse").addEventListener("click", () => {
    keep(settings);
    location.assign("/#composer");
  });
}

async function toClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Browsers keep their clipboard from pages that come over plain HTTP from another machine.
  const field = Object.assign(document.createElement("textarea"), { value: text, className: "sr" });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
