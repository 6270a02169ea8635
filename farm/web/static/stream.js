// A SharedWorker: one event stream for all tabs of this browser. Six connections per host is all a browser has.

import { Hub } from "./hub.js";

const hub = new Hub();
const listeners = new Map(); // of each port

self.onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => {
    if (data.bye) return hub.leave(listeners.get(port));
    const hear = (message) => port.postMessage(message);
    listeners.set(port, hear);
    hub.join(hear, data.cursor);
  };
};
