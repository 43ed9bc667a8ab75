/** One run of a tool: sends it, reports its progress, cancels it. */

/** @import { Envelope, Run, StreamEvent, Tool } from "./types.js" */
/** @typedef {ReturnType<typeof import("./result_view.js").resultView>} ResultView */

import { ApiError, json, lines, pluginPath, request } from "./api.js";
import { seconds } from "./format.js";

const POLL_INTERVAL = 1000; // milliseconds

/**
 * Starts the run at once. `ended` is fulfilled when its result is shown completely, whatever it is.
 * @param {string} plugin
 * @param {Tool} tool
 * @param {{ headers: Record<string, string>, body: string | FormData }} sent
 * @param {ResultView} result
 * @param {(text: string) => void} report called with the state of the run
 */
export function toolRun(plugin, tool, sent, result, report) {
  const id = newRunId();
  const path = `/v1/runs/${id}`;
  const leaving = new AbortController();
  const started = Date.now();

  async function send() {
    const response = await request(pluginPath(plugin, `tools/${encodeURIComponent(tool.name)}/run`), {
      method: "POST",
      body: sent.body,
      headers: {
        ...sent.headers,
        "X-Run-Id": id,
        Accept: "application/x-ndjson, application/json", // a stream has heartbeats, and no proxy ends it
      },
      signal: leaving.signal,
    });
    if (response.headers.get("Content-Type")?.startsWith("application/x-ndjson")) await readStream(response);
    else result.end(/** @type {Envelope} */ (await response.json()));
  }

  /** @param {Response} response */
  async function readStream(response) {
    for await (const line of lines(response)) {
      if (!line) continue;
      /** @type {StreamEvent} */
      const event = JSON.parse(line);
      if (event.event === "progress") result.progress(event.fraction, event.message ?? "");
      else if (event.event === "item") result.item(event.data, id);
      else if (event.event === "end") return result.end(event);
    }
    return result.fail("The response ended too early.");
  }

  /** Reports the state of the run until `over`. @param {AbortSignal} over */
  async function watch(over) {
    while (!over.aborted) {
      const took = seconds((Date.now() - started) / 1000);
      try {
        /** @type {Run} */
        const run = await json(path, { signal: over });
        report(run.state === "queued" ? `waiting for ${took}, number ${run.queue_position}` : `running for ${took}`);
      } catch (error) {
        if (over.aborted) return;
        const unknown = error instanceof ApiError && error.status === 404;
        report(unknown ? `sending for ${took}` : `running for ${took}`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL));
    }
  }

  async function carryOut() {
    const over = new AbortController();
    report("sending");
    const watching = setTimeout(() => void watch(over.signal), POLL_INTERVAL); // most runs end before that
    try {
      await send();
    } catch (error) {
      if (leaving.signal.aborted) result.fail("The run was cancelled before its request was sent completely.");
      else result.fail(error instanceof ApiError ? error.message : "The connection was lost during the response.");
    } finally {
      clearTimeout(watching);
      over.abort();
      report("");
    }
  }

  return {
    ended: carryOut(),
    /** Cancels the run; its response reports that. A run that the orchestrator does not know yet is still being sent. */
    async cancel() {
      report("cancelling");
      try {
        await json(path, { method: "DELETE" });
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) leaving.abort();
        else report(error instanceof Error ? error.message : String(error));
      }
    },
    /** Stops waiting for the result. */
    leave: () => leaving.abort(),
  };
}

/** 32 hexadecimal digits. */
function newRunId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
