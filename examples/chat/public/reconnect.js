"use strict";
// A WebSocket that comes back. The same file lies in every example, so that each folder can be copied alone.
//
// It connects again when the server was stopped (1001) or reloaded (1012), is full (1013), has cut a slow page (3008),
// or when the line broke (1006). The wait doubles from half a second to 30, and half of it is random, so that not all
// the pages of a restarted service are back at the same moment. Any other code is an answer and not an accident (1008:
// too much, 1009: too large, 4xxx: the app's own); then the page may call again().

const COMES_BACK = new Set([1001, 1006, 1012, 1013, 3008]);
const STEADY_MS = 10000; // open for so long, a connection has not failed

// Returns {send, close, again}. path: below the page's host; open and message are called as a WebSocket calls onopen
// and onmessage, closed(event) whenever it ends; the element #state, if there is one, tells how things are.
function keepOpen(path, { protocols = [], open = () => {}, message = () => {}, closed = () => {} } = {}) {
  const url = new URL(path, location.href.replace(/^http/, "ws"));
  let socket = null;
  let failures = 0;
  let timer = 0;

  const show = (text) => {
    const state = document.getElementById("state");
    if (state) {
      state.textContent = text;
    }
  };

  function again() {
    clearTimeout(timer);
    if (socket && socket.readyState <= WebSocket.OPEN) {
      return;
    }
    show("connecting");
    const began = performance.now();
    socket = new WebSocket(url, protocols);
    socket.binaryType = "arraybuffer";
    socket.onmessage = message;
    socket.onopen = (event) => {
      show(`open${socket.protocol && `, ${socket.protocol}`}`);
      open(event);
    };
    socket.onclose = (event) => {
      const ended = `closed, code ${event.code}${event.reason && `, ${event.reason}`}`;
      failures = performance.now() - began > STEADY_MS ? 0 : failures + 1;
      if (COMES_BACK.has(event.code)) {
        const wait = Math.min(30, 0.5 * 2 ** failures) * (0.5 + Math.random() / 2);
        show(`${ended}; again in ${wait.toFixed(1)} s`);
        timer = setTimeout(again, wait * 1000);
      } else {
        show(ended);
      }
      closed(event);
    };
  }

  again();
  return {
    again,
    // false: there is no connection, and the message was dropped
    send(data) {
      const isOpen = socket.readyState === WebSocket.OPEN;
      if (isOpen) {
        socket.send(data);
      }
      return isOpen;
    },
    // code: 1000, or 3000 to 4999
    close(code = 1000, reason = "") {
      clearTimeout(timer);
      socket.close(code, reason);
    },
  };
}
