/** The tab with a plugin's tools, each with a form to run it. */

/** @import { Tool } from "./types.js" */

import { json, pluginPath } from "./api.js";
import { h } from "./dom.js";
import { live } from "./live.js";
import { toolCard } from "./tool_card.js";

/** @param {string} name */
export function toolsTab(name) {
  const element = h("section", { class: "tools", "aria-label": "Tools" }, h("p", { class: "empty" }, "Loading…"));
  const closing = new AbortController();
  /** @type {ReturnType<typeof toolCard>[]} */
  let cards = [];
  let shown = "";

  async function load() {
    try {
      /** @type {Tool[]} */
      const tools = await json(pluginPath(name, "tools"), { signal: closing.signal });
      const now = JSON.stringify(tools);
      if (now === shown) return;
      shown = now;
      cards.forEach((card) => card.close());
      cards = tools.map((tool) => toolCard(name, tool));
      const none = "The tools are not known yet: the plugin has not been ready since the orchestrator started.";
      const parked =
        live.get(name)?.reason_code === "PARKED" ? " It is parked: “Start” starts it, or its first run." : "";
      element.replaceChildren(
        ...(cards.length ? cards.map((card) => card.element) : [h("p", { class: "empty" }, none + parked)]),
      );
    } catch (error) {
      if (closing.signal.aborted) return;
      shown = "";
      element.replaceChildren(h("p", { class: "empty" }, error instanceof Error ? error.message : String(error)));
    }
  }

  let step = "";
  const unwatch = live.watch(() => {
    const plugin = live.get(name);
    const now = `${plugin?.generation} ${plugin?.state}`;
    if (now !== step) {
      step = now;
      void load();
    }
  });
  const close = () => {
    unwatch();
    closing.abort();
    cards.forEach((card) => card.close());
  };
  return { element, close };
}
