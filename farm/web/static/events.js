// Hears the farm's event stream: through the worker that all tabs share, else through a tab that leads the others,
// else (where a browser has neither) through a stream of its own.

import { Hub } from "./hub.js";

/** `hear(kind, data)` for everything that happens after `cursor`. */
export function listen(cursor, hear) {
  if (window.SharedWorker) return shared(cursor, hear);
  if (navigator.locks && window.BroadcastChannel) return led(cursor, hear);
  new Hub().join(({ kind, data }) => hear(kind, data), cursor);
}

function shared(cursor, hear) {
  const worker = new SharedWorker(document.body.dataset.stream, { name: "turbofarm", type: "module" });
  worker.port.onmessage = ({ data }) => hear(data.kind, data.data);
  worker.port.postMessage({ cursor });
  addEventListener("pagehide", () => worker.port.postMessage({ bye: true }));
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}

/** The tab that holds the lock has the stream. When it goes, the next one opens it where its own knowledge ends. */
function led(cursor, hear) {
  const channel = new BroadcastChannel("turbofarm");
  const me = Math.random().toString(36);
  let known = cursor;
  const take = ({ kind, data, cursor: at }) => {
    if (at !== null && at !== undefined) {
      if (at <= known) return; // told before
      known = at;
    }
    hear(kind, data);
  };
  let lead = null;
  channel.onmessage = ({ data: { to, message, hello } }) => {
    if (hello && lead) lead(hello);
    if (message && (to === me || to === "all") && !lead) take(message);
  };
  channel.postMessage({ hello: { from: me, cursor } });
  navigator.locks.request("turbofarm stream", () => {
    const hub = new Hub();
    hub.join((message) => (take(message), channel.postMessage({ to: "all", message })), known);
    lead = ({ from, cursor: theirs }) => {
      const catchUp = (message) => channel.postMessage({ to: from, message });
      hub.join(catchUp, theirs);
      hub.leave(catchUp); // what comes from now on is told to all
    };
    return new Promise(() => {}); // until this tab goes
  });
}
