// Whether the farm is heard, and what of it is away.

import { $ } from "./dom.js";
import { t } from "./words.js";

export function showLink(state) {
  const link = $("#link");
  if (link.dataset.state === "reconnecting" && state === "live") showOutage({});
  link.dataset.state = state;
  $("span", link).textContent = t[state];
}

/** What is away, what that means, and that nothing is lost by it. */
export function showOutage({ database, store }) {
  const box = $("#outage");
  const says = database ? t.outage_database : store ? t.outage_store : "";
  if (box.textContent !== says) box.textContent = says;
  box.hidden = !says;
}
