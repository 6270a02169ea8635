// The form: what is asked for, within the chosen model's limits, sent without leaving the page.

import { $ } from "./dom.js";
import { post } from "./farm.js";
import { firstFrame } from "./image.js";
import { place } from "./queue.js";
import { say, t, told } from "./words.js";

export function composer() {
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
    trouble.textContent = told(error);
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
    if (model.task === "i2v") form.elements.size.placeholder = t.like_image;
    $("#summary").textContent = [
      model.id,
      now.size ?? (model.task === "i2v" ? t.images_shape : model.size),
      say("n_frames", { n: now.frames ?? model.frames }),
      say("n_steps", { n: now.steps ?? model.steps }),
      now.seed && say("seed_n", { n: now.seed }),
      now.hold && t.on_hold,
    ].filter(Boolean).join(", ");
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
      place(job, true);
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
