/** Runs, newest first: the view for all plugins, the table for one. */

/** @import { Run } from "./types.js" */

import { json } from "./api.js";
import { confirm, notice } from "./dialogs.js";
import { h, timeOf } from "./dom.js";
import { milliseconds } from "./format.js";
import { poll } from "./polling.js";
import { whyKeyMayNot } from "./refusals.js";

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
 * @param {string | null} plugin null for all
 * @param {number} limit
 */
export function runsTable(plugin, limit) {
  const message = notice();
  const body = h("tbody");
  const columns = ["Outcome", ...(plugin ? [] : ["Plugin"]), "Tool", "Time", "Accepted", "Run"];
  const table = h(
    "table",
    {},
    h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name)))),
    body,
  );
  const scroller = h(
    "div",
    { class: "scroller", tabindex: 0, role: "region", "aria-label": plugin ? `Runs of ${plugin}` : "Runs" },
    table,
  );
  const empty = h("p", { class: "empty" }, "Loading…");
  scroller.hidden = true;
  /** The rows by run id, each with the JSON that it shows. @type {Map<string, { json: string, element: HTMLElement }>} */
  let rows = new Map();

  /** Updates the table. Unchanged rows stay as they are, and the focused one stays focused. @param {Run[]} runs */
  function show(runs) {
    const before = rows;
    rows = new Map();
    runs.forEach((run, index) => {
      const text = JSON.stringify(run);
      const known = before.get(run.run_id);
      const element = known?.json === text ? known.element : row(run, plugin === null, message);
      const focused = known && known.element !== element && known.element.contains(document.activeElement);
      if (body.children[index] !== element) body.insertBefore(element, body.children[index] ?? null);
      if (focused) element.querySelector("button")?.focus();
      rows.set(run.run_id, { json: text, element });
    });
    while (body.childElementCount > runs.length) body.lastElementChild?.remove();
    scroller.hidden = runs.length === 0;
    empty.hidden = runs.length > 0;
    empty.textContent = "No run yet.";
  }

  const close = poll(2000, async (signal) => {
    const of = plugin ? `&plugin=${encodeURIComponent(plugin)}` : "";
    try {
      show(await json(`/v1/runs?limit=${limit}${of}`, { signal }));
    } catch (error) {
      if (signal.aborted) return;
      scroller.hidden = true;
      empty.hidden = false;
      empty.textContent = error instanceof Error ? error.message : String(error);
    }
  });
  return { element: h("div", {}, message.element, scroller, empty), close };
}

/**
 * @param {Run} run
 * @param {boolean} withPlugin
 * @param {ReturnType<typeof notice>} message
 */
function row(run, withPlugin, message) {
  const open = run.state === "queued" || run.state === "running";
  const label = run.cancel_requested ? "Cancelling…" : "Cancel";
  const why = whyKeyMayNot("run");
  const stop = {
    type: "button",
    class: "small",
    disabled: run.cancel_requested || why !== "",
    title: why || null,
    onclick: () => void cancel(run, message),
  };
  return h(
    "tr",
    {},
    h(
      "td",
      {},
      h("span", { class: "outcome", "data-outcome": outcomeKind(run) }, outcome(run)),
      open && " ",
      open && h("button", stop, label),
    ),
    withPlugin && h("td", {}, h("a", { href: `#/plugins/${encodeURIComponent(run.plugin)}` }, run.plugin)),
    h("td", {}, run.tool),
    h("td", { class: "number" }, run.execution_time_ms === null ? "—" : milliseconds(run.execution_time_ms)),
    h("td", {}, timeOf(run.accepted_at)),
    h("td", {}, h("code", {}, run.run_id.slice(0, 8))),
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
  return run.reason_code ?? (run.outcome ?? run.state).replaceAll("_", " ");
}

/** @param {Run} run @param {ReturnType<typeof notice>} message */
async function cancel(run, message) {
  const sure = await confirm(
    "Cancel this run?",
    `${run.plugin} / ${run.tool}, run ${run.run_id.slice(0, 8)}. Its caller gets no result.`,
    "Cancel the run",
  );
  if (!sure) return;
  try {
    await json(`/v1/runs/${encodeURIComponent(run.run_id)}`, { method: "DELETE" });
    message.show("The run is being cancelled.", "good");
  } catch (error) {
    message.show(error instanceof Error ? error.message : String(error));
  }
}
