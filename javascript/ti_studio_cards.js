// Hands a picture that is dropped on the studio's place for cards, or chosen there, over to the server.
(function () {
    "use strict";
    const LARGEST = 64 * 2 ** 20; // bytes; the server refuses more

    function zoneOf(event) {
        return event.target.closest && event.target.closest(".ti-studio-drop");
    }

    // The server gets a data URL, whatever type the browser takes the file for: it looks at the content.
    function tell(zone, text) {
        const picture = zone.querySelector("img");
        picture.src = text;
        picture.hidden = false;
        const box = gradioApp().querySelector("#ti_studio_card_dropped textarea");
        box.value = text;
        box.dispatchEvent(new Event("input", {bubbles: true})); // gradio knows what was typed only
        // Svelte passes the value on after this turn.
        setTimeout(() => gradioApp().querySelector("#ti_studio_card_look").click());
    }

    function send(zone, file) {
        const reader = new FileReader();
        reader.onload = () => tell(zone, "data:image/png;base64," + reader.result.split(",")[1]);
        if (file && file.size && file.size <= LARGEST) reader.readAsDataURL(file);
    }

    // A picture dragged from a page comes as an address where the browser does not bring its file.
    async function drop(event) {
        const zone = zoneOf(event);
        if (!zone) return;
        event.preventDefault();
        event.stopPropagation();
        zone.classList.remove("ti-studio-over");
        const file = event.dataTransfer.files[0];
        const address = event.dataTransfer.getData("text/uri-list");
        if (file) send(zone, file);
        else if (address) send(zone, await (await fetch(address)).blob());
    }

    function over(event) {
        const zone = zoneOf(event);
        if (!zone) return;
        event.preventDefault(); // without it nothing can be dropped
        zone.classList.toggle("ti-studio-over", event.type === "dragover");
    }

    function choose(event) {
        const zone = zoneOf(event);
        if (!zone) return;
        send(zone, event.target.files[0]);
        event.target.value = ""; // the same file may be chosen again
    }

    onUiLoaded(function () {
        const app = gradioApp();
        for (const kind of ["dragover", "dragleave"]) app.addEventListener(kind, over);
        app.addEventListener("drop", drop);
        app.addEventListener("change", choose);
    });
})();
