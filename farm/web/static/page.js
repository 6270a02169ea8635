// The page's one script: patches what the server drew from the event stream, and makes the forms immediate.

import { fill, sortRows } from "./fill.js";
import { firstFrame } from "./image.js";
import { fit, watchVideos } from "./screens.js";
import { choosing, workersView } from "./workers.js";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const live = () => $("#live");
const words = JSON.parse($("#words").textContent);

// -- the stream ---------------------------------------------------------------------------------------------

function listen() {
  const drawn = live()?.dataset.cursor;
  if (!drawn) return;
  const cursor = BigInt(drawn);
  if (window.SharedWorker) {
    const worker = new SharedWorker(document.body.dataset.stream, { name: "turbofarm" });
    worker.port.onmessage = ({ data }) => take(data.kind, data.data);
    worker.port.postMessage({ cursor });
    addEventListener("pagehide", () => worker.port.postMessage({ bye: true }));
    addEventListener("pageshow", (event) => event.persisted && location.reload());
    return;
  }
  const source = new EventSource(`/api/events?after=${cursor}`);
  source.onopen = () => take("link", { state: "live" });
  source.onerror = () => take("link", { state: "reconnecting" });
  for (const kind of ["job", "progress", "preview", "worker", "node", "gpu", "health", "reset"])
    source.addEventListener(kind, (event) => take(kind, JSON.parse(event.data)));
}

function take(kind, data) {
  if (kind === "link") return showLink(data.state);
  if (kind === "reset") return redraw();
  if (kind === "health") return showOutage(data.says);
  if (["worker", "node", "gpu"].includes(kind)) return soon("workers", redrawWorkers);
  if (kind === "job") return takeJob(data);
  for (const element of elementsOf(data.id)) {
    if (kind === "progress") fill(element, { state: "running", live: data });
    if (kind === "preview") fill(element, { preview: data.url });
  }
}

function takeJob(data) {
  if (data.counts) showCounts(data.counts);
  if (live().classList.contains("job")) return takeOwnJob(data);
  if (data.hidden_at) return elementsOf(data.id).forEach((element) => remove(element));
  // Only the newest message of a job carries the whole of it; the others are history by now.
  if (data.job && !live().dataset.paged) place(data.job);
}

function takeOwnJob(data) {
  const main = live();
  if (data.id !== main.dataset.job) return;
  // A transition changes half the page: draw it again. Between transitions only fields move.
  const key = `${data.state} ${data.epoch ?? main.dataset.epoch} ${data.cancel_requested_at ?? ""}`;
  if (key !== main.dataset.shown) {
    main.dataset.shown = key;
    redraw();
  }
}

function place(job) {
  const finished = job.state === "succeeded";
  const list = finished ? $("#gallery") : $("#rows");
  const other = finished ? $("#rows") : $("#gallery");
  const stale = $(`[data-job="${CSS.escape(job.id)}"]`, other);
  let element = $(`[data-job="${CSS.escape(job.id)}"]`, list);
  if (!wanted(job)) {
    [element, stale].forEach((gone) => gone && remove(gone));
    return showEmpty();
  }
  if (!element) {
    if (!finished && list.children.length >= 60 && job.state === "queued") return showMore(1);
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

const elementsOf = (id) => $$(`[data-job="${CSS.escape(id)}"]`);

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

function showCounts(counts) {
  if (!live().dataset.groups) return;
  const groups = { ...JSON.parse(live().dataset.groups), "": Object.keys(counts) };
  for (const chip of $$(".chip")) {
    const count = groups[chip.dataset.chip].reduce((sum, state) => sum + (counts[state] ?? 0), 0);
    $("b", chip).textContent = count;
    chip.toggleAttribute("data-empty", !count && chip.dataset.chip !== "");
  }
}

/** What is away, what that means, and that nothing is lost by it. */
function showOutage(says) {
  const box = $("#outage");
  if (box.textContent !== says) box.textContent = says;
  box.hidden = !says;
}

function showLink(state) {
  const link = $("#link");
  if (link.dataset.state === "reconnecting" && state === "live" && !window.SharedWorker) redraw();
  if (link.dataset.state === "reconnecting" && state === "live") showOutage("");
  link.dataset.state = state;
  $("span", link).textContent = words.t[state];
}

// -- drawing again ------------------------------------------------------------------------------------------

const timers = new Map();

/** Many messages at once cause one fetch, not a stampede. */
function soon(name, action) {
  if (timers.has(name)) return;
  timers.set(name, setTimeout(() => (timers.delete(name), action()), 150));
}

async function fetchPage(address = location.href) {
  const answer = await fetch(address, { headers: { Accept: "text/html" } });
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

async function redraw(address = location.href) {
  try {
    const fresh = await fetchPage(address);
    const part = $("#live", fresh);
    if (!part) return location.assign(address);
    if (choosing()) return void setTimeout(() => redraw(address), 500); // opened while the page was on its way
    const focused = document.activeElement?.id;
    live().replaceWith(document.importNode(part, true));
    document.title = fresh.title;
    ready();
    if (focused) document.getElementById(focused)?.focus();
  } catch {
    showLink("reconnecting"); // the stream comes back by itself, and then says what happened
  }
}

async function redrawWorkers() {
  if (live()?.classList.contains("workers-view")) return choosing() ? setTimeout(redrawWorkers, 500) : redraw();
  if (!$("#workers")) return;
  try {
    const fresh = await fetchPage();
    $("#workers").replaceWith(document.importNode($("#workers", fresh), true));
  } catch {
    showLink("reconnecting");
  }
}

// -- forms --------------------------------------------------------------------------------------------------

async function post(path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw { message: "The farm cannot be reached", next: "it will be tried again as soon as it is back" };
  }
  const told = await answer.json();
  if (!answer.ok) throw told.error;
  return told;
}

const said = ({ message, next }) => (next ? `${message}: ${next}` : message);

function composer() {
  const form = $("#composer");
  if (!form) return;
  const prompt = $("#prompt");
  const trouble = $("#form-error");
  const ideas = JSON.parse(prompt.dataset.ideas);
  const models = JSON.parse(form.dataset.models);
  let next = 0;

  const modelOf = (name) => models.find((m) => m.id === name) ?? models[0];
  // What does not belong to the chosen model stays in the form, for when it is chosen again, and is not sent.
  const settings = () => {
    const model = modelOf(form.elements.model.value);
    const foreign = ["input_reference"];
    if (model?.task !== "i2v") foreign.push("image", "fit");
    if (model?.negative_prompt == null) foreign.push("negative_prompt");
    const given = [...new FormData(form)].filter(([name, value]) => value !== "" && !foreign.includes(name));
    return Object.fromEntries(given);
  };
  const complain = (error) => {
    trouble.textContent = said(error);
    trouble.hidden = false;
  };
  const image = firstFrame(form, complain);
  const summarise = () => {
    const now = settings();
    const model = modelOf(now.model);
    if (!model) return;
    image.show(model.task === "i2v");
    const negative = $("#negative");
    negative.hidden = model.negative_prompt == null;
    $("input", negative).placeholder = model.negative_prompt ?? "";
    for (const name of ["size", "frames", "steps", "guidance"]) form.elements[name].placeholder = model[name];
    if (model.task === "i2v") form.elements.size.placeholder = "like image";
    const seed = now.seed ? `, seed ${now.seed}` : "";
    $("#summary").textContent =
      `${model.id}, ${now.size ?? (model.task === "i2v" ? "the image's shape" : model.size)}, ${now.frames ?? model.frames} frames, ${now.steps ?? model.steps} steps${seed}${now.hold ? ", on hold" : ""}`;
  };
  form.addEventListener("input", () => (summarise(), (trouble.hidden = true), ($("#hint").hidden = true)));
  summarise();
  const propose = (idea) => {
    prompt.value = idea;
    prompt.focus();
    trouble.hidden = true;
  };
  $("#surprise").hidden = false;
  $("#surprise").addEventListener("click", () => propose(ideas[next++ % ideas.length]));
  addEventListener("click", ({ target }) => target.dataset?.idea && propose(target.dataset.idea));
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // Chinese is typed with Enter too
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    $("#render").disabled = true;
    try {
      await image.ready();
      const job = await post("/api/jobs", settings());
      place(job);
      trouble.hidden = true;
      $("#hint").textContent = job.hint ?? "";
      $("#hint").hidden = !job.hint;
      prompt.select();
    } catch (error) {
      complain(error);
      const field = error.field === "image" ? $("#image-file") : form.elements[error.field];
      if (field && field !== prompt && error.field !== "image") $("details", form).open = true;
      (field ?? prompt).focus();
    } finally {
      $("#render").disabled = false;
    }
  });
}

addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.act) return;
  event.preventDefault();
  if (form.dataset.confirm !== undefined && !(await confirmed(form))) return;
  try {
    const { act } = form.dataset;
    const id = form.closest("[data-job]").dataset.job;
    const job = await post(`/api/jobs/${id}/${act === "reseed" ? "rerun" : act}`, act === "reseed" ? { seed: null } : {});
    if (job.id !== id) return location.assign(`/jobs/${job.id}`);
    if (live().classList.contains("job")) redraw();
    else place(job);
  } catch (error) {
    toast(said(error));
  }
});

function confirmed(form) {
  const dialog = $("#confirm");
  const job = form.closest("[data-job]");
  $("#confirm-title").textContent = "Cancel this job?";
  $("#confirm-text").textContent =
    job.dataset.state === "running" ? "What has been rendered of it is lost." : "It leaves the queue. You can retry it later.";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}

function toast(text) {
  const box = $("#toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(timers.get("toast"));
  timers.set("toast", setTimeout(() => (box.hidden = true), 6000));
}

// -- everything else ----------------------------------------------------------------------------------------

function navigation() {
  addEventListener("click", (event) => {
    const chip = event.target.closest?.(".chip");
    if (!chip || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(chip.href);
  });
  addEventListener("submit", (event) => {
    if (!event.target.matches(".search")) return;
    event.preventDefault();
    go(searchAddress(event.target));
  });
  addEventListener("input", (event) => {
    if (event.target.id !== "q") return;
    clearTimeout(timers.get("search"));
    timers.set("search", setTimeout(() => go(searchAddress(event.target.form)), 250));
  });
  addEventListener("popstate", () => redraw());
}

function searchAddress(form) {
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

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  const action = { n: () => $("#prompt")?.focus(), "/": () => $("#q")?.focus(), t: toggleTheme, "?": help }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

const help = () => $("#help").open || $("#help").showModal();

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}

$("#theme").addEventListener("click", toggleTheme);
$("#keys").addEventListener("click", help);

/** After every drawing: sizes, players, relative times, the buttons that need the script. */
function ready() {
  fit(document);
  watchVideos(document);
  const copy = $("#copy");
  if (copy) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(JSON.stringify(JSON.parse(copy.dataset.settings), null, 2));
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy settings"), 1500);
    });
  }
}

setInterval(() => $$("time[datetime]:not([data-exact])").forEach((time) => fill.time(time)), 5000);
// Heartbeats and memory are no news of their own.
setInterval(() => $(".workers-view") && !document.hidden && redrawWorkers(), 10000);
workersView({ post, redraw, toast, said });
addEventListener("resize", () => fit(document));
composer();
navigation();
ready();
listen();
