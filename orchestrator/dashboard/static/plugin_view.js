/** One plugin: its head with the operator's commands, and the part that the address names. */

/** @import { Plugin, PluginDetail } from "./types.js" */

import { json, pluginPath } from "./api.js";
import { confirm, notice } from "./dialogs.js";
import { h, setAttribute, setText } from "./dom.js";
import { hasEnded, seconds } from "./format.js";
import { live } from "./live.js";
import { logsPart } from "./logs_part.js";
import { overviewPart } from "./overview_part.js";
import { toolsPart } from "./tools_part.js";
import { badge } from "./widgets.js";

/** What each command asks before it is carried out. @type {Record<string, { label: string, ask: (plugin: Plugin) => string, done: string }>} */
const COMMANDS = {
  restart: {
    label: "Restart",
    ask: (plugin) =>
      `Its container is stopped and a new one started from the manifest as it is now.${underWay(plugin)}`,
    done: "A new instance is starting.",
  },
  start: {
    label: "Start",
    ask: () => "A new instance is started from the manifest as it is now.",
    done: "A new instance is starting.",
  },
  stop: {
    label: "Stop",
    ask: (plugin) =>
      `Its container is stopped and the plugin takes no runs until somebody starts it.${underWay(plugin)}`,
    done: "It is stopped.",
  },
};

const PARTS = { "": "Overview", tools: "Tools", logs: "Logs" };

/** @param {string} name @param {string} part */
export function pluginView(name, part) {
  const state = badge();
  const heading = h("h1", { tabindex: -1 }, name);
  const [description, meta] = [h("p", { class: "sub" }), h("p", { class: "meta" })];
  const reason = h("p", { class: "reason" });
  const said = notice();
  const buttons = Object.entries(COMMANDS).map(([command, { label }]) => {
    const button = h("button", { type: "button", onclick: () => void carryOut(command) }, label);
    return { command, button };
  });
  const unknown = h("p", { class: "empty" }, "There is no plugin of this name.");
  const shown = part === "tools" || part === "logs" ? part : "";
  const opened = shown === "tools" ? toolsPart(name) : shown === "logs" ? logsPart(name) : overviewPart(name);
  const here = `#/plugins/${encodeURIComponent(name)}`;
  const tabs = h(
    "nav",
    { class: "tabs", "aria-label": `Parts of ${name}` },
    h(
      "ul",
      {},
      ...Object.entries(PARTS).map(([path, label]) =>
        h(
          "li",
          {},
          h("a", { href: path ? `${here}/${path}` : here, "aria-current": path === shown ? "page" : null }, label),
        ),
      ),
    ),
  );
  const element = h(
    "div",
    { class: "plugin-page" },
    h(
      "div",
      { class: "view-head" },
      h("div", { class: "title" }, heading, state.element),
      h("div", { class: "actions" }, ...buttons.map(({ button }) => button)),
    ),
    description,
    meta,
    reason,
    said.element,
    unknown,
    tabs,
    opened.element,
  );

  function update() {
    const plugin = live.get(name);
    unknown.hidden = plugin !== undefined || !live.known();
    tabs.hidden = opened.element.hidden = plugin === undefined;
    if (!plugin) {
      for (const { button } of buttons) button.hidden = true;
      reason.hidden = true;
      return;
    }
    setAttribute(element, "data-state", plugin.state);
    setAttribute(reason, "data-state", plugin.state);
    state.show(plugin.state);
    setText(description, plugin.description);
    setText(meta, metaOf(plugin));
    const text = plugin.reason ?? "";
    reason.hidden = text === "";
    if (reason.dataset["text"] !== text) {
      reason.dataset["text"] = text;
      reason.replaceChildren(h("strong", { class: "code" }, plugin.reason_code), " ", text);
    }
    const ended = hasEnded(plugin);
    for (const { command, button } of buttons) {
      button.hidden = command === "start" ? !ended : command === "stop" && ended;
    }
  }

  /** @param {string} command */
  async function carryOut(command) {
    const plugin = live.get(name);
    const words = COMMANDS[command];
    if (!plugin || !words) return;
    if (!(await confirm(`${words.label} ${name}?`, words.ask(plugin), words.label))) return;
    said.show(`${words.label}: asked for…`, "good");
    try {
      /** @type {PluginDetail} */
      const detail = await json(pluginPath(name, command), { method: "POST" });
      live.learn(detail);
      said.show(words.done, "good");
    } catch (error) {
      said.show(error instanceof Error ? error.message : String(error));
    }
  }

  const unwatch = live.watch(update);
  const close = () => {
    unwatch();
    opened.close();
  };
  return { element, heading, title: name, close };
}

/** @param {Plugin} plugin */
function metaOf(plugin) {
  const up = live.uptime(plugin);
  return [
    plugin.version && `v${plugin.version}`,
    `instance ${plugin.generation}`,
    up !== null && `${hasEnded(plugin) ? "was up" : "up"} ${seconds(up)}`,
    plugin.stale && "as last known: the engine cannot be asked",
  ]
    .filter(Boolean)
    .join(" · ");
}

/** @param {Plugin} plugin */
function underWay(plugin) {
  const count = plugin.in_flight + plugin.queued;
  return count === 0 ? "" : ` ${count === 1 ? "One run is" : `${count} runs are`} under way and will not end well.`;
}
