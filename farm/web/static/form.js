// The form: what is asked for, within the chosen model's limits, sent without leaving the page.

import { $, $$ } from "./dom.js";
import { post, send } from "./farm.js";
import { firstFrame } from "./image.js";
import { keep, kept } from "./kept.js";
import { framesOf, limits, nearest, secondsOf, unknownWords } from "./limits.js";
import { place } from "./queue.js";
import { lang, say, t, told } from "./words.js";

const CHECKED = ["size", "seconds", "frames", "steps", "count"];
const HEAD = 2 ** 20; // bytes of a video that say how it was made
const ENOUGH = 3; // letters of a word that is still being written

export function composer() {
  const form = $("#composer");
  if (!form) return;
  const prompt = $("#prompt");
  const trouble = $("#form-error");
  const ideas = JSON.parse(prompt.dataset.ideas);
  const models = JSON.parse(form.dataset.models);
  let next = 0;

  const modelNow = () => models.find((m) => m.id === form.elements.model.value) ?? models[0];
  const filled = () => Object.fromEntries([...new FormData(form)].filter(([, value]) => typeof value === "string" && value !== ""));
  // What does not belong to the chosen model stays in the form, for when it is chosen again, and is not sent.
  const wish = () => {
    const { count, ...said } = filled();
    const model = modelNow();
    if (model?.task !== "i2v") ["image", "fit"].forEach((name) => delete said[name]);
    if (model?.negative_prompt == null) delete said.negative_prompt;
    if (said.frames) delete said.seconds; // they say the same, and frames more exactly
    if (said.tags) said.tags = tagsOf(said.tags);
    if (said.priority) said.priority = Number(said.priority);
    return said;
  };
  const complain = (error) => {
    trouble.textContent = told(error);
    trouble.hidden = false;
  };
  const hint = (text) => {
    $("#hint-text").textContent = text ?? "";
    $("#hint").hidden = !text;
    $("#known").hidden = !text || !modelNow()?.vocabulary || !unknownWords(prompt.value, modelNow()).length;
  };
  const image = firstFrame(form, complain);

  const draw = () => {
    const model = modelNow();
    if (!model) return;
    const now = filled();
    image.show(model.task === "i2v");
    $("#negative").hidden = model.negative_prompt == null;
    $("#negative input").placeholder = model.negative_prompt ?? "";
    for (const name of ["size", "frames", "steps", "guidance"]) form.elements[name].placeholder = model[name];
    form.elements.seconds.placeholder = secondsOf(now.frames || model.frames, model);
    if (model.task === "i2v") form.elements.size.placeholder = t.like_image;
    $("#limits").textContent = limits(model);
    drawShapes(model, now.size);
    drawOffers(form, model);
    if (model.vocabulary) $("#known-words").textContent = known(model.vocabulary);
    $("#summary").textContent = [
      model.id,
      now.size ?? (model.task === "i2v" ? t.images_shape : model.size),
      say("n_frames", { n: now.frames ?? (now.seconds ? framesOf(now.seconds, model) : model.frames) }),
      say("n_steps", { n: now.steps ?? model.steps }),
      now.seed && say("seed_n", { n: now.seed }),
      now.count > 1 && `× ${now.count}`,
      now.hold && t.on_hold,
    ].filter(Boolean).join(", ");
  };
  const names = (words) => say("unknown_words", { model: modelNow().id, words: words.slice(0, 6).join(", ") });
  const changed = ({ target }) => {
    if (target?.name === "frames") form.elements.seconds.value = "";
    if (target?.name === "seconds") form.elements.frames.value = "";
    if (target?.id === "aspect" && target.value) form.elements.size.value = target.value;
    trouble.hidden = true;
    draw();
    // A word is only judged once the next one is begun.
    const words = modelNow() ? unknownWords(prompt.value.replace(/[a-z]+$/i, ""), modelNow()) : [];
    hint(words.some((word) => word.length >= ENOUGH || lang === "zh") ? names(words) : "");
    keep(filled());
  };
  const fillIn = (settings) => {
    for (const field of form.elements) {
      if (!field.name || field.type === "file") continue;
      const value = settings[field.name];
      if (field.type === "checkbox") field.checked = Boolean(value);
      else if (field.name === "model") field.value = models.some((m) => m.id === value) ? value : models[0]?.id;
      else field.value = typeof value === "object" && value ? tagsText(value) : (value ?? "");
    }
    image.restore(settings.image);
    draw();
  };
  if (trouble.hidden) fillIn(kept()); // else the server has filled it with what was wrong
  draw();

  form.addEventListener("input", changed);
  $("#offers").addEventListener("click", ({ target }) => {
    if (!target.dataset.value) return;
    const field = form.elements[target.dataset.field];
    field.value = target.dataset.value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.focus();
  });
  $("#clear").addEventListener("click", () => {
    keep({});
    fillIn({});
    prompt.focus();
  });

  const restore = async (file) => {
    try {
      const { settings } = await send("/api/inspect", file.slice(0, HEAD));
      fillIn(settings);
      keep(filled());
      $("#settings").open = true;
      hint(say("restored", { name: file.name }));
    } catch (error) {
      complain(error);
    }
  };
  $("#restore").addEventListener("change", ({ target }) => target.files[0] && restore(target.files[0]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    form.addEventListener(kind, (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      form.classList.toggle("dropping", kind === "dragover");
      const file = event.dataTransfer.files[0];
      if (kind !== "drop" || !file) return;
      if (file.type === "video/mp4" || /\.mp4$/i.test(file.name)) return restore(file);
      if (modelNow()?.task !== "i2v") {
        const able = models.find((m) => m.task === "i2v");
        if (!able) return complain({ message: t.no_i2v });
        form.elements.model.value = able.id;
        draw();
      }
      image.take(file);
    });
  }

  const propose = (idea) => {
    prompt.value = idea;
    prompt.focus();
    changed({});
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
      const count = Number(filled().count ?? 1);
      const refused = filled().count && nearest("count", filled().count, modelNow());
      if (refused) throw { message: `${t.how_many} ${count}`, next: refused.why, field: "count" };
      const said = wish();
      let job;
      for (let i = 0; i < count; i++) {
        job = await post("/api/jobs", said.seed ? { ...said, seed: Number(said.seed) + i } : said);
        place(job, true);
      }
      trouble.hidden = true;
      hint(job.hint ?? (count > 1 ? say("sent_n", { n: count }) : ""));
      prompt.select();
    } catch (error) {
      complain(error);
      const field = error.field === "image" ? $("#image-file") : form.elements[error.field];
      if (field && field !== prompt && error.field !== "image")
        for (let fold = field.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
      (field ?? prompt).focus();
    } finally {
      $("#render").disabled = false;
    }
  });
}

