// Puts a job's fields into the markup that the server drew (or a clone of its template). Nothing else draws.

import { say, t } from "./words.js";

const RANK = ["running", "leased", "queued", "scheduled", "held", "failed", "cancelled"];

/** `job` is as /api/jobs gives it, or a part of it; `live` is a progress message, `preview` an address. */
export function fill(element, job) {
  if (job.id) adopt(element, job.id);
  if (job.state) element.dataset.state = job.state;
  const put = (name, value) => set(element, name, value);
  if (job.prompt !== undefined) put("prompt", job.prompt);
  for (const name of ["seed", "model", "owner"]) if (job[name] !== undefined) put(name, job[name]);
  if (job.state) put("state", t[`state_${job.state}`]);
  if (job.epoch !== undefined) again(element, job.epoch);
  if (job.live) progress(element, job.live, job.live.percent);
  else if (job.progress) progress(element, job.progress, job.percent);
  else if (job.state && job.state !== "running") rest(element, job);
  if (job.preview ?? job.progress?.preview_url) preview(element, job.preview ?? job.progress.preview_url);
  for (const name of ["created_at", "finished_at"]) {
    const time = job[name] && element.querySelector(`[data-f="${name}"]`);
    if (time) {
      time.dateTime = job[name];
      fill.time(time);
    }
  }
  if (job.video_removed_at) removed(element);
  else if (job.artifact) video(element, job);
}

/** "3 min ago", the same words as the server's. */
fill.time = (time) => {
  if (!time.dateTime) return;
  const at = new Date(time.dateTime);
  const seconds = Math.max((Date.now() - at) / 1000, 0);
  const [unit, length] = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]].find(([, l]) => seconds >= l) ?? ["s", 1];
  time.textContent = seconds < 10 ? t.just_now : say(`ago_${unit}`, { n: Math.floor(seconds / length) });
  time.title = at.toLocaleString();
};

/** Running first, then the queue in its order, then what ended without a video. */
export function sortRows(list) {
  const rank = (row) => RANK.indexOf(row.dataset.state);
  const rows = [...list.children];
  const sorted = [...rows].sort((a, b) => rank(a) - rank(b) || age(a) - age(b));
  sorted.forEach((row, i) => {
    // Moving a row that is in its place would drop its focus.
    if (list.children[i] !== row) list.insertBefore(row, list.children[i] ?? null);
  });
}

const age = (row) => Date.parse(row.querySelector("time").dateTime) || 0;

function adopt(element, id) {
  if (element.dataset.job === id) return;
  element.dataset.job = id;
  element.querySelectorAll('a[href^="/jobs/"]').forEach((link) => (link.href = `/jobs/${id}`));
  element.querySelectorAll("form[data-act]").forEach((form) => (form.action = `/jobs/${id}/${form.dataset.act}`));
}

function set(element, name, value) {
  const slot = element.querySelector(`[data-f="${name}"]`);
  if (slot && slot.textContent !== String(value)) slot.textContent = value;
}

function again(element, epoch) {
  const slot = element.querySelector('[data-f="again"]');
  if (!slot) return;
  slot.hidden = epoch < 2;
  slot.textContent = say("attempt_n", { n: epoch });
}

function progress(element, at, percent) {
  const stage = t[`stage_${at.stage}`];
  set(element, "where", at.n ? say("steps_done", { stage, k: at.k, n: at.n }) : stage);
  set(element, "eta", at.eta ? say("left", { n: Math.ceil(at.eta) }) : "");
  const bar = element.querySelector('[data-f="percent"]');
  if (bar && percent !== undefined) bar.value = percent;
}

/** Not running: whatever an earlier attempt showed is over. */
function rest(element, job) {
  set(element, "where", job.error?.message ?? "");
  set(element, "eta", "");
  const bar = element.querySelector('[data-f="percent"]');
  if (bar) bar.value = 0;
  const image = element.querySelector('[data-f="preview"]');
  if (image) image.hidden = true;
}

function preview(element, url) {
  const image = element.querySelector('[data-f="preview"]');
  if (!image || image.getAttribute("src") === url) return;
  // Shown only once it is there: a preview must never flicker.
  const next = new Image();
  next.onload = () => {
    image.src = url;
    image.hidden = false;
    const waiting = element.querySelector('[data-f="placeholder"]');
    if (waiting) waiting.hidden = true;
  };
  next.src = url;
}

/** Its video has made room for others: the place says so, and nothing plays. */
function removed(element) {
  const said = element.querySelector('[data-f="removed"]');
  if (!said) return;
  said.hidden = false;
  element.querySelector('[data-f="video"]').remove();
}

function video(element, job) {
  const player = element.querySelector('[data-f="video"]');
  if (!player || player.dataset.src === job.artifact.url) return;
  player.dataset.src = job.artifact.url;
  player.poster = job.artifact.thumbnail_url ?? job.artifact.poster_url;
  player.width = job.width;
  player.height = job.height;
  Object.assign(player.closest(".screen").dataset, { w: job.width, h: job.height });
}
