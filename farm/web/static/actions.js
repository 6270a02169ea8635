// The buttons of a job: at once, without leaving the page; what would lose work is asked for first.

import { live } from "./dom.js";
import { sure, toast } from "./dialogs.js";
import { redraw } from "./draw.js";
import { post } from "./farm.js";
import { place } from "./queue.js";
import { t, told } from "./words.js";

addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.act) return;
  event.preventDefault();
  const subject = form.closest("[data-job]");
  if (form.dataset.confirm !== undefined && !(await agreed(subject.dataset.state))) return;
  try {
    const { act } = form.dataset;
    const id = subject.dataset.job;
    const job = await post(`/api/jobs/${id}/${act === "reseed" ? "rerun" : act}`, act === "reseed" ? { seed: null } : {});
    if (job.id !== id) return location.assign(`/jobs/${job.id}`);
    if (live().classList.contains("job")) redraw();
    else place(job);
  } catch (error) {
    toast(told(error));
  }
});

const agreed = (state) =>
  sure(t.cancel_title, state === "running" ? t.cancel_running : t.cancel_waiting, t.cancel_yes);
