/** The instances of a plugin that has several: a table with a row each. */

/** @import { Instance, Plugin } from "./types.js" */

import { h } from "./dom.js";
import { bytes, hasEnded, numberIn, seconds, stateOf } from "./format.js";
import { live } from "./live.js";

const COLUMNS = ["Instance", "State", "Version", "Up", "Runs now", "Memory", "GPU"];

/** @param {string} name */
export function instancesTable(name) {
  const body = h("tbody");
  const element = h(
    "section",
    { class: "instances", hidden: true },
    h("h2", {}, "Instances"),
    h(
      "div",
      { class: "scroller", tabindex: 0, role: "region", "aria-label": `Instances of ${name}` },
      h("table", {}, h("thead", {}, h("tr", {}, ...COLUMNS.map((column) => h("th", { scope: "col" }, column)))), body),
    ),
  );
  let shown = "";
  return {
    element,
    /** @param {Plugin} plugin */
    show(plugin) {
      element.hidden = plugin.instances.length < 2; // a single one is what the rest of the page shows
      if (element.hidden) return;
      const rows = plugin.instances.map((instance) => cellsOf(instance, live.since(plugin)));
      const now = JSON.stringify([rows, plugin.instances.map((instance) => instance.reason)]);
      if (now === shown) return;
      shown = now;
      body.replaceChildren(...plugin.instances.flatMap((instance, index) => rowsOf(instance, rows[index] ?? [])));
    },
  };
}

/** @param {Instance} instance @param {number} since seconds since it was reported */
function cellsOf(instance, since) {
  const up = instance.uptime_seconds;
  const memory = numberIn(instance.container, "memory_usage_bytes");
  return [
    instance.version,
    up === null ? "—" : hasEnded(instance) ? `was up ${seconds(up)}` : seconds(up + since),
    String(instance.in_flight),
    memory === null || hasEnded(instance) ? "—" : bytes(memory),
    instance.gpus.map((gpu) => String(gpu.index ?? gpu.uuid)).join(", ") || "—",
  ];
}

/** Its row, and below it why it ended. @param {Instance} instance @param {string[]} cells */
function rowsOf(instance, cells) {
  const row = h(
    "tr",
    {},
    h("th", { scope: "row", class: "number" }, String(instance.generation)),
    h(
      "td",
      {},
      h("span", { class: "badge small", "data-state": stateOf(instance) }, stateOf(instance)),
      instance.role !== "serving" && h("span", { class: "sub" }, ` ${instance.role}`),
    ),
    ...cells.map((text) => h("td", { class: "number" }, text)),
  );
  if (instance.reason === null) return [row];
  row.className = "with-reason";
  const why = h("td", { colspan: COLUMNS.length }, h("strong", { class: "code" }, instance.reason_code), " ");
  why.append(instance.reason);
  return [row, h("tr", { class: "why" }, why)];
}
