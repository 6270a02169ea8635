// Asking before something is lost, and saying what went wrong.

import { $ } from "./dom.js";
import { t } from "./words.js";

let fading = null;

/** Whether the person agrees. `yes` and `no` are what the buttons say. */
export function sure(title, text, yes, no = t.no) {
  const dialog = $("#confirm");
  const [keep, go] = dialog.querySelectorAll("button");
  [keep.textContent, go.textContent] = [no, yes];
  $("#confirm-title").textContent = title;
  $("#confirm-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}

export function toast(text) {
  const box = $("#toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => (box.hidden = true), 6000);
}
