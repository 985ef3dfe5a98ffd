// A widget that shows one session's terminal. Output and keys go by binary custom messages, see feed.js and the
// kernel's side in views/terminal.py; nothing of them is ever part of the widget's state.

import { Terminal } from "@xterm/xterm";
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import xtermCss from "@xterm/xterm/css/xterm.css";
import ownCss from "./terminal.css";
import { Feed } from "./feed.js";
import { button, searchBox } from "./search.js";
import { themeOf } from "./theme.js";

const SCROLLBACK = 10_000; // lines
const LONGEST_KEYS = 256; // bytes; more at once is a paste
const BUSY_MS = 1500; // without an answer after which the kernel is called busy
const LONGEST_PASTE = 8 * 1024 * 1024; // bytes; a server takes no message above 10 MiB
const KEYS = "Shift+Esc leaves the terminal · Ctrl+Shift+F finds";

function render({ model, el }) {
  const id = crypto.randomUUID();
  const root = document.createElement("div");
  root.className = "cmdop-terminal";
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's keyboard shortcuts end here
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", model.get("label"));
  const style = document.createElement("style");
  style.textContent = xtermCss + ownCss;
  const screen = document.createElement("div");
  screen.className = "cmdop-screen";
  const foot = document.createElement("div");
  foot.className = "cmdop-foot";
  const says = document.createElement("span");
  says.className = "cmdop-says";
  says.setAttribute("role", "status");
  const keys = document.createElement("span");
  keys.className = "cmdop-keys";
  keys.textContent = KEYS;

  const css = getComputedStyle(document.body);
  const term = new Terminal({
    allowProposedApi: true,
    convertEol: model.get("eol"),
    cursorInactiveStyle: "outline",
    fontFamily: css.getPropertyValue("--jp-code-font-family") || css.getPropertyValue("--vscode-editor-font-family")
      || "monospace",
    fontSize: parseFloat(css.getPropertyValue("--jp-code-font-size")) || 13,
    minimumContrastRatio: 4.5,
    scrollback: SCROLLBACK,
  });
  root.terminal = term; // for people who script their page
  const fit = new FitAddon();
  const search = new SearchAddon();
  term.loadAddon(fit);
  term.loadAddon(search);
  term.loadAddon(new Unicode11Addon());
  term.loadAddon(new WebLinksAddon((_, uri) => follow(uri)));
  term.unicode.activeVersion = "11";
  const { box, open: find } = searchBox(term, search);
  foot.append(says, keys, button("Find", "Find in the terminal (Ctrl+Shift+F)", find));
  root.append(style, screen, box, foot);
  el.append(root);

  // -- to the kernel

  let opened = false;
  let over = false;
  let answers = false; // whether this view answers what programs ask of a terminal
  let sizeOfOthers = false; // another view has set the size
  let busyTimer = 0; // runs while the kernel has not taken the keys it was sent
  const waiting = [];
  const told = { cols: 0, rows: 0 };
  const words = { start: "", refused: "", busy: "", link: "", end: "" };

  const send = (content, buffers) => model.send({ ...content, view: id, cols: term.cols, rows: term.rows }, undefined, buffers);
  const feed = new Feed(term, send);
  const resized = () => {
    if (!opened || over || (told.cols === term.cols && told.rows === term.rows)) return;
    Object.assign(told, { cols: term.cols, rows: term.rows });
    send({ kind: "resize" });
  };
  const type = (bytes) => {
    if (over) return;
    words.refused = "";
    if (bytes.length > LONGEST_PASTE) {
      words.refused = `not typed: ${bytes.length.toLocaleString("en")} bytes are too many at once, at most 8 MiB`;
      return say();
    }
    // One message at a time: the kernel has more to do with each than with what is in it. But ^C waits for nothing.
    if (busyTimer && !(bytes.length === 1 && bytes[0] === 3)) waiting.push(bytes);
    else sendKeys(bytes);
    say();
  };
  const sendKeys = (bytes) => {
    busyTimer ||= setTimeout(() => {
      words.busy = "the kernel is busy: what you type waits for it";
      say();
    }, BUSY_MS);
    send({ kind: "input" }, [bytes.buffer]);
  };
  const sendWaiting = () => {
    if (!waiting.length || over) return;
    const [first, ...rest] = waiting.map((bytes) => bytes.length);
    // A paste goes alone: where it is refused, what was typed before and after it is not.
    const count = first > LONGEST_KEYS ? 1 : 1 + rest.findIndex((length) => length > LONGEST_KEYS) || waiting.length;
    sendKeys(joined(waiting.splice(0, count)));
  };
  term.onData((text) => type(new TextEncoder().encode(text)));
  term.onBinary((text) => type(Uint8Array.from(text, (char) => char.charCodeAt(0) & 255)));
  term.onResize(resized);

  // -- from the kernel

  const say = () => {
    const text = words.refused || words.link || words.busy || [words.end, words.start].filter(Boolean).join(" · ");
    if (says.textContent !== text) says.textContent = says.title = text;
    says.classList.toggle("cmdop-bad", Boolean(words.refused));
  };
  const bytesOf = (view) => (view ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array());
  const ours = {
    start(content, buffers) {
      over = false;
      feed.start(content.offset, content.live, bytesOf(buffers[0]));
      words.start = content.text;
    },
    data(content, buffers) {
      feed.data(content.offset, bytesOf(buffers[0]));
    },
    at(content) {
      feed.at(content.offset);
    },
    typed() {
      clearTimeout(busyTimer);
      busyTimer = 0;
      words.busy = "";
      sendWaiting();
    },
    refused(content) {
      words.refused = content.text;
    },
    link(content) {
      words.link = content.text;
      root.classList.toggle("cmdop-away", Boolean(content.text));
    },
    end(content) {
      over = true;
      words.link = "";
      words.end = content.text;
      ours.typed();
      term.write("\x1b[?25l");
      term.options.disableStdin = true;
      root.classList.add("cmdop-over");
    },
  };
  const onMessage = (content, buffers) => {
    if (content.kind === "leads") {
      answers = content.view === id;
      sizeOfOthers = !answers && content.cols > 0;
      if (sizeOfOthers) {
        Object.assign(told, { cols: content.cols, rows: content.rows });
        term.resize(content.cols, content.rows);
      }
    } else if (content.view === id) {
      ours[content.kind]?.(content, buffers ?? []);
      say();
    }
  };
  model.on("msg:custom", onMessage);
  makeInert(term, () => !answers || feed.written < feed.live);

  // -- keys and size

  term.attachCustomKeyEventHandler((event) => {
    if (event.type !== "keydown") return true;
    const ctrlShift = event.ctrlKey && event.shiftKey && !event.altKey && !event.metaKey;
    if (event.key === "Escape" && event.shiftKey) leave();
    else if (ctrlShift && event.code === "KeyF") find();
    else if (ctrlShift && event.code === "KeyC") copy();
    else if (ctrlShift && event.code === "KeyV") return false; // the browser pastes
    else return true;
    event.preventDefault();
    return false;
  });
  const copy = () => {
    if (term.hasSelection()) navigator.clipboard?.writeText(term.getSelection()).catch(() => document.execCommand("copy"));
  };
  const leave = () => {
    const home = el.parentElement?.closest("[tabindex]");
    if (home) home.focus();
    else term.blur();
  };
  const keep = (event) => event.stopPropagation();
  const kept = ["keydown", "keypress", "keyup", "paste", "copy", "cut", "contextmenu"];
  for (const kind of kept) root.addEventListener(kind, keep);
  root.addEventListener("focusin", () => {
    if (!opened) return;
    if (sizeOfOthers || !answers) {
      sizeOfOthers = false;
      fit.fit();
      send({ kind: "lead" });
    }
  });

  const paintIt = () => {
    term.options.theme = themeOf(root);
    screen.style.background = term.options.theme.background;
  };
  const measure = () => {
    if (!screen.isConnected || !screen.clientWidth || !screen.clientHeight) return;
    if (!opened) {
      term.open(screen);
      moveBarOnceAFrame(term);
      term.textarea.setAttribute("aria-label", `${model.get("label")}: type here, Shift+Escape leaves`);
      const line = screen.querySelector(".xterm-screen").offsetHeight / term.rows;
      screen.style.height = `${Math.ceil(line * model.get("rows")) + 10}px`;
      paintIt();
      fit.fit();
      opened = true;
      Object.assign(told, { cols: term.cols, rows: term.rows });
      send({ kind: "ready" });
    } else if (!sizeOfOthers) fit.fit();
  };
  const sizes = new ResizeObserver(measure);
  sizes.observe(screen);
  const paint = new MutationObserver(() => {
    // A theme's style sheets come after its name.
    for (const wait of [50, 500]) setTimeout(paintIt, wait);
  });
  paint.observe(document.body, { attributes: true });

  return () => {
    send({ kind: "bye" });
    model.off("msg:custom", onMessage);
    sizes.disconnect();
    paint.disconnect();
    clearTimeout(busyTimer);
    feed.close();
    term.dispose();
    root.remove();
  };
}

