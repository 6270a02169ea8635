// The page's one script: patches what the server drew from the event stream, and makes the forms immediate.

import "./actions.js";
import "./keyboard.js";
import "./navigation.js";
import { $, $$, elementsOf, live } from "./dom.js";
import { comparing } from "./compare.js";
import { afterDrawing, redraw, redrawWorkers, soon } from "./draw.js";
import { listen } from "./events.js";
import { fill } from "./fill.js";
import { composer } from "./form.js";
import { hearOfOwnJob, readyJob, showStep } from "./job.js";
import { showLink, showOutage } from "./link.js";
import { drawPicks } from "./picks.js";
import { hide, place, showCounts } from "./queue.js";
import { fit, watchVideos } from "./screens.js";
import { lang } from "./words.js";
import { workersView } from "./workers.js";

function hear(kind, data) {
  if (kind === "link") return showLink(data.state);
  if (kind === "reset") return redraw();
  if (kind === "health") return showOutage(data);
  if (["worker", "node", "gpu"].includes(kind) && $(".health-view")) return soon("health", redraw, 1000);
  if (["worker", "node", "gpu"].includes(kind)) return soon("workers", redrawWorkers);
  if (kind === "job") return hearOfJob(data);
  if (kind === "preview") showStep(data);
  for (const element of elementsOf(data.id)) {
    if (kind === "progress") fill(element, { state: "running", live: data });
    if (kind === "preview") fill(element, { preview: data.url });
  }
}

function hearOfJob(data) {
  if (live().classList.contains("health-view")) return soon("health", redraw, 1000);
  if (data.counts) showCounts(data.counts);
  if (live().classList.contains("job")) return hearOfOwnJob(data);
  if (data.hidden_at) return hide(data.id);
  // The stream speaks English; what went wrong is said in the reader's language by the server.
  if (data.job?.error && lang !== "en") soon("said", redraw);
  // Only the newest message of a job carries the whole of it; the others are history by now.
  if (data.job && !live().dataset.paged) place(data.job);
}

/** After every drawing: sizes, players, the buttons that need the script. */
function ready() {
  fit(document);
  watchVideos(document);
  readyJob();
  drawPicks();
}

setInterval(() => $$("time[datetime]:not([data-exact])").forEach((time) => fill.time(time)), 5000);
// Heartbeats and memory are no news of their own.
setInterval(() => $(".workers-view") && !document.hidden && redrawWorkers(), 10000);
setInterval(() => $(".health-view") && !document.hidden && redraw(), 10000);
addEventListener("resize", () => fit(document));
afterDrawing(ready);
workersView(redraw);
composer();
comparing();
ready();
// A page that follows nothing (an error, a comparison) needs no stream.
if (live()?.dataset.cursor) listen(BigInt(live().dataset.cursor), hear);
