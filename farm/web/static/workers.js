// The workers' view: its menus act at once, ask before work is lost, and close as menus do.

const $ = (selector, root = document) => root.querySelector(selector);
const t = JSON.parse($("#words").textContent).t;

/** Once for the page. `post` sends, `redraw` shows what came of it, `toast` says what went wrong. */
export function workersView({ post, redraw, toast, said }) {
  addEventListener("submit", async (event) => {
    const form = event.target;
    if (form.dataset.wish === undefined) return;
    event.preventDefault();
    const menu = form.closest("details");
    const { lost, title, api, wish } = form.dataset;
    if (lost && !(await sure(title, lost))) return;
    menu.open = false;
    $("summary", menu).focus();
    try {
      await post(api, { ...JSON.parse(wish), by: "the page" });
      await redraw();
    } catch (error) {
      toast(said(error));
    }
  });
  addEventListener("click", ({ target }) => closeMenus(target.closest?.("details.menu")));
  addEventListener("focusin", ({ target }) => closeMenus(target.closest?.("details.menu"), true));
  addEventListener("keydown", (event) => {
    const menu = event.target.closest?.("details.menu");
    if (!menu?.open) return;
    if (event.key === "Escape") {
      menu.open = false;
      $("summary", menu).focus();
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const stops = [$("summary", menu), ...menu.querySelectorAll(".choices button")];
    stops[(stops.indexOf(document.activeElement) + step + stops.length) % stops.length].focus();
  });
}

/** Drawing again would close what somebody is choosing from. */
export const choosing = () => $("details.menu[open]") !== null || $("#confirm").open;

function closeMenus(but, keyboard = false) {
  for (const menu of document.querySelectorAll("details.menu[open]"))
    if (menu !== but && !(keyboard && $("#confirm").open)) menu.open = false;
}

function sure(title, text) {
  const dialog = $("#confirm");
  const [no, yes] = dialog.querySelectorAll("button");
  const before = [no.textContent, yes.textContent];
  [no.textContent, yes.textContent] = [t.no, t.yes_lost];
  $("#confirm-title").textContent = title;
  $("#confirm-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener(
      "close",
      () => {
        [no.textContent, yes.textContent] = before;
        resolve(dialog.returnValue === "yes");
      },
      { once: true },
    ),
  );
}
