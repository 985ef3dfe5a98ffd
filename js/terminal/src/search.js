// A box that searches the screen and its scrollback.

const COLORS = {
  matchBackground: "#b58900", matchOverviewRuler: "#b58900",
  activeMatchBackground: "#e8590c", activeMatchColorOverviewRuler: "#e8590c",
};

/** Make the box for a terminal; gives its node and how to open it. */
export function searchBox(term, search) {
  const box = document.createElement("div");
  box.className = "cmdop-find";
  box.hidden = true;
  box.setAttribute("role", "search");
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "Find";
  field.setAttribute("aria-label", "Find in the terminal");
  const count = document.createElement("output");
  count.setAttribute("aria-live", "polite");
  const options = { decorations: COLORS };
  const next = () => search.findNext(field.value, options);
  const previous = () => search.findPrevious(field.value, options);
  const close = () => {
    box.hidden = true;
    search.clearDecorations();
    term.focus();
  };
  box.append(field, count, button("↑", "Previous match", previous), button("↓", "Next match", next),
    button("✕", "Close the search", close));
  field.addEventListener("input", () => {
    if (field.value) search.findPrevious(field.value, { ...options, incremental: true });
    else search.clearDecorations();
    if (!field.value) count.value = "";
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    else if (event.key === "Enter" && event.target === field) (event.shiftKey ? next : previous)();
    else return;
    event.preventDefault();
  });
  search.onDidChangeResults(({ resultIndex, resultCount }) => {
    count.value = !field.value ? "" : !resultCount ? "none" : `${resultIndex + 1} of ${resultCount}`;
  });
  const open = () => {
    box.hidden = false;
    field.focus();
    field.select();
  };
  return { box, open };
}

export function button(text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.title = label;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}
