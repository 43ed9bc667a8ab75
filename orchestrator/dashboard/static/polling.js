/** Polling while a view is open. */

/**
 * Calls `load` at once, and again `interval` milliseconds after each call ends; not while the page is hidden. The function returned stops it.
 * @param {number} interval
 * @param {(signal: AbortSignal) => Promise<void>} load
 */
export function poll(interval, load) {
  const stopping = new AbortController();
  const round = async () => {
    if (!document.hidden) await load(stopping.signal);
    if (!stopping.signal.aborted) setTimeout(round, interval);
  };
  void round();
  return () => stopping.abort();
}
