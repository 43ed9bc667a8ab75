/** Rectangles in a tool's result. Pure. */

/** @import { Box } from "./types.js" */

const MAX_BOXES = 2000;
const MAX_DEPTH = 6;

/**
 * All objects that are rectangles: `x, y, width, height`; `left, top, right, bottom`; `x1, y1, x2, y2`; or one of these, or four numbers,
 * under `box` (its corners), `bbox` (corner and size, as in COCO) or `xyxy`. In pixels.
 * @param {unknown} value
 * @returns {Box[]}
 */
export function boxesIn(value) {
  /** @type {Box[]} */
  const found = [];
  collect(value, found, 0);
  return found;
}

/** The picture's size in pixels if the result has it; its boxes refer to that. @param {unknown} value */
export function sizeIn(value) {
  if (!isRecord(value)) return null;
  const [width, height] = [value["width"], value["height"]];
  return isNumber(width) && isNumber(height) && !isNumber(value["x"]) && width > 0 && height > 0
    ? { width, height }
    : null;
}

/** @param {unknown} value @param {Box[]} found @param {number} depth */
function collect(value, found, depth) {
  if (depth > MAX_DEPTH || found.length >= MAX_BOXES) return;
  if (Array.isArray(value)) for (const item of value) collect(item, found, depth + 1);
  else if (isRecord(value)) {
    const box = boxOf(value);
    if (box) found.push({ ...box, label: labelOf(value) });
    else for (const item of Object.values(value)) collect(item, found, depth + 1);
  }
}

/** @param {Record<string, unknown>} record @returns {Omit<Box, "label"> | null} */
function boxOf(record) {
  return (
    rectangle(record) ??
    (isRecord(record["box"]) ? rectangle(record["box"]) : null) ??
    (isRecord(record["bbox"]) ? rectangle(record["bbox"]) : null) ??
    corners(record["box"]) ??
    corners(record["xyxy"]) ??
    cornerAndSize(record["bbox"])
  );
}

/** @param {Record<string, unknown>} record */
function rectangle({ x, y, width, height, left, top, right, bottom, x1, y1, x2, y2 }) {
  return cornerAndSize([x, y, width, height]) ?? corners([left, top, right, bottom]) ?? corners([x1, y1, x2, y2]);
}

/** @param {unknown} value */
function cornerAndSize(value) {
  const [x, y, width, height] = four(value);
  return x === undefined || y === undefined || width === undefined || height === undefined || width < 0 || height < 0
    ? null
    : { x, y, width, height };
}

/** @param {unknown} value */
function corners(value) {
  const [x, y, right, bottom] = four(value);
  return x === undefined || y === undefined || right === undefined || bottom === undefined
    ? null
    : cornerAndSize([x, y, right - x, bottom - y]);
}

/** @param {unknown} value @returns {number[]} */
function four(value) {
  return Array.isArray(value) && value.length === 4 && value.every(isNumber) ? value : [];
}

/** @param {Record<string, unknown>} record */
function labelOf(record) {
  const name = ["label", "text", "class_name", "class", "name"]
    .map((field) => record[field])
    .find((text) => typeof text === "string" && text);
  const id = record["id"] ?? record["track_id"];
  const score = record["score"] ?? record["confidence"];
  const words = [name, isNumber(id) || typeof id === "string" ? `#${id}` : null, isNumber(score) ? score : null];
  return words.filter((word) => word !== null && word !== undefined).join(" ");
}

/** @param {unknown} value @returns {value is number} */
function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** @param {unknown} value @returns {value is Record<string, unknown>} */
function isRecord(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
