/** The view of all plugins: one row each, which later updates reuse. */

/** @import { Plugin, ShownState } from "./types.js" */

import { h, setAttribute, setText } from "./dom.js";
import { hasEnded, milliseconds, reasonOf, replicasOf, seconds, startEstimateOf, stateOf } from "./format.js";
import { live } from "./live.js";
import { badge, bar, gpuMemoryOf, memoryOf, sparkline } from "./widgets.js";

/** @type {ShownState[]} */
const STATES = ["RUNNING", "INITIALIZED", "LOADED", "PARKED", "FAILED", "UNAVAILABLE"];

export function pluginsView() {
  /** @type {Map<string, ReturnType<typeof row>>} */
  const rows = new Map();
  /** @type {ShownState | null} */
  let only = null;
  const list = h("ul", { class: "plugins" });
  const nothing = h("p", { class: "empty" });
  const search = h("input", {
    type: "search",
    "aria-label": "Filter plugins by name",
    placeholder: "Filter by name",
    oninput: update,
  });
  const filters = STATES.map((state) => {
    const count = h("span", { class: "count" });
    const button = h(
      "button",
      {
        type: "button",
        class: "filter",
        "data-state": state,
        "aria-pressed": "false",
        onclick: () => {
          only = only === state ? null : state;
          update();
        },
      },
      count,
      " ",
      state,
    );
    return { state, count, button };
  });
  const heading = h("h1", { tabindex: -1 }, "Plugins");
  const element = h(
    "div",
    {},
    h("div", { class: "view-head" }, heading, search),
    h(
      "div",
      { class: "filters", role: "group", "aria-label": "Show only one state" },
      ...filters.map(({ button }) => button),
    ),
    list,
    nothing,
  );

  function update() {
    const plugins = live.list();
    for (const { state, count, button } of filters) {
      const number = plugins.filter((plugin) => stateOf(plugin) === state).length;
      setText(count, String(number));
      setAttribute(button, "aria-pressed", String(only === state));
      button.hidden = number === 0 && only !== state;
    }
    const filter = search.value.trim().toLowerCase();
    const shown = plugins.filter(
      (plugin) => (!only || stateOf(plugin) === only) && plugin.name.toLowerCase().includes(filter),
    );
    showRows(shown);
    nothing.hidden = shown.length > 0;
    setText(nothing, emptyText(plugins.length));
  }

  /** @param {Plugin[]} shown */
  function showRows(shown) {
    const names = new Set(shown.map((plugin) => plugin.name));
    for (const [name, { element: old }] of rows) {
      if (!names.has(name)) {
        old.remove();
        rows.delete(name);
      }
    }
    shown.forEach((plugin, index) => {
      const found = rows.get(plugin.name) ?? row(plugin.name);
      rows.set(plugin.name, found);
      found.show(plugin);
      if (list.children[index] !== found.element) list.insertBefore(found.element, list.children[index] ?? null);
    });
  }

  const close = live.watch(update);
  return { element, heading, title: "Plugins", close };
}

/** @param {number} count */
function emptyText(count) {
  if (!live.known()) return live.status().problem ?? "Loading…";
  if (count > 0) return "No plugin matches the filter.";
  return "No plugins yet. Create one with “orchestrator new NAME”, then run “orchestrator start NAME”.";
}

/** @param {string} name */
function row(name) {
  const state = badge();
  const memory = bar(`Memory of ${name}`);
  const gpu = bar(`GPU memory of ${name}`);
  const latency = sparkline();
  const [version, description, runs, now, average, uptime, replicas] = [
    h("span", { class: "version" }),
    h("span"),
    h("span"),
    h("span"),
    h("span"),
    h("span"),
    h("span", { class: "version" }),
  ];
  const [errors, code, sentence] = [h("span", { class: "errors" }), h("strong", { class: "code" }), h("span")];
  const stale = h(
    "span",
    { class: "stale", title: "The engine does not answer: this is the last known state." },
    "last known",
  );
  const reason = h("p", { class: "reason" }, code, " ", sentence);
  const gpuFigure = figure("GPU memory", "gpu", gpu.element);
  const element = h(
    "li",
    { class: "plugin" },
    h(
      "div",
      { class: "who" },
      h("h2", {}, h("a", { href: `#/plugins/${encodeURIComponent(name)}` }, name)),
      h("p", { class: "description" }, description, " ", version),
    ),
    h("div", { class: "how" }, state.element, stale, replicas, h("span", { class: "uptime" }, uptime)),
    h(
      "dl",
      { class: "figures" },
      figure("Runs", "runs", h("span", { class: "big" }, runs), " ", errors, h("span", { class: "now" }, now)),
      figure("Latency", "latency", h("span", { class: "big" }, average), latency.element),
      figure("Memory", "memory", memory.element),
      gpuFigure,
    ),
    reason,
  );
  return {
    element,
    /** @param {Plugin} plugin */
    show(plugin) {
      const up = live.uptime(plugin);
      setAttribute(element, "data-state", stateOf(plugin));
      state.show(plugin);
      stale.hidden = !plugin.stale;
      setText(version, plugin.version && `v${plugin.version}`);
      setText(description, plugin.description);
      setText(runs, (plugin.success_count + plugin.error_count).toLocaleString());
      setText(errors, plugin.error_count ? `${plugin.error_count.toLocaleString()} failed` : "");
      setText(now, activity(plugin));
      setText(average, plugin.avg_execution_time_ms === null ? "—" : milliseconds(plugin.avg_execution_time_ms));
      setText(
        uptime,
        startEstimateOf(plugin) || (up === null ? "" : `${hasEnded(plugin) ? "was up" : "up"} ${seconds(up)}`),
      );
      latency.show(live.latencies(plugin.name));
      memory.show(...memoryOf(plugin));
      const gpuMemory = gpuMemoryOf(plugin);
      gpuFigure.hidden = gpuMemory === null;
      if (gpuMemory) gpu.show(...gpuMemory);
      setText(replicas, replicasOf(plugin));
      const why = reasonOf(plugin);
      reason.hidden = why.text === "";
      setAttribute(reason, "data-state", why.state);
      setText(code, why.code);
      setText(sentence, why.text);
    },
  };
}

/** @param {string} term @param {string} kind @param {...import("./dom.js").Child} value */
function figure(term, kind, ...value) {
  return h("div", { class: kind }, h("dt", {}, term), h("dd", {}, ...value));
}

/** Its runs at this moment. @param {Plugin} plugin */
function activity(plugin) {
  const counts = [];
  if (plugin.in_flight) counts.push(`${plugin.in_flight} now`);
  if (plugin.queued) counts.push(`${plugin.queued} waiting`);
  return counts.join(", ");
}
