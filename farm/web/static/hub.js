// One event stream for many listeners. Each says the cursor of the page it drew, and gets what it missed from
// the recent past kept here. Cursors are BigInt: those of a busy database server grow beyond what a Number counts.

const KEPT = 1000;
const OUTBOX = ["job", "worker", "node", "gpu", "batch", "reset"];
const KINDS = [...OUTBOX, "progress", "preview", "health"];

export class Hub {
  #listeners = new Set(); // functions that take {kind, data}
  #recent = []; // messages with a cursor, oldest first
  #latest = new Map(); // newest progress and preview of each job
  #source = null;
  #state = "connecting";
  #forgotten = 0n; // the highest cursor that is no longer kept

  /** `hear` is called with every message from the one after `cursor` on. */
  join(hear, cursor) {
    this.#listeners.add(hear);
    if (!this.#source) {
      this.#forgotten = cursor;
      this.#open(cursor);
    }
    hear({ kind: "link", data: { state: this.#state } });
    if (cursor < this.#forgotten) return hear({ kind: "reset", data: {} });
    for (const message of this.#recent) if (message.cursor > cursor) hear(message);
    for (const message of this.#latest.values()) hear(message);
  }

  leave(hear) {
    this.#listeners.delete(hear);
  }

  #open(cursor) {
    const source = (this.#source = new EventSource(`/api/events?after=${cursor}`));
    source.onopen = () => {
      this.#latest.delete("health farm"); // a farm that lacks something says so at once
      this.#link("live");
    };
    source.onerror = () => {
      this.#link("reconnecting");
      // A refused stream is not tried again by the browser itself.
      if (source.readyState === EventSource.CLOSED)
        setTimeout(() => this.#open(this.#recent.at(-1)?.cursor ?? cursor), 2000);
    };
    for (const kind of KINDS) source.addEventListener(kind, (event) => this.#take(kind, event));
  }

  #take(kind, event) {
    const data = JSON.parse(event.data);
    const outbox = OUTBOX.includes(kind);
    if (kind === "reset") {
      // What was told before belongs to another time; whoever comes now draws afresh.
      this.#recent.length = 0;
      this.#latest.clear();
      this.#forgotten = BigInt(event.lastEventId);
    }
    const message = { kind, data, cursor: outbox ? BigInt(event.lastEventId) : null };
    if (outbox) {
      if (kind !== "reset") this.#recent.push(message);
      if (this.#recent.length > KEPT) this.#forgotten = this.#recent.shift().cursor;
      if (kind === "job" && data.state !== "running") {
        this.#latest.delete(`progress ${data.id}`);
        this.#latest.delete(`preview ${data.id}`);
      }
    } else {
      this.#latest.set(`${kind} ${data.id}`, message);
    }
    this.#tell(message);
  }

  #link(now) {
    this.#state = now;
    this.#tell({ kind: "link", data: { state: now } });
  }

  #tell(message) {
    for (const hear of this.#listeners) hear(message);
  }
}
