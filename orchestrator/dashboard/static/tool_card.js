/** One tool: its form, the run that was started from it, what came of it. */

/** @import { Envelope, StreamEvent, Tool } from "./types.js" */

import { ApiError, json, lines, pluginPath, request } from "./api.js";
import { h, setText, uniqueId } from "./dom.js";
import { seconds } from "./format.js";
import { picture } from "./picture.js";
import { resultView } from "./result_view.js";
import { FieldError, schemaForm } from "./schema_form.js";

const MANY = 2000; // characters of a description

/** @param {string} plugin @param {Tool} tool */
export function toolCard(plugin, tool) {
  const id = uniqueId("tool");
  const result = resultView();
  /** @type {Map<string, NonNullable<ReturnType<typeof picture>>>} */
  const pictures = new Map();
  const shown = h("div", { class: "pictures" });
  const inOrder = () => Object.keys(tool.uploads).flatMap((name) => pictures.get(name) ?? []);
  const form = schemaForm(tool, (name, file) => {
    pictures.get(name)?.close();
    const chosen = file && picture(file, `${name}: ${file.name}`);
    if (chosen) pictures.set(name, chosen);
    else pictures.delete(name);
    shown.replaceChildren(...inOrder().map((each) => each.element));
    result.clear();
  });
  const run = h("button", { type: "submit", class: "primary" }, "Run");
  const cancel = h("button", { type: "button", onclick: () => void giveUp() }, "Cancel");
  const clock = h("span", { class: "sub" });
  const wrong = h("p", { class: "notice", role: "alert", "data-kind": "bad" });
  const element = h(
    "article",
    { class: "card tool", "aria-labelledby": id },
    h("h2", { id }, tool.name, tool.streaming && h("span", { class: "tag" }, "streams")),
    tool.description && h("p", { class: "sub" }, tool.description.slice(0, MANY)),
    h(
      "form",
      {
        novalidate: true,
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          void start();
        },
      },
      form.element,
      wrong,
      h("div", { class: "actions left" }, run, cancel, clock),
    ),
    shown,
    result.element,
  );
  cancel.hidden = wrong.hidden = true;
  /** @type {AbortController | null} */
  let running = null;
  let runId = "";

  async function start() {
    let sent;
    wrong.hidden = true;
    try {
      sent = form.body();
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      wrong.hidden = false;
      setText(wrong, error.message);
      return;
    }
    const mine = (running = new AbortController());
    runId = "";
    busy(true);
    const began = Date.now();
    const tick = setInterval(() => setText(clock, `running for ${seconds((Date.now() - began) / 1000)}`), 1000);
    setText(clock, "running");
    for (const each of pictures.values()) each.reset();
    result.begin(inOrder().at(-1) ?? null);
    try {
      const response = await request(pluginPath(plugin, `tools/${encodeURIComponent(tool.name)}/run`), {
        method: "POST",
        ...sent,
        headers: { ...sent.headers, Accept: tool.streaming ? "application/x-ndjson" : "application/json" },
        signal: mine.signal,
      });
      runId = response.headers.get("X-Run-Id") ?? "";
      if (response.headers.get("Content-Type")?.startsWith("application/x-ndjson")) await readStream(response);
      else result.end(/** @type {Envelope} */ (await response.json()));
    } catch (error) {
      if (mine.signal.aborted) result.fail("Nobody waits for the result any more.");
      else result.fail(error instanceof ApiError ? error.message : "The answer broke off.");
    } finally {
      clearInterval(tick);
      setText(clock, "");
      busy(false);
      if (running === mine) running = null;
    }
  }

  /** @param {Response} response */
  async function readStream(response) {
    for await (const line of lines(response)) {
      if (!line) continue;
      /** @type {StreamEvent} */
      const event = JSON.parse(line);
      if (event.event === "progress") result.progress(event.fraction, event.message ?? "");
      else if (event.event === "item") result.item(event.data);
      else {
        result.end(event);
        return;
      }
    }
    result.fail("The answer broke off before its end.");
  }

  /** Where the orchestrator lets runs be cancelled, this one is; else it goes on unseen. */
  async function giveUp() {
    const stopped = running;
    if (runId) await json(`/v1/runs/${encodeURIComponent(runId)}`, { method: "DELETE" }).catch(() => null);
    else stopped?.abort();
    if (runId) setTimeout(() => stopped === running && stopped?.abort(), 3000);
  }

  /** @param {boolean} now */
  function busy(now) {
    run.disabled = now;
    cancel.hidden = !now;
    element.setAttribute("aria-busy", String(now));
  }

  const close = () => {
    running?.abort();
    result.close();
    for (const each of pictures.values()) each.close();
  };
  return { element, close };
}