function joined(pieces) {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

function follow(uri) {
  const { protocol, href } = new URL(uri);
  if (protocol === "http:" || protocol === "https:") window.open(href, "_blank", "noopener,noreferrer");
}

/** xterm.js 6.0 moves its scroll bar with each line that comes, which takes longer than all the rest of that line. */
function moveBarOnceAFrame(term) {
  const viewport = term._core._viewport;
  const sync = viewport._sync.bind(viewport);
  let due = 0;
  viewport._sync = (line) => {
    if (line !== undefined) return sync(line);
    due ||= requestAnimationFrame(() => {
      due = 0;
      if (term.element?.isConnected) sync();
    });
  };
}

/** Take from programs what reaches out of the terminal, and their questions where nobody is to answer. */
function makeInert(term, mute) {
  const { parser } = term;
  for (const code of [0, 1, 2, 8, 9, 52, 777, 1337]) parser.registerOscHandler(code, () => true);
  for (const code of [4, 10, 11, 12]) parser.registerOscHandler(code, (text) => text.includes("?") && mute());
  const questions = [{ final: "c" }, { prefix: ">", final: "c" }, { prefix: "=", final: "c" }, { final: "n" },
    { prefix: "?", final: "n" }, { intermediates: "$", final: "p" }, { prefix: "?", intermediates: "$", final: "p" },
    { prefix: ">", final: "q" }, { prefix: "?", final: "u" }, { final: "t" }];
  for (const question of questions) parser.registerCsiHandler(question, mute);
  parser.registerDcsHandler({ intermediates: "$", final: "q" }, mute);
}

export default { render };
