// What the page asks of the server: uploads, and calls that wait in Gradio's queue.

export const session = crypto.randomUUID?.() ?? Math.random().toString(36).slice(2);
export const LOST = "The server does not answer. Check your connection and try again; your choices are still here.";
export const urlOf = (file) => `gradio_api/file=${file.path.split("/").map(encodeURIComponent).join("/")}`;

export function upload(file, onPart, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("files", file);
    request.open("POST", "gradio_api/upload");
    request.upload.onprogress = (event) => onPart(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 200) {
        const [path] = JSON.parse(request.responseText);
        resolve({ path, orig_name: file.name, meta: { _type: "gradio.FileData" } });
      } else if (request.status === 413) reject(new Error(`${file.name} is larger than this page accepts. Choose a shorter part, or convert it to FLAC.`));
      else reject(new Error(LOST));
    };
    request.onerror = () => reject(new Error(LOST));
    request.onabort = () => reject(new DOMException("", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

// Calls an endpoint; `onNews` is told the place in the queue and the progress. Resolves to null if it was cancelled.
export async function call(endpoint, data, onNews = () => {}, signal) {
  const hash = `${session}-${Math.random().toString(36).slice(2)}`;
  const post = (path, body) =>
    fetch(`gradio_api/${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ session_hash: hash, ...body }),
    });
  const joined = await post("queue/join", { data, fn_index: endpoint }).catch(() => {
    throw new Error(LOST);
  });
  if (joined.status === 503) throw new Error("Too many people are waiting. Try again in a few minutes.");
  if (!joined.ok) throw new Error(LOST);
  const { event_id } = await joined.json();
  // While it is open the server knows that the visitor is there, and ends the work when not.
  const alive = new EventSource(`gradio_api/heartbeat/${hash}`);
  const news = new EventSource(`gradio_api/queue/data?session_hash=${hash}`);
  try {
    return await new Promise((resolve, reject) => {
      const cancel = () => {
        post("cancel", { fn_index: endpoint, event_id }).catch(() => {});
        resolve(null);
      };
      if (signal?.aborted) cancel();
      signal?.addEventListener("abort", cancel);
      let last = null;
      news.onerror = () => reject(new Error(LOST));
      news.onmessage = ({ data: text }) => {
        const message = JSON.parse(text);
        if (message.msg === "estimation") onNews({ before: message.rank });
        else if (message.msg === "process_starts") onNews({ before: null, text: "Starting" });
        else if (message.msg === "progress") {
          const { index, length, desc } = message.progress_data.at(-1) ?? {};
          onNews({ text: desc, done: index, of: length });
        } else if (message.msg === "process_generating" && message.success) last = message.output.data;
        else if (message.msg === "process_completed" || message.msg === "unexpected_error") {
          if (message.success === false) reject(new Error(message.output?.error ?? message.message ?? LOST));
          else resolve(last ?? message.output.data ?? null);
        }
      };
    });
  } finally {
    alive.close();
    news.close();
  }
}
