// The page's colours in, a terminal's theme out.

const DARK = {
  black: "#2e3436", red: "#f0605d", green: "#7cc36e", yellow: "#d9b44a", blue: "#6ba4e8", magenta: "#c58fd6",
  cyan: "#4fc1c4", white: "#d3d7cf", brightBlack: "#858a86", brightRed: "#ff8a80", brightGreen: "#a5e075",
  brightYellow: "#f4dd7a", brightBlue: "#9cc4ff", brightMagenta: "#e3b5ef", brightCyan: "#86e6e6",
  brightWhite: "#ffffff",
};
const LIGHT = {
  black: "#2e3436", red: "#c01c28", green: "#2a7b1c", yellow: "#8f6a00", blue: "#1a5fb4", magenta: "#9141ac",
  cyan: "#0d7377", white: "#b9bcb7", brightBlack: "#6b6f6c", brightRed: "#d32f2f", brightGreen: "#338f24",
  brightYellow: "#a87c00", brightBlue: "#2a76d2", brightMagenta: "#a653c2", brightCyan: "#128489",
  brightWhite: "#e6e8e4",
};

/** Computed colour of a CSS value within `node`, as [r, g, b] of 0 to 255. */
function computed(node, value) {
  const probe = document.createElement("span");
  probe.style.color = value;
  probe.style.display = "none";
  node.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0];
  probe.remove();
  return found.slice(0, 3);
}

const hex = (rgb) => "#" + rgb.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("");

export function themeOf(node) {
  const back = computed(node, "var(--jp-layout-color0, var(--vscode-editor-background, #ffffff))");
  const front = computed(node, "var(--jp-content-font-color0, var(--vscode-editor-foreground, #1f1f1f))");
  const dark = 0.299 * back[0] + 0.587 * back[1] + 0.114 * back[2] < 128;
  const background = hex(back);
  // The font colour of JupyterLab is partly transparent, which a terminal's cannot be.
  const foreground = dark ? "#e4e6e3" : hex(front);
  return {
    ...(dark ? DARK : LIGHT),
    background,
    foreground,
    cursor: foreground,
    cursorAccent: background,
    selectionBackground: dark ? "#3d5a80" : "#b4d5fe",
    selectionInactiveBackground: dark ? "#3a3f45" : "#dfe3e8",
  };
}
