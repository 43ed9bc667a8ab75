/** Files in results: those that the orchestrator stores, and those inline in the result as base64. Pure. */

/** @import { FileReference, ResultFile, Schema } from "./types.js" */

import { bytes as sizeText } from "./format.js";

/** @type {[number, string, string][]} where the first bytes of a format are, what they are, and its media type */
const SIGNATURES = [
  [0, "\x89PNG\r\n\x1a\n", "image/png"],
  [0, "\xff\xd8\xff", "image/jpeg"],
  [0, "GIF8", "image/gif"],
  [8, "WEBP", "image/webp"],
  [8, "WAVE", "audio/wav"],
  [0, "%PDF", "application/pdf"],
  [4, "ftyp", "video/mp4"],
  [0, "\x1aE\xdf\xa3", "video/webm"],
  [0, "II*\0", "image/tiff"],
  [0, "MM\0*", "image/tiff"],
  [0, "PK\x03\x04", "application/zip"],
  [0, "\x93NUMPY", "application/x-npy"],
];
const ANEW = SIGNATURES.slice(0, 6).map(([, , type]) => type); // their signatures occur only at the start of a file
const MIN_LENGTH = 64; // characters below which a text is not tested for being a file in base64
const MAX_DEPTH = 200;
/** @type {Record<string, string>} */
const SUFFIXES = {
  "application/octet-stream": "bin",
  "audio/mpeg": "mp3",
  "image/jpeg": "jpg",
  "image/svg+xml": "svg",
  "text/plain": "txt",
  "video/quicktime": "mov",
};

/** A file that the orchestrator has, if it says so. @param {unknown} value @returns {value is FileReference} */
export function isReference(value) {
  if (!isRecord(value)) return false;
  const { file, media_type: type, size, sha256, url } = value;
  const texts = [file, type, sha256, url].every((text) => typeof text === "string");
  return texts && typeof size === "number" && size >= 0 && String(url).startsWith("/v1/");
}

/**
 * A value with each inline file replaced by its size, and all its files in their order.
 * @param {unknown} value
 * @param {(reference: FileReference) => boolean} listed whether the orchestrator has it
 * @returns {{ shown: unknown, files: ResultFile[] }}
 */
export function withoutFiles(value, listed) {
  /** @type {ResultFile[]} */
  const files = [];
  /** @param {unknown} inner @param {string} name @param {number} depth @returns {unknown} */
  const look = (inner, name, depth) => {
    if (isReference(inner) && listed(inner)) {
      files.push({ name: inner.file, type: inner.media_type, size: inner.size, url: inner.url });
      return inner;
    }
    const found = inlineFile(inner);
    if (found) {
      files.push({ ...found, name: `${name}.${suffixOf(found.type)}` });
      return isRecord(inner) ? { ...inner, data: placeholder(found) } : placeholder(found);
    }
    if (depth > MAX_DEPTH || typeof inner !== "object" || inner === null) return inner;
    if (Array.isArray(inner)) return inner.map((each, index) => look(each, `${name}-${index + 1}`, depth + 1));
    return Object.fromEntries(Object.entries(inner).map(([key, each]) => [key, look(each, key, depth + 1)]));
  };
  return { shown: look(value, "result", 0), files };
}

/**
 * Puts the parts of a stream's files together. An item of another kind or media type ends a file; so does a picture's first bytes.
 * @param {boolean | null} areBytes whether each text is base64; null where the tool does not say
 */
