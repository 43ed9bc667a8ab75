/** The view of one plugin: its head with the operator's commands, and the tab that the address names. */

/** @import { Plugin, PluginDetail } from "./types.js" */

import { json, pluginPath } from "./api.js";
import { confirm, notice } from "./dialogs.js";
import { h, setAttribute, setText } from "./dom.js";
import { hasEnded, reasonOf, replicasOf, seconds } from "./format.js";
import { live } from "./live.js";
import { logsTab } from "./logs_tab.js";
import { overviewTab } from "./overview_tab.js";
import { toolsTab } from "./tools_tab.js";
import { badge } from "./widgets.js";

/** The operator's commands. `warning` is shown for confirmation. @type {Record<string, { label: string, warning: (plugin: Plugin) => string, done: string }>} */
const COMMANDS = {
  restart: {
    label: "Restart",
    warning: (plugin) =>
      plugin.replicas.wanted > 1
        ? `Its ${plugin.replicas.wanted} instances are replaced by new ones.${runsLost(plugin)}`
        : `Once everything for a new container is there, this one is stopped and the new one started.${runsLost(plugin)}`,
    done: "A new instance is on its way.",
  },
  start: {
    label: "Start",
    warning: () => "A new instance is started from the manifest as it is now.",
    done: "A new instance is starting.",
  },
  stop: {
    label: "Stop",
    warning: (plugin) =>
      `${plugin.replicas.wanted > 1 ? "All its containers are" : "Its container is"} stopped and the plugin takes no runs until somebody starts it.${runsLost(plugin)}`,
    done: "It is stopped.",
  },
};

const TABS = { "": "Overview", tools: "Tools", logs: "Logs" };

/** @param {string} name @param {string} tab */
export function pluginView(name, tab) {
  const state = badge();
  const heading = h("h1", { tabindex: -1 }, name);
  const [description, meta] = [h("p", { class: "sub" }), h("p", { class: "meta" })];
  const reason = h("p", { class: "reason" });
  const message = notice();
  const buttons = Object.entries(COMMANDS).map(([command, { label }]) => {
    const button = h("button", { type: "button", onclick: () => void carryOut(command) }, label);
    return { command, button };
  });
  const unknown = h("p", { class: "empty" }, "No plugin of this name.");
  const shown = tab === "tools" || tab === "logs" ? tab : "";
  const opened = shown === "tools" ? toolsTab(name) : shown === "logs" ? logsTab(name) : overviewTab(name);
  const here = `#/plugins/${encodeURIComponent(name)}`;
  const tabs = h(
    "nav",
    { class: "tabs", "aria-label": `Sections of ${name}` },
    h(
      "ul",
      {},
      ...Object.entries(TABS).map(([path, label]) =>
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
    message.element,
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
    const { state: reasonState, code, text } = reasonOf(plugin);
    setAttribute(reason, "data-state", reasonState);
    state.show(plugin.state);
    setText(description, plugin.description);
    setText(meta, metaOf(plugin));
    reason.hidden = text === "";
    if (reason.dataset["text"] !== text) {
      reason.dataset["text"] = text;
      reason.replaceChildren(h("strong", { class: "code" }, code), " ", text);
    }
    const ended = hasEnded(plugin);
    for (const { command, button } of buttons) {
      button.hidden = command === "start" ? !ended : command === "stop" && ended;
    }
  }

  /** @param {string} command */
  async function carryOut(command) {
    const plugin = live.get(name);
    const chosen = COMMANDS[command];
    if (!plugin || !chosen) return;
    if (!(await confirm(`${chosen.label} ${name}?`, chosen.warning(plugin), chosen.label))) return;
    message.show(`${chosen.label}: requested…`, "good");
    try {
      /** @type {PluginDetail} */
      const detail = await json(pluginPath(name, command), { method: "POST" });
      live.update(detail);
      message.show(chosen.done, "good");
    } catch (error) {
      message.show(error instanceof Error ? error.message : String(error));
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
    replicasOf(plugin) || `instance ${plugin.generation}`,
    up !== null && `${hasEnded(plugin) ? "was up" : "up"} ${seconds(up)}`,
    plugin.stale && "last known state: the engine does not answer",
  ]
    .filter(Boolean)
    .join(" · ");
}

/** @param {Plugin} plugin */
function runsLost(plugin) {
  const count = plugin.in_flight + plugin.queued;
  return count === 0 ? "" : ` ${count === 1 ? "One run is" : `${count} runs are`} under way and will fail.`;
}
