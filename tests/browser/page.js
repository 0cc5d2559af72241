"use strict";
// What every page and worker of the browser tests has at hand: sockets whose events are kept in order, and promises of
// what is still to come. A promise that is not kept in time tells what has come instead.

const PATIENCE_MS = 30000;

class Watched {
  // events: [type, readyState at that moment, details...], as JSON can hold it; data: the messages as they came
  constructor(url, protocols) {
    this.events = [];
    this.data = [];
    this.looks = [];
    this.ws = protocols === undefined ? new WebSocket(url) : new WebSocket(url, protocols);
    for (const type of ["open", "message", "error", "close"]) {
      this.ws.addEventListener(type, (event) => this.note(event));
    }
  }

  note(event) {
    const noted = [event.type, this.ws.readyState];
    if (event.type === "message") {
      this.data.push(event.data);
      noted.push(typeof event.data === "string" ? event.data : event.data.constructor.name);
    }
    if (event.type === "close") {
      noted.push(event.code, event.reason, event.wasClean);
    }
    this.events.push(noted);
    this.looks = this.looks.filter((look) => !look());
  }

  // Resolves when so many events of a type have come.
  until(type, count = 1) {
    const number = (name) => this.events.filter((noted) => noted[0] === name).length;
    return new Promise((resolve, reject) => {
      const fail = () => reject(new Error(`no ${type}, but ${JSON.stringify(this.events).slice(0, 2000)}`));
      const look = () => {
        if (number(type) >= count) {
          resolve(this);
        } else if (number("close") > 0) {
          fail();
        } else {
          return false;
        }
        return true;
      };
      if (!look()) {
        this.looks.push(look);
        setTimeout(fail, PATIENCE_MS);
      }
    });
  }

  // Resolves to all events, when the last one has come.
  async end() {
    return (await this.until("close")).events;
  }
}

const watch = (url, protocols) => new Watched(url, protocols);
const opened = (url, protocols) => watch(url, protocols).until("open");

// Resolves as soon as a fact holds.
const holds = (fact) =>
  new Promise((resolve, reject) => {
    const giveUpAt = performance.now() + PATIENCE_MS;
    const look = () => {
      if (fact()) {
        resolve();
      } else if (performance.now() > giveUpAt) {
        reject(new Error(`not in time: ${fact}`));
      } else {
        setTimeout(look, 10);
      }
    };
    look();
  });

// Returns the name of what a function throws, or null.
const thrown = (run) => {
  try {
    run();
    return null;
  } catch (error) {
    return error.name;
  }
};

// Resolves to the bytes of a Blob or an ArrayBuffer, in hex.
const hex = async (data) => {
  const bytes = new Uint8Array(data instanceof Blob ? await data.arrayBuffer() : data);
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
};

Object.assign(globalThis, { watch, opened, holds, thrown, hex });
