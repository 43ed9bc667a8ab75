/** One run of a tool: sent, watched while it waits and executes, cancelled on demand. */

/** @import { Envelope, Run, StreamEvent, Tool } from "./types.js" */
/** @typedef {ReturnType<typeof import("./result_view.js").resultView>} ResultView */

import { ApiError, json, lines, pluginPath, request } from "./api.js";
import { seconds } from "./format.js";

const LOOK = 1000; // milliseconds between looks how far it is

/**
 * Begins at once. `ended` is fulfilled when all of its result is shown, whatever it is.
 * @param {string} plugin
 * @param {Tool} tool
 * @param {{ headers: Record<string, string>, body: string | FormData }} sent
 * @param {ResultView} result
 * @param {(text: string) => void} tell takes how far it is
 */
export function toolRun(plugin, tool, sent, result, tell) {
  const id = newRunId();
  const path = `/v1/runs/${id}`;
  const ending = new AbortController();
  const began = Date.now();

  async function send() {
    const response = await request(pluginPath(plugin, `tools/${encodeURIComponent(tool.name)}/run`), {
      method: "POST",
      body: sent.body,
      headers: {
        ...sent.headers,
        "X-Run-Id": id,
        Accept: tool.streaming ? "application/x-ndjson" : "application/json",
      },
      signal: ending.signal,
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
      else if (event.event === "item") result.item(event.data);
      else return result.end(event);
    }
    return result.fail("The answer broke off before its end.");
  }

  /** Says again and again where it is, until `over`. @param {AbortSignal} over */
  async function watch(over) {
    while (!over.aborted) {
      const took = seconds((Date.now() - began) / 1000);
      try {
        /** @type {Run} */
        const run = await json(path, { signal: over });
        tell(run.state === "queued" ? `waiting for ${took}, number ${run.queue_position}` : `running for ${took}`);
      } catch (error) {
        if (over.aborted) return;
        const unknown = error instanceof ApiError && error.status === 404;
        tell(unknown ? `sending for ${took}` : `running for ${took}`);
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK));
    }
  }

  async function carryOut() {
    const over = new AbortController();
    tell("sending");
    const looks = setTimeout(() => void watch(over.signal), LOOK); // most runs end before that
    try {
      await send();
    } catch (error) {
      if (ending.signal.aborted) result.fail("It was not sent to its end.");
      else result.fail(error instanceof ApiError ? error.message : "The answer broke off.");
    } finally {
      clearTimeout(looks);
      over.abort();
      tell("");
    }
  }

  return {
    ended: carryOut(),
    /** The orchestrator ends it and answers so; a run that it does not know yet is still being sent. */
    async cancel() {
      tell("cancelling");
      try {
        await json(path, { method: "DELETE" });
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) ending.abort();
        else tell(error instanceof Error ? error.message : String(error));
      }
    },
    /** Nobody waits for it any more. */
    leave: () => ending.abort(),
  };
}

/** 32 hexadecimal digits. */
function newRunId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
