/** The HTTP API: every request of the page goes through here, with the API key if there is one. */

/** @import { Envelope } from "./types.js" */

const KEY = "orchestrator-api-key";

/** A response other than success. `status` 0: no response at all. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** @type {((why: string) => void) | null} */
let keyListener = null;

/** Calls `listener` for every response that says that the key is missing or wrong. @param {(why: string) => void} listener */
export function onKeyRefused(listener) {
  keyListener = listener;
}

/** Stored until the tab is closed. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  /** @param {string} value */
  set(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
    refused = null;
  },
};

/** The key that was refused last. It is not sent again for a while: repeated, it would count as guessing. @type {{ key: string, until: number, why: string } | null} */
let refused = null;
const REFUSED_FOR = 15_000; // milliseconds

/** Where a path of the API is for this page: below the page's own address, which a proxy may have put elsewhere. @param {string} path */
export const urlOf = (path) => (path.startsWith("/") ? `.${path}` : path);

/**
 * The response, whatever its status. Raises `ApiError` for 401, 403 and no response.
 * @param {string} path
 * @param {RequestInit & { headers?: Record<string, string> }} [options]
 */
export async function request(path, options = {}) {
  const sent = key.get();
  if (refused && refused.key === sent && Date.now() < refused.until) throw new ApiError(401, refused.why);
  const headers = { ...(sent && { Authorization: `Bearer ${sent}` }), ...options.headers };
  let response;
  try {
    response = await fetch(urlOf(path), { cache: "no-store", ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "The orchestrator does not answer.");
  }
  if (response.status === 401) {
    const why = keySentence(await envelope(response));
    if (sent === key.get()) {
      refused = { key: sent, until: Date.now() + REFUSED_FOR, why };
      keyListener?.(why);
    }
    throw new ApiError(401, why);
  }
  if (response.status === 403) throw await failure(response);
  return response;
}

/**
 * The response's JSON. Raises `ApiError` for any status but success, with the server's own sentence.
 * @param {string} path
 * @param {RequestInit & { headers?: Record<string, string> }} [options]
 * @returns {Promise<any>}
 */
export async function json(path, options) {
  const response = await request(path, options);
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** The error of a response other than success. @param {Response} response */
export async function failure(response) {
  const detail = (await envelope(response))?.error;
  return new ApiError(response.status, detail ?? `The orchestrator answered ${response.status}.`);
}

/**
 * The path of a plugin's route. @param {string} name @param {string} route
 */
export const pluginPath = (name, route) => `/v1/plugins/${encodeURIComponent(name)}/${route}`;

/**
 * The lines of a body as they arrive, without line ends.
 * @param {Response} response
 * @returns {AsyncGenerator<string, void, void>}
 */
export async function* lines(response) {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  /** @type {string[]} */
  let pending = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const pieces = value.split("\n");
      const last = pieces.pop() ?? "";
      for (const piece of pieces) {
        yield [...pending, piece].join("").replace(/\r$/, "");
        pending = [];
      }
      pending.push(last);
    }
    if (pending.join("")) yield pending.join("");
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/**
 * Server-sent events. Parsed here, since an EventSource cannot send a key.
 * @param {Response} response
 * @returns {AsyncGenerator<{ event: string, id: string, data: string }, void, void>}
 */
export async function* serverEvents(response) {
  let event = "message";
  let id = "";
  /** @type {string[]} */
  let data = [];
  for await (const line of lines(response)) {
    if (line === "") {
      if (data.length) yield { event, id, data: data.join("\n") };
      event = "message";
      data = [];
      continue;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") event = value;
    else if (field === "data") data.push(value);
    else if (field === "id") id = value;
    else if (field === "") yield { event: "comment", id, data: value };
  }
}

/** Why a key is required, without the advice for those who write requests by hand. @param {Envelope | null} refusal */
function keySentence(refusal) {
  const [first = ""] = (refusal?.error ?? "").split(/(?<=[.:]) /);
  if (refusal?.error_type === "KeyRefused") return first;
  return key.get() || first.startsWith("An API key is required")
    ? "This orchestrator requires an API key."
    : (refusal?.error ?? "");
}

/** @param {Response} response @returns {Promise<Envelope | null>} */
async function envelope(response) {
  try {
    return await response.json();
  } catch {
    return null;
  }
}
