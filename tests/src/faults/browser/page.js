// What a page can do at a relay, by the browser's own WebSocket and fetch. The test says what to do (see
// drive.mjs), and judges what comes of it; bytes go to and fro as hexadecimal digits.
"use strict";

/** The things that the test has begun, by the number that it gave them. */
const begun = new Map();

/** What happens to a WebSocket, one after the other, for as long as it takes until somebody asks. */
class Socket {
  constructor(url, protocols) {
    this.happened = [];
    this.asked = [];
    this.socket = new WebSocket(url, protocols);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () =>
      this.tell({ opened: { protocol: this.socket.protocol, extensions: this.socket.extensions } });
    this.socket.onmessage = ({ data }) =>
      this.tell(typeof data === "string" ? { text: data } : { bytes: new Uint8Array(data).toHex() });
    this.socket.onclose = ({ code, reason, wasClean }) => this.tell({ closed: { code, reason, clean: wasClean } });
  }

  tell(what) {
    const asked = this.asked.shift();
    asked ? asked(what) : this.happened.push(what);
  }

  next() {
    return this.happened.length ? this.happened.shift() : new Promise((answer) => this.asked.push(answer));
  }
}

/** Asks by fetch. Of a page that may not read the answer, all that it learns is the error's name. */
async function ask({ method, url, headers, body, chunks }, signal) {
  try {
    const sent = body === null ? undefined : Uint8Array.fromHex(body);
    const answer = await fetch(url, { method, headers, body: sent, signal });
    const readable = Object.fromEntries(answer.headers);
    if (chunks === null) {
      const bytes = new Uint8Array(await answer.arrayBuffer());
      return { status: answer.status, headers: readable, body: bytes.toHex() };
    }
    const reader = answer.body.getReader();
    for (let read = 0; read < chunks; read += 1) await reader.read();
    return { status: answer.status, headers: readable, reader };
  } catch (error) {
    return { error: error.name };
  }
}

globalThis.doings = {
  open({ number, url, protocols }) {
    begun.set(number, new Socket(url, protocols));
  },
  send({ number, bytes, text }) {
    begun.get(number).socket.send(text ?? Uint8Array.fromHex(bytes));
  },
  next({ number }) {
    return begun.get(number).next();
  },
  close({ number, code }) {
    begun.get(number).socket.close(code);
  },
  begin({ number, ...request }) {
    const controller = new AbortController();
    begun.set(number, { controller, answer: ask(request, controller.signal) });
  },
  async end({ number }) {
    const { reader, ...answer } = await begun.get(number).answer;
    return answer;
  },
  /** Gives up, and says what whoever waits for the answer, or reads on, learns. */
  async abort({ number }) {
    const { controller, answer } = begun.get(number);
    const { reader } = controller.abort() ?? (await answer);
    if (!reader) return await answer;
    return await reader.read().then(
      () => ({ error: null }),
      (error) => ({ error: error.name }),
    );
  },
};
