/** The page: which view the address names, the state of the connection, what is read aloud. */

/** @import { State } from "./types.js" */

import { offerKey } from "./dialogs.js";
import { setAttribute, setText } from "./dom.js";
import { gpusView } from "./gpus_view.js";
import { follow, live } from "./live.js";
import { pluginView } from "./plugin_view.js";
import { pluginsView } from "./plugins_view.js";
import { runsView } from "./runs_view.js";

/** @typedef {{ element: HTMLElement, heading: HTMLElement, title: string, close: () => void }} View */

const find = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const main = find("main");
/** @type {View | null} */
let view = null;

/** @param {string} address what stands after the `#` */
function viewOf(address) {
  const [, first = "", name = "", part = ""] = address.split("/").map(decoded);
  if (first === "plugins" && name) return pluginView(name, part);
  if (first === "runs") return runsView();
  if (first === "gpus") return gpusView();
  return pluginsView();
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function show() {
  const first = view === null;
  view?.close();
  view = viewOf(location.hash.slice(1));
  main.replaceChildren(view.element);
  document.title = `${view.title} · Plugin orchestrator`;
  for (const link of document.querySelectorAll("nav[aria-label=Main] a")) {
    const [, wanted = ""] = (link.getAttribute("href") ?? "").slice(1).split("/");
    const [, here = ""] = location.hash.slice(1).split("/");
    setAttribute(link, "aria-current", wanted === (here === "plugins" ? "" : here) ? "page" : null);
  }
  if (first) return;
  window.scrollTo(0, 0);
  view.heading.focus({ preventScroll: true });
}

const WORDS = { connecting: "Connecting…", live: "Live", polling: "Asking every 2 s", lost: "Not connected" };

function showConnection() {
  const { connection, problem, since } = live.status();
  const lost = live.known()
    ? `Reconnecting: as of ${since.toLocaleTimeString()}`
    : (problem ?? "Not connected, trying again");
  const element = find("connection");
  setText(element, connection === "lost" ? lost : WORDS[connection]);
  setAttribute(element, "data-connection", connection);
  setAttribute(element, "title", problem);
  setAttribute(document.body, "data-connection", connection);
}

/** @type {Map<string, State>} */
const heard = new Map();

/** A change of state is read aloud. */
function announce() {
  const news = [];
  for (const plugin of live.list()) {
    const before = heard.get(plugin.name);
    heard.set(plugin.name, plugin.state);
    if (before && before !== plugin.state) news.push(`${plugin.name} is now ${plugin.state}. ${plugin.reason ?? ""}`);
  }
  if (news.length) setText(find("announcer"), news.slice(0, 3).join(" "));
}

find("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
offerKey(() => {
  live.reconnect();
  show();
});
window.addEventListener("hashchange", show);
live.watch(showConnection);
live.watch(announce);
show();
void follow();
