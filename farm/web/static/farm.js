// Talking to the farm: JSON both ways, refusals thrown as {code, message, next, field}.

import { lang, t } from "./words.js";

export const post = (path, body) => ask(path, "POST", JSON.stringify(body), "application/json");
export const patch = (path, body) => ask(path, "PATCH", JSON.stringify(body), "application/json");
export const send = (path, file) => ask(path, "POST", file, "application/octet-stream");

async function ask(path, method, body, type) {
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: { "Content-Type": type, "Accept-Language": lang } });
  } catch {
    throw { code: "farm_unreachable", message: t.farm_away, next: t.farm_away_help };
  }
  const said = await answer.json();
  if (!answer.ok) throw said.error;
  return said;
}

/** A page of the farm as a document. */
export async function fetchPage(address = location.href) {
  const answer = await fetch(address, { headers: { Accept: "text/html" } });
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}
