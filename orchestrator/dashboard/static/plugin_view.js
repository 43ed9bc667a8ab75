/** The view of one plugin: its head with the operator's commands, and the tab that the address names. */

/** @import { Plugin } from "./types.js" */

import { json, pluginPath } from "./api.js";
import { confirm, notice } from "./dialogs.js";
import { h, setAttribute, setText, uniqueId } from "./dom.js";
import { hasEnded, reasonOf, replicasOf, seconds, startEstimateOf, stateOf } from "./format.js";
import { live } from "./live.js";
import { logsTab } from "./logs_tab.js";
import { overviewTab } from "./overview_tab.js";
import { whyItWaits, whyKeyMayNot } from "./refusals.js";
import { toolsTab } from "./tools_tab.js";
import { updatePanel } from "./update_panel.js";
import { badge } from "./widgets.js";

const MAX_REPLICAS = 64;

/**
 * An operator's command. `warning` is shown for confirmation; `offered`: whether the plugin has a use for it.
 * @typedef {{ label: string, path?: string, warning: (plugin: Plugin) => string, done: string, offered: (plugin: Plugin) => boolean }} Command
 */

/** @type {Record<string, Command>} */
const COMMANDS = {
  update: {
    label: "Update",
    warning: () =>
      "A candidate is made from its folder as it is now and makes its sample calls; then it takes all new runs. One that fails is rejected, and the plugin stays what it was.",
    done: "The update has begun.",
    offered: () => true,
  },
  revert: {
    label: "Revert",
    warning: () => "It goes back to its former release, image and manifest, and stays there until the next update.",
    done: "The revert has begun.",
    offered: () => true,
  },
  "restart-failed": {
    label: "Restart only failed",
    path: "restart?only=failed",
    warning: () => "New instances start in place of those that ended. The others go on.",
    done: "New instances are on their way.",
    offered: (plugin) => !hasEnded(plugin) && plugin.instances.some(hasEnded),
  },
  restart: {
    label: "Restart",
    warning: (plugin) =>
      plugin.replicas.wanted > 1
        ? `Its ${plugin.replicas.wanted} instances are replaced by new ones.${runsLost(plugin)}`
        : `Once everything for a new container is there, this one is stopped and the new one started.${runsLost(plugin)}`,
    done: "A new instance is on its way.",
    offered: () => true,
  },
  start: {
    label: "Start",
    warning: () => "A new instance is started from the manifest as it is now.",
    done: "A new instance is starting.",
    offered: hasEnded,
  },
  park: {
    label: "Park",
    warning: () => "Its instances are stopped, and their GPUs are free, until its next run, which starts new ones.",
    done: "It is parked.",
    offered: (plugin) => !hasEnded(plugin),
  },
  stop: {
    label: "Stop",
    warning: (plugin) =>
      `${plugin.replicas.wanted > 1 ? "All its containers are" : "Its container is"} stopped and the plugin takes no runs until somebody starts it.${runsLost(plugin)}`,
    done: "It is stopped.",
    offered: (plugin) => !hasEnded(plugin) || stateOf(plugin) === "PARKED",
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
  const buttons = Object.entries(COMMANDS).map(([id, command]) => {
    const onclick = () => void carryOut(command, command.path ?? id);
    return { id, command, button: h("button", { type: "button", onclick }, command.label) };
  });
  const scale = scaleForm((replicas) => {
    const command = {
      label: "Scale",
      warning: (/** @type {Plugin} */ plugin) => scaleWarning(plugin, replicas),
      done: `It is to have ${replicas === 1 ? "one instance" : `${replicas} instances`} at a time.`,
      offered: () => true,
    };
    return carryOut(command, "scale", { replicas });
  });
  const whyNotId = uniqueId("why-not");
  const whyNot = h("p", { class: "sub why-not", id: whyNotId });
  const unknown = h("p", { class: "empty" }, "No plugin of this name.");
  const shown = tab === "tools" || tab === "logs" ? tab : "";
  const opened = shown === "tools" ? toolsTab(name) : shown === "logs" ? logsTab(name) : overviewTab(name);
  const updates = updatePanel(name, shown === "", update);
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
      h("div", { class: "actions" }, scale.element, ...buttons.map(({ button }) => button)),
    ),
    description,
    meta,
    whyNot,
    reason,
    message.element,
    updates.element,
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
      scale.element.hidden = reason.hidden = whyNot.hidden = true;
      return;
    }
    setAttribute(element, "data-state", stateOf(plugin));
    const { state: reasonState, code, text } = reasonOf(plugin);
    setAttribute(reason, "data-state", reasonState);
    state.show(plugin);
    setText(description, plugin.description);
    setText(meta, metaOf(plugin));
    reason.hidden = text === "";
    if (reason.dataset["text"] !== text) {
      reason.dataset["text"] = text;
      reason.replaceChildren(h("strong", { class: "code" }, code), " ", text);
    }
    const refused = whyKeyMayNot("operate");
    const why = refused || whyItWaits(updates.underWay());
    whyNot.hidden = why === "";
    setText(whyNot, why);
    scale.element.hidden = false;
    scale.show(plugin.replicas.wanted, why === "" ? null : whyNotId);
    for (const { id, command, button } of buttons) {
      button.hidden = !command.offered(plugin) || (id === "revert" && updates.revertsTo() === null);
      // A stop ends an update.
      button.disabled = id === "stop" ? refused !== "" : why !== "";
      setAttribute(button, "aria-describedby", button.disabled ? whyNotId : null);
    }
  }

  /** Whether it was carried out. @param {Command} command @param {string} path @param {unknown} [body] */
  async function carryOut(command, path, body) {
    const plugin = live.get(name);
    if (!plugin || !(await confirm(`${command.label} ${name}?`, command.warning(plugin), command.label))) return false;
    message.show(`${command.label}: requested…`, "good");
    try {
      const headers = { "Content-Type": "application/json" };
      const sent = body === undefined ? {} : { headers, body: JSON.stringify(body) };
      const answer = await json(pluginPath(name, path), { method: "POST", ...sent });
      if ("step_times" in answer) updates.begin(answer);
      else live.update(answer);
      message.show(command.done, "good");
      return true;
    } catch (error) {
      message.show(error instanceof Error ? error.message : String(error));
      return false;
    }
  }

  const unwatch = live.watch(update);
  const close = () => {
    unwatch();
    updates.close();
    opened.close();
  };
  return { element, heading, title: name, close };
}

