/* Browsers start no worker for a page that was opened as a file, so the search would not work without a server.
   In its place a hidden frame runs the worker's script; messages go back and forth as with a worker. */
if (location.protocol === 'file:') {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement('iframe');
      const waiting = [];
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      inside.postMessage = data => this.dispatchEvent(new MessageEvent('message', {data}));
      inside.importScripts = (...urls) => Promise.all(urls.map(one => load(inside.document, one)));
      this.send = data => waiting.push(data);
      load(inside.document, url).then(() => {
        this.send = data => inside.dispatchEvent(new MessageEvent('message', {data}));
        waiting.forEach(this.send);
      });
    }
    postMessage(data) { this.send(data); }
    terminate() {}
  };
  window.Worker = window.IFrameWorker;
  function load(page, url) {
    return new Promise((done, failed) => {
      const script = page.createElement('script');
      script.src = url;
      script.onload = done;
      script.onerror = failed;
      page.head.append(script);
    });
  }
}
