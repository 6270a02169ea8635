// The page's words in the reader's language, as the server wrote them into the page.

export const t = JSON.parse(document.getElementById("words").textContent);
export const lang = document.documentElement.lang;

/** The words called `key`, with {names} filled in. */
export const say = (key, given = {}) => t[key].replace(/\{(\w+)\}/g, (_, name) => given[name]);

/** An error as people read it. */
export const told = ({ message, next }) => (next ? `${message}${lang === "zh" ? "：" : ": "}${next}` : message);