export function partJoiner(areBytes) {
  /** @type {ResultFile | null} the file whose parts are coming */
  let open = null;
  let typed = false;
  let count = 0;

  /** @param {unknown} item */
  function partOf(item) {
    if (isRecord(item)) return inlineFile(item);
    if (typeof item !== "string" || areBytes === false) return null;
    if (!areBytes && (open === null || typed)) return inlineFile(item);
    const content = decoded(item);
    return content && { type: typeOf(content) ?? "", size: content.length, content: [content] };
  }

  return {
    /**
     * `ended`: a file that is complete now. `shown`: the item without its content.
     * @param {unknown} item
     * @returns {{ ended: ResultFile | null, isPart: boolean, shown: unknown }}
     */
    take(item) {
      const part = partOf(item);
      if (!part) return { ended: this.end(), isPart: false, shown: item };
      const record = isRecord(item);
      const sameKind = open !== null && record === typed && (!record || open.type === part.type);
      const anew = ANEW.includes(part.type) && typeOf(part.content?.[0]) === part.type;
      /** @type {ResultFile | null} */
      let ended = null;
      if (open && sameKind && !anew) {
        open.content?.push(...(part.content ?? []));
        open.size += part.size;
      } else {
        ended = this.end();
        count += 1;
        typed = record;
        const type = part.type || "application/octet-stream";
        open = { ...part, type, name: `result${count > 1 ? `-${count}` : ""}.${suffixOf(type)}` };
      }
      return { ended, isPart: true, shown: record ? { ...item, data: placeholder(part) } : placeholder(part) };
    },
    /** The file whose parts have come. */
    end() {
      const ended = open;
      open = null;
      return ended;
    },
  };
}

/** Whether a text that fits a tool's output schema is base64; null where it does not say. @param {Schema | null | undefined} schema */
export function textsAreBytes(schema) {
  if (!schema) return null;
  const texts = (schema.anyOf ?? [schema]).filter((each) => !each.$ref && (each.type ?? "string") === "string");
  return texts.length > 0 && texts.every((each) => each.contentEncoding === "base64");
}

/**
 * `{ media_type, data }`, a data URI, or base64 of a format that is known by its first bytes.
 * @param {unknown} value
 * @returns {Omit<ResultFile, "name"> | null}
 */
function inlineFile(value) {
  if (isRecord(value)) {
    const { media_type: type, data } = value;
    if (typeof type !== "string" || !type.includes("/") || typeof data !== "string") return null;
    const content = decoded(data);
    return content && { type, size: content.length, content: [content] };
  }
  if (typeof value !== "string") return null;
  const uri = /^data:([\w.+-]+\/[\w.+-]+);base64,/.exec(value.slice(0, 200));
  if (!uri && value.length < MIN_LENGTH) return null;
  const content = decoded(uri ? value.slice(uri[0].length) : value);
  const type = uri?.[1] ?? typeOf(content);
  return content && type ? { type, size: content.length, content: [content] } : null;
}

/** @param {string} text @returns {Uint8Array<ArrayBuffer> | null} */
function decoded(text) {
  if (!/^[A-Za-z0-9+/\s]*={0,2}\s*$/.test(text.slice(0, MIN_LENGTH))) return null; // most texts are none
  try {
    const binary = atob(text);
    const content = new Uint8Array(binary.length);
    for (let at = 0; at < binary.length; at += 1) content[at] = binary.charCodeAt(at);
    return content;
  } catch {
    return null;
  }
}

/** The media type by the first bytes. @param {Uint8Array | null | undefined} content */
function typeOf(content) {
  if (!content) return null;
  const start = String.fromCharCode(...content.subarray(0, 16));
  return SIGNATURES.find(([at, text]) => start.startsWith(text, at))?.[2] ?? null;
}

/** @param {string} type */
function suffixOf(type) {
  const plain = type.split(";")[0]?.trim() ?? "";
  const subtype = (plain.split("/")[1] ?? "").replace(/^x-/, "");
  return SUFFIXES[plain] ?? (/^[a-z0-9]{1,8}$/i.test(subtype) ? subtype : "bin");
}

/** @param {{ size: number }} file */
const placeholder = ({ size }) => `… (${sizeText(size)})`;

/** @param {unknown} value @returns {value is Record<string, unknown>} */
function isRecord(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
