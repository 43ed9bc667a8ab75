/** Runs, newest first: of all plugins as a view, of one as a part of its page. */

/** @import { Run } from "./types.js" */

import { json } from "./api.js";
import { confirm, notice } from "./dialogs.js";
import { h, timeOf } from "./dom.js";
import { milliseconds } from "./format.js";
import { regularly } from "./regularly.js";

export function runsView() {
  const heading = h("h1", { tabindex: -1 }, "Runs");
  const table = runsTable(null, 100);
  return {
    element: h("div", {}, h("div", { class: "view-head" }, heading), table.element),
    heading,
    title: "Runs",
    close: table.close,
  };
}

/**
 * @param {string | null} plugin of which; null for all
 * @param {number} limit
 */
export function runsTable(plugin, limit) {
  const said = notice();
  const body = h("tbody");
  const columns = ["Accepted", ...(plugin ? [] : ["Plugin"]), "Tool", "Outcome", "Time", "Run"];
  const table = h(
    "table",
    {},
    h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name)), h("td"))),
    body,
  );
  const scroller = h(
    "div",
    { class: "scroller", tabindex: 0, role: "region", "aria-label": plugin ? `Runs of ${plugin}` : "Runs" },
    table,
  );
  const empty = h("p", { class: "empty" }, "Asking the orchestrator…");
  scroller.hidden = true;
  let shown = "";

  const close = regularly(2000, async (signal) => {
    const of = plugin ? `&plugin=${encodeURIComponent(plugin)}` : "";
    try {
      /** @type {Run[]} */
      const runs = await json(`/v1/runs?limit=${limit}${of}`, { signal });
      const now = JSON.stringify(runs);
      if (now === shown) return;
      shown = now;
      body.replaceChildren(...runs.map((run) => row(run, plugin === null, said)));
      scroller.hidden = runs.length === 0;
      empty.hidden = runs.length > 0;
      empty.textContent = "No run yet.";
    } catch (error) {
      if (signal.aborted) return;
      scroller.hidden = true;
      empty.hidden = false;
      shown = "";
      empty.textContent = error instanceof Error ? error.message : String(error);
    }
  });
  return { element: h("div", {}, said.element, scroller, empty), close };
}

/**
 * @param {Run} run
 * @param {boolean} withPlugin
 * @param {ReturnType<typeof notice>} said
 */
function row(run, withPlugin, said) {
  const open = run.state === "queued" || run.state === "running";
  return h(
    "tr",
    {},
    h("td", {}, timeOf(run.accepted_at)),
    withPlugin && h("td", {}, h("a", { href: `#/plugins/${encodeURIComponent(run.plugin)}` }, run.plugin)),
    h("td", {}, run.tool),
    h("td", {}, h("span", { class: "outcome", "data-outcome": outcomeKind(run) }, outcome(run))),
    h("td", { class: "number" }, run.execution_time_ms === null ? "—" : milliseconds(run.execution_time_ms)),
    h("td", {}, h("code", { class: "run-id" }, run.run_id.slice(0, 8))),
    h(
      "td",
      {},
      open &&
        h(
          "button",
          { type: "button", class: "small", disabled: run.cancel_requested, onclick: () => void cancel(run, said) },
          run.cancel_requested ? "Cancelling…" : "Cancel",
        ),
    ),
  );
}

/** @param {Run} run */
function outcomeKind(run) {
  if (run.state === "queued" || run.state === "running") return "open";
  return run.outcome === "ok" ? "ok" : "bad";
}

/** @param {Run} run */
function outcome(run) {
  if (run.state === "queued") return run.queue_position ? `waiting, number ${run.queue_position}` : "waiting";
  if (run.state === "running") {
    const fraction = run.progress?.fraction;
    return fraction === null || fraction === undefined ? "running" : `running, ${Math.round(fraction * 100)} %`;
  }
  return [run.outcome ?? run.state, run.reason_code].filter(Boolean).join(" · ").replaceAll("_", " ");
}

/** @param {Run} run @param {ReturnType<typeof notice>} said */
async function cancel(run, said) {
  const sure = await confirm(
    "Cancel this run?",
    `${run.plugin} / ${run.tool}, run ${run.run_id.slice(0, 8)}. Its caller gets no result.`,
    "Cancel the run",
  );
  if (!sure) return;
  try {
    await json(`/v1/runs/${encodeURIComponent(run.run_id)}`, { method: "DELETE" });
    said.show("The run is being cancelled.", "good");
  } catch (error) {
    said.show(error instanceof Error ? error.message : String(error));
  }
}