/** @param {Plugin} plugin */
function metaOf(plugin) {
  const up = live.uptime(plugin);
  const { wanted, in_manifest: own } = plugin.replicas;
  return [
    plugin.version && `v${plugin.version}`,
    replicasOf(plugin) || `instance ${plugin.generation}`,
    wanted !== own && `the manifest says ${own}`,
    plugin.parked_since && `parked since ${new Date(plugin.parked_since).toLocaleString()}`,
    startEstimateOf(plugin),
    up !== null && `${hasEnded(plugin) ? "was up" : "up"} ${seconds(up)}`,
    plugin.stale && "last known state: the engine does not answer",
  ]
    .filter(Boolean)
    .join(" · ");
}

/** A field for the number of instances. @param {(replicas: number) => Promise<boolean>} carryOut */
function scaleForm(carryOut) {
  const id = uniqueId("replicas");
  let wanted = 1;
  let edited = false;
  const input = h("input", {
    id,
    type: "number",
    min: 1,
    max: MAX_REPLICAS,
    required: true,
    oninput: () => change(true),
  });
  const button = h("button", { type: "submit", disabled: true }, "Scale");
  const element = h("form", { class: "scale" }, h("label", { for: id }, "Instances"), input, button);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await carryOut(input.valueAsNumber)) change(false);
  });

  /** @param {boolean} byUser */
  function change(byUser) {
    edited = byUser && input.value !== String(wanted);
    button.disabled = !edited;
  }
  return {
    element,
    /** @param {number} replicas those that are wanted now @param {string | null} whyNotId of what says why it cannot be changed */
    show(replicas, whyNotId) {
      wanted = replicas;
      if (!edited) input.value = String(replicas);
      input.disabled = whyNotId !== null;
      button.disabled = !edited || input.disabled;
      setAttribute(input, "aria-describedby", whyNotId);
      setAttribute(button, "aria-describedby", whyNotId);
    },
  };
}

/** @param {Plugin} plugin @param {number} replicas */
function scaleWarning(plugin, replicas) {
  const [now, then] = [plugin.replicas.wanted, `${replicas} at a time, in place of ${plugin.replicas.wanted}.`];
  if (hasEnded(plugin)) return `${then} That counts from its next start on.`;
  return replicas > now
    ? `${then} New ones start from what the others were made from.`
    : `${then} The least busy take no new runs, and end when those under way have ended.`;
}

/** @param {Plugin} plugin */
function runsLost(plugin) {
  const count = plugin.in_flight + plugin.queued;
  return count === 0 ? "" : ` ${count === 1 ? "One run is" : `${count} runs are`} under way and will fail.`;
}
