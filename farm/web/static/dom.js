// Short names for finding elements, and the part of the page that is drawn anew.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
export const live = () => $("#live");
export const elementsOf = (id) => $$(`[data-job="${CSS.escape(id)}"]`);