/** Shapes to choose from, of models that render more than one. */
function drawShapes(model, size) {
  const shape = $("#shape");
  const shapes = Object.entries(model.sizes);
  shape.hidden = new Set(shapes.map(([, one]) => one)).size < 2;
  const free = Object.assign(document.createElement("option"), { value: "", textContent: t.aspect_free });
  const options = shapes.map(([aspect, one]) => Object.assign(document.createElement("option"), { value: one, textContent: aspect }));
  $("#aspect").replaceChildren(free, ...options);
  $("#aspect").value = shapes.some(([, one]) => one === size) ? size : "";
}

/** Below the fields: what cannot be, why, and a button for the nearest that can. */
function drawOffers(form, model) {
  const offers = CHECKED.map((field) => [field, form.elements[field].value.trim()])
    .map(([field, given]) => [field, given, given && nearest(field, given, model)])
    .filter(([, , offer]) => offer);
  $("#offers").replaceChildren(
    ...offers.map(([field, given, { value, why }]) => {
      const line = document.createElement("p");
      const label = t[field === "count" ? "how_many" : field];
      line.append(say("offer", { field: label, given, why }), " ");
      const button = document.createElement("button");
      button.type = "button";
      Object.assign(button.dataset, { field, value });
      button.textContent = say("use_value", { value });
      if (value !== "") line.append(button);
      return line;
    }),
  );
  for (const field of CHECKED) form.elements[field].setAttribute("aria-invalid", offers.some(([name]) => name === field));
}

const known = ({ words, characters }) => `${words.join(" ")} ${[...characters].join(" ")}`;
const tagsText = (tags) => Object.entries(tags).map((pair) => pair.join("=")).join(", ");
const tagsOf = (text) =>
  Object.fromEntries(text.split(",").map((pair) => pair.trim().split("=")).map(([key, ...rest]) => [key, rest.join("=")]));
