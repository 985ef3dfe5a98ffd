// The live table of `%cmdop ps`. Rows stay where they are while they change, so that a click meets what was aimed at.

const ALIVE = 15000; // milliseconds between two words that somebody may look

const STYLE = `
.cmdop-ps { font: var(--jp-code-font-size, 13px)/1.45 var(--jp-code-font-family, monospace); color: inherit }
.cmdop-ps .scroll { overflow-x: auto; max-height: 34em; overflow-y: auto }
.cmdop-ps table { border-collapse: collapse; border: 0; margin: 0; font: inherit; width: 100%; table-layout: auto }
.cmdop-ps th, .cmdop-ps td { text-align: left; padding: 1px 12px 1px 0; white-space: nowrap; vertical-align: middle;
  border: 0; max-width: 26ch; overflow: hidden; text-overflow: ellipsis; font-size: inherit }
.cmdop-ps th { font-weight: normal; position: sticky; top: 0; z-index: 1;
  background: var(--jp-layout-color0, Canvas); color: var(--jp-ui-font-color2, inherit) }
.cmdop-ps tr { background: none !important }
.cmdop-ps td.command { width: 99%; max-width: 0; min-width: 14ch }
.cmdop-ps tr.open td { font-weight: bold }
.cmdop-ps td.does { position: sticky; right: 0; background: var(--jp-layout-color0, Canvas); padding: 1px 0 1px 8px;
  max-width: none; font-weight: normal !important }
.cmdop-ps button { font: inherit; font-size: .92em; line-height: 1.3; padding: 0 7px; margin-left: 4px; cursor: pointer;
  color: var(--jp-ui-font-color1, inherit); background: var(--jp-layout-color2, transparent);
  border: 1px solid transparent; border-radius: 2px }
.cmdop-ps button:hover:enabled { background: var(--jp-layout-color3, transparent) }
.cmdop-ps button:focus-visible { outline: 2px solid var(--jp-brand-color1, Highlight); outline-offset: 0 }
.cmdop-ps button:disabled { opacity: .45; cursor: default }
.cmdop-ps .quiet { opacity: .75 }
.cmdop-ps .low { margin: 2px 0 0; white-space: pre-wrap; overflow-wrap: anywhere }
.cmdop-ps { container-type: inline-size }
@container (max-width: 760px) { .cmdop-ps .began { display: none } }
@container (max-width: 620px) { .cmdop-ps .command, .cmdop-ps .output { display: none } }
@container (max-width: 440px) {
  .cmdop-ps thead { display: none }
  .cmdop-ps tr { display: flex; flex-wrap: wrap; padding-bottom: 4px }
  .cmdop-ps td.does { position: static; flex-basis: 100%; padding-left: 0 }
  .cmdop-ps td.does button:first-child { margin-left: 0 }
}
`;

function duration(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d${two(Math.floor((whole % 86400) / 3600))}h`;
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function render({ model, el }) {
  const root = make("div", "cmdop-ps");
  const style = make("style", "", STYLE);
  const scroll = make("div", "scroll");
  const table = make("table");
  const head = table.createTHead().insertRow();
  const body = table.createTBody();
  const empty = make("p", "low");
  const more = make("button", "", "Show more");
  const rest = make("span", "quiet");
  const low = make("p", "low");
  const notes = make("p", "low quiet");
  const said = make("p", "low");
  said.setAttribute("role", "status");
  table.setAttribute("aria-label", "sessions");
  scroll.tabIndex = 0;
  scroll.append(table);
  low.append(rest, more);
  root.append(style, scroll, empty, low, notes, said);
  el.append(root);

  const rows = new Map();
  let at = performance.now();
  const tell = (kind, id) => model.send({ kind, id });
  more.onclick = () => tell("more");

  const columns = ["name", "machine", "state", "began", "ran", "output", "command"];
  for (const name of columns) head.append(Object.assign(make("th", name, name), { scope: "col" }));
  head.append(make("th", "does", ""));

  const newRow = (id) => {
    const tr = make("tr");
    const cells = Object.fromEntries(columns.map((name) => [name, make("td", name)]));
    const does = make("td", "does");
    const buttons = {};
    for (const word of ["open", "attach", "stop"]) {
      const button = (buttons[word] = make("button"));
      button.onclick = () => tell(word, id);
      does.append(button);
    }
    const glyph = make("span");
    const word = make("span");
    cells.state.append(glyph, " ", word);
    tr.append(...Object.values(cells), does);
    return { tr, cells, buttons, glyph, word };
  };

  const age = (row) => (row.live ? row.seconds + (performance.now() - at) / 1000 : row.seconds);
  const tick = () => {
    for (const [id, { cells }] of rows) {
      const row = model.get("board").rows.find((one) => one.id === id);
      if (row) write(cells.ran, row.seconds > 0 ? duration(age(row)) : "");
    }
  };

  const draw = () => {
    const board = model.get("board");
    const wanted = board.rows.map((row) => row.id);
    for (const [id, { tr }] of rows) if (!wanted.includes(id)) { tr.remove(); rows.delete(id); }
    board.rows.forEach((row, place) => {
      if (!rows.has(row.id)) rows.set(row.id, newRow(row.id));
      const { tr, cells, buttons, glyph, word } = rows.get(row.id);
      if (body.rows[place] !== tr) body.insertBefore(tr, body.rows[place] ?? null);
      tr.classList.toggle("open", row.id === board.open);
      for (const name of ["name", "machine", "began", "output", "command"]) {
        write(cells[name], row[name]);
        cells[name].title = row[name];
      }
      write(glyph, row.glyph);
      glyph.style.color = row.color;
      write(word, row.state);
      cells.state.title = row.state;
      const open = row.id === board.open;
      write(buttons.open, open ? "Close" : "Open");
      buttons.open.setAttribute("aria-expanded", String(open));
      buttons.open.title = `${open ? "Hide" : "Show"} its output below (%cmdop attach ${row.address})`;
      write(buttons.attach, "Attach");
      buttons.attach.title = `Bind a variable to it, and show it (%cmdop attach ${row.address})`;
      write(buttons.stop, row.stopping ? "Stopping" : "Stop");
      buttons.stop.title = `End it and all it started (%cmdop stop ${row.address})`;
      buttons.stop.disabled = !row.live || row.stopping;
      for (const [name, button] of Object.entries(buttons)) {
        button.setAttribute("aria-label", `${button.textContent} ${row.address}`);
        button.dataset.does = name;
      }
    });
    scroll.style.display = board.rows.length ? "" : "none";
    write(empty, board.rows.length ? "" : "no sessions; %%cmdop starts one");
    write(rest, board.rest);
    low.style.display = board.rest ? "" : "none";
    write(notes, board.notes.join("\n"));
    write(said, board.said);
    tick();
  };

  const renew = () => { at = performance.now(); draw(); };
  model.on("change:board", renew);
  const ticking = setInterval(tick, 1000);
  const alive = setInterval(() => tell("here"), ALIVE);
  draw();
  tell("here");
  return () => {
    clearInterval(ticking);
    clearInterval(alive);
    model.off("change:board", renew);
    tell("bye");
  };
}

export default { render };
