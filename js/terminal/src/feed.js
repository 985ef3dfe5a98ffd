// Bytes of the log in, by offset; what the terminal has written out, as acknowledgements.

const PIECE = 16 * 1024; // bytes written at a time, so that no task of the page is long
const ACK = 256 * 1024; // bytes after which the kernel is told at once
const ACK_MS = 500; // and after this time in any case
const ASK_MS = 1000; // no more often is the kernel asked to go back
const [HOLD, SHOW] = ["\x1b[?2026h", "\x1b[?2026l"]; // nothing is drawn between them (for a second at most)

/** Keeps the place in the log of one terminal.
 *
 * `send` tells the kernel something; `term` is written to. A message that was lost on its way leaves a hole: the kernel
 * is asked to go on from in front of it.
 */
export class Feed {
  constructor(term, send) {
    this.term = term;
    this.send = send;
    this.expected = null; // the offset of the next byte; null before the start
    this.written = 0; // how far the terminal is
    this.live = 0; // in front of it is history, whose questions were answered long ago
    this.run = 0; // counts starts
    this.held = false; // what is drawn stays until what comes next is there
    this.acked = 0;
    this.timer = 0;
    this.asked = 0;
  }

  /** Begin anew at an offset, with an empty screen. */
  start(offset, live, prefix) {
    const run = ++this.run;
    this.expected = offset;
    this.term.write(`\x1bc${HOLD}`);
    this.held = true;
    if (prefix?.length) this.term.write(prefix);
    this.live = live;
    this.term.write("", () => {
      if (run === this.run) this.written = this.acked = offset;
    });
  }

  data(offset, bytes) {
    if (this.expected === null || offset > this.expected) return this.at(offset);
    const fresh = bytes.subarray(this.expected - offset);
    const run = this.run;
    let begin = this.expected;
    this.expected = Math.max(this.expected, offset + bytes.length);
    for (let at = 0; at < fresh.length; ) {
      let size = Math.min(PIECE, fresh.length - at);
      const history = this.live - begin;
      if (history > 0) size = Math.min(size, history);
      const end = begin + size;
      this.term.write(fresh.subarray(at, at + size), () => run === this.run && this.wrote(end));
      at += size;
      begin = end;
    }
    if (this.held) this.term.write(SHOW);
    this.held = false;
  }

  /** The kernel has sent everything up to `offset`. */
  at(offset) {
    if (this.expected !== null && offset <= this.expected) return this.ack();
    const now = Date.now();
    if (now - this.asked < ASK_MS) return;
    this.asked = now;
    this.send({ kind: this.expected === null ? "ready" : "resume", offset: this.expected });
  }

  wrote(end) {
    this.written = end;
    if (this.written - this.acked >= ACK) this.ack();
    else if (!this.timer) this.timer = setTimeout(() => this.ack(), ACK_MS);
  }

  ack() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.acked = this.written;
    this.send({ kind: "ack", offset: this.written });
  }

  close() {
    clearTimeout(this.timer);
    this.run++;
  }
}
