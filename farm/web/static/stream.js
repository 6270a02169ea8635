// A SharedWorker: one event stream for all tabs of this browser. Six connections per host is all a browser has.
// Each tab says the cursor of the page it drew, and gets what it missed from the recent past kept here.
// Cursors are BigInt: those of a busy database server grow beyond what a Number counts exactly.

const KEPT = 1000;
const OUTBOX = ["job", "worker", "node", "gpu", "batch", "reset"];
const KINDS = [...OUTBOX, "progress", "preview", "health"];
const ports = new Set();
const recent = []; // messages with a cursor, oldest first
const latest = new Map(); // newest progress and preview of each job
let source = null;
let state = "connecting";
let forgotten = 0n; // the highest cursor that is no longer kept

self.onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => (data.bye ? ports.delete(port) : welcome(port, data.cursor));
};

function welcome(port, cursor) {
  ports.add(port);
  if (!source) {
    forgotten = cursor;
    open(cursor);
  }
  port.postMessage({ kind: "link", data: { state } });
  if (cursor < forgotten) return port.postMessage({ kind: "reset", data: {} });
  for (const message of recent) if (message.cursor > cursor) port.postMessage(message);
  for (const message of latest.values()) port.postMessage(message);
}

function open(cursor) {
  source = new EventSource(`/api/events?after=${cursor}`);
  source.onopen = () => {
    latest.delete("health farm"); // a farm that lacks something says so at once
    link("live");
  };
  source.onerror = () => {
    link("reconnecting");
    // A refused stream is not tried again by the browser itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => open(lastCursor() ?? cursor), 2000);
  };
  for (const kind of KINDS) source.addEventListener(kind, (event) => take(kind, event));
}

function take(kind, event) {
  const data = JSON.parse(event.data);
  const outbox = OUTBOX.includes(kind);
  if (kind === "reset") {
    // What was told before belongs to another time; whoever comes now draws afresh.
    recent.length = 0;
    latest.clear();
    forgotten = BigInt(event.lastEventId);
  }
  const message = { kind, data, cursor: outbox ? BigInt(event.lastEventId) : null };
  if (outbox) {
    if (kind !== "reset") recent.push(message);
    if (recent.length > KEPT) forgotten = recent.shift().cursor;
    if (kind === "job" && data.state !== "running") {
      latest.delete(`progress ${data.id}`);
      latest.delete(`preview ${data.id}`);
    }
  } else {
    latest.set(`${kind} ${data.id}`, message);
  }
  for (const port of ports) port.postMessage(message);
}

function link(now) {
  state = now;
  for (const port of ports) port.postMessage({ kind: "link", data: { state } });
}

function lastCursor() {
  return recent.length ? recent[recent.length - 1].cursor : null;
}
