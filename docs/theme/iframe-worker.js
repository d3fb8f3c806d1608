// Search in a site that is read from file://, where browsers start no Worker: its script runs in a hidden frame instead.
if (location.protocol === "file:") {
  // In the frame: a message with a target comes from the page, one without is what the script sends to the page.
  const opening = `<script>
    const receive = window.postMessage.bind(window);
    window.postMessage = (data, target) => target === undefined ? parent.postMessage(data, "*") : receive(data, target);
  </script>`;

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = `${opening}<script src="${url}"></script>`;
      this.loaded = new Promise((resolve) => frame.addEventListener("load", () => resolve(frame.contentWindow)));
      window.addEventListener("message", (event) => {
        if (event.source === frame.contentWindow) {
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
        }
      });
      document.body.append(frame);
    }

    postMessage(data) {
      this.loaded.then((frame) => frame.postMessage(data, "*"));
    }
  };
}
