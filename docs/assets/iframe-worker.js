/* The search runs in a worker, and browsers start none from a page that was opened from disk.
   There the same script runs in a hidden frame, which passes messages as a worker does: one at a
   time, each answered once, as the search does. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "search";
      document.body.append(frame);
      this.inside = frame.contentWindow;
      this.inside.document.open();
      this.inside.document.close();
      this.inside.postMessage = (data) => {
        this.answered();
        this.dispatchEvent(new MessageEvent("message", { data }));
      };
      const script = this.inside.document.createElement("script");
      script.src = url;
      this.last = new Promise((resolve, reject) => {
        script.onload = resolve;
        script.onerror = reject;
      });
      this.inside.document.head.append(script);
    }

    postMessage(data) {
      this.last = this.last.then(
        () =>
          new Promise((resolve) => {
            this.answered = resolve;
            this.inside.dispatchEvent(new MessageEvent("message", { data }));
          }),
      );
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  };
}
