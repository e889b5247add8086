// Asks the server: JSON and streams of events, with the API key where there is one.

const KEY = "bytelm-api-key";

/** The server wants another API key than the one it got. */
export class KeyError extends Error {}

/** Keep a key until the tab is closed. */
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

/** The JSON of a GET. */
export const get = async (path, signal) => (await ask(path, { signal })).json();

/** The JSON that answers a POST. */
export const post = async (path, body, signal) => (await ask(path, posted(body, signal))).json();

/** Each JSON event that answers a POST, as it comes. Leaving the loop, or aborting, drops the request. */
export async function* postForEvents(path, body, signal) {
  const response = await ask(path, posted(body, signal));
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let pending = "";
  try {
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      pending += decoder.decode(chunk.value, { stream: true });
      const lines = pending.split(/\r?\n/);
      pending = lines.pop();
      for (const line of lines) {
        // Our events are one line of data each; other lines are pings and separators.
        if (line.startsWith("data:")) yield checked(JSON.parse(line.slice("data:".length)));
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // an aborted body is cancelled already
  }
}

const posted = (body, signal) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
  signal,
});

async function ask(path, options) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`The server does not answer (${error.message}).`, { cause: error });
  }
  if (response.status === 401) throw new KeyError(await messageOf(response));
  if (!response.ok) throw new Error(await messageOf(response));
  return response;
}

async function messageOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `The server answered ${response.status}: ${text.slice(0, 500)}`;
  }
}

function checked(event) {
  if (event.error) throw new Error(event.error.message);
  return event;
}
